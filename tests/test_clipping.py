"""Tests of clipping dL/dh_t, against a backward pass that is written as a Python loop."""

from __future__ import annotations

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import gradient_probe, make_cell, step, unroll
from rnn_jax.clipping import check, clip_cotangent, was_clipped

T, B, D, H = 7, 3, 2, 4
LENGTHS = np.array([7, 4, 6])
RESETS = np.zeros((T, B), bool)
RESETS[[3, 5], [0, 2]] = True
TIMES = [
  {},
  {"truncation": 3, "lengths": LENGTHS, "resets": RESETS},
  {"truncation": 2, "lengths": LENGTHS, "reverse": True, "remat": "step"},
  {"resets": RESETS, "remat": "sqrt", "reverse": True},
]


def draw(seed, like):
  random = np.random.default_rng(seed)
  return jax.tree.map(lambda a: jnp.asarray(random.standard_normal(a.shape), a.dtype), like)


def problem(name):
  cell = make_cell(name, H)
  params = draw(1, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)))
  carry = draw(2, cell.initial_carry((B,)))
  return cell, params, draw(3, jax.ShapeDtypeStruct((T, B, D), float)), carry


def weights():
  """Returns the fixed random weights of the loss Σ weights · ys."""
  return draw(4, jax.ShapeDtypeStruct((T, B, H), float))


def joint_norm(tree):
  return np.sqrt(sum(np.sum(np.square(leaf), axis=-1) for leaf in jax.tree.leaves(tree)))


@functools.cache
def pieces(name):
  """Returns three compiled functions of a cell: its step, the vjp of `output`, the step's vjp."""
  cell, *_ = problem(name)

  @jax.jit
  def forward(params, start, x):
    return step(cell, params, start, cell.project(params, x))

  @jax.jit
  def through_output(params, carry, y_bar):
    return jax.vjp(lambda carry: cell.output(params, carry, None), carry)[1](y_bar)[0]

  @jax.jit
  def through_step(params, start, x, carry_bar):
    return jax.vjp(forward, params, start, x)[1](carry_bar)

  return forward, through_output, through_step


def by_hand(name, limit, *, truncation=T, lengths=(T,) * B, resets=None, reverse=False, remat=""):
  """Computes the clipped gradients by a Python loop over time.

  Args:
    name: the cell.
    limit: the threshold to which the norm of an example's dL/dh_t is clipped, taken over all leaves
      of the carry.
    truncation: number of steps after which the gradient is cut. `truncation`, `lengths`, `resets`,
      `reverse` and `remat` are arguments of `unroll`.
    lengths: number of valid steps of each example.
    resets: where the carry is reset, [T, B].
    reverse: whether time runs backward.
    remat: ignored, since it changes no values.
  Returns:
    ((gradients of params, xs and the initial carry), norms of dL/dh_t before clipping [T, B]).
  """
  del remat
  forward, through_output, through_step = pieces(name)
  params, xs, carry = jax.tree.map(np.asarray, problem(name)[1:])
  resets = np.zeros((T, B), bool) if resets is None else resets
  count = np.zeros(B, int)  # steps since each example's sequence began or was reset
  nothing = jax.tree.map(np.zeros_like, carry)

  def where(condition, yes, no):
    return jax.tree.map(lambda a, b: np.where(condition[:, None], a, b), yes, no)

  history = []
  for t in range(T)[::-1] if reverse else range(T):
    valid = t < np.array(lengths)
    count = np.where(resets[t], 0, count)
    cut = (count > 0) & (count % truncation == 0)
    start = where(resets[t], nothing, carry)
    carry = where(valid, forward(params, start, xs[t]), carry)
    history.append((t, valid, cut | resets[t], start, carry))
    count = count + valid

  params_bar, xs_bar = jax.tree.map(np.zeros_like, params), np.zeros_like(xs)
  norms, carry_bar = np.zeros((T, B)), nothing
  for t, valid, stops, start, carry in reversed(history):
    held, total = where(valid, nothing, carry_bar), where(valid, carry_bar, nothing)
    y_bar = np.where(valid[:, None], np.asarray(weights())[t], 0)
    total = jax.tree.map(np.add, total, through_output(params, carry, y_bar))
    norms[t] = joint_norm(total)
    scale = limit / np.maximum(norms[t], limit)
    clipped = jax.tree.map(lambda g, s=scale: g * s[:, None], total)
    more, start_bar, xs_bar[t] = through_step(params, start, xs[t], clipped)
    params_bar = jax.tree.map(np.add, params_bar, more)
    carry_bar = jax.tree.map(np.add, held, where(stops, nothing, start_bar))
  return (params_bar, xs_bar, carry_bar), norms


@pytest.mark.parametrize(
  ("name", "time", "forward_mode"),
  [
    ("elman", TIMES[1], False),
    *(("lstm", time, False) for time in TIMES[1:]),
    ("lstm", TIMES[0], True),
  ],
  ids=lambda v: "+".join(v) if isinstance(v, dict) else str(v),
)
def test_gradients_equal_those_of_the_python_loop(x64, name, time, forward_mode):
  cell, params, xs, carry = problem(name)

  @jax.jit
  def gradients(limit):
    def loss(params, xs, carry, probe):
      given = {"probe": probe, "clip_carry": limit, "forward_mode": forward_mode, **time}
      return jnp.vdot(weights(), unroll(cell, params, xs, carry, **given)[1])

    return jax.grad(loss, argnums=(0, 1, 2, 3))(params, xs, carry, gradient_probe(cell, T, B))

  for limit in (1.5, 1e9):  # some norms are above 1.5, none is above 1e9
    expected, norms = by_hand(name, limit, **time)
    assert (norms > limit).any() == (limit < 1e6)
    *got, probed = gradients(limit)
    chex.assert_trees_all_close(tuple(got), expected, rtol=1e-10, atol=1e-12)
    joint = joint_norm(jax.tree.map(lambda a: np.array(a)[..., None], probed))
    np.testing.assert_allclose(joint, norms, rtol=1e-10)
    (acted,) = was_clipped([probed], limit)
    np.testing.assert_array_equal(acted, norms > limit)


def test_infinite_threshold_clips_nothing_in_the_same_compiled_program(x64):
  cell, params, xs, carry = problem("lstm")

  def gradients(limit):
    def loss(params, xs, carry):
      return jnp.vdot(weights(), unroll(cell, params, xs, carry, clip_carry=limit)[1])

    return jax.grad(loss, argnums=(0, 1, 2))(params, xs, carry)

  run = jax.jit(chex.assert_max_traces(gradients, n=1))
  plain = jax.jit(functools.partial(gradients, None))()
  chex.assert_trees_all_equal(run(math.inf), plain)
  assert not np.allclose(run(0.1)[0]["w_h"], plain[0]["w_h"])


def handed_on(tree, limit):
  """Returns the cotangent that `clip_cotangent` makes from the cotangent `tree` of its result."""
  return jax.jit(lambda t: jax.vjp(lambda c: clip_cotangent(c, limit), t)[1](t)[0])(tree)


@pytest.mark.parametrize("limit", [1e-37, 1e-3, 1e20])
def test_the_norm_is_right_over_the_whole_float_range(limit):
  # At 3e38, the joint norm of an example, 3 · 3e38, is above the largest float32.
  size = np.array([1e-36, 1e-20, 1.0, 1e19, 3e38], np.float32)
  tree = {"h": jnp.tile(size[:, None], 3), "c": -jnp.tile(size[:, None, None], (1, 3, 2))}
  got = jax.tree.map(np.float64, handed_on(tree, jnp.float32(limit)))
  flat = np.concatenate([got["h"], got["c"].reshape(5, -1)], axis=-1)
  expected = np.minimum(3 * np.float64(size), np.float32(limit))
  np.testing.assert_allclose(np.sqrt(np.sum(flat**2, axis=-1)), expected, rtol=1e-5)
  np.testing.assert_allclose(got["h"], -got["c"][..., 0])


def test_examples_are_clipped_separately_and_non_finite_ones_pass_unchanged():
  rows = np.array([[3, 4], [0.3, 0.4], [0, 0], [np.inf, 1], [np.nan, 5]], np.float32)
  got = handed_on((jnp.asarray(rows),), jnp.float32(1))[0]
  np.testing.assert_allclose(got[0], [0.6, 0.8], rtol=1e-6)
  np.testing.assert_array_equal(got[1:], rows[1:])
  norms = jnp.asarray([[5, 0.5, 0, np.inf, np.nan]], np.float32)
  np.testing.assert_array_equal(was_clipped([norms], 1.0)[0], [[True, *[False] * 4]])


def test_complex_leaves_are_clipped_and_integer_leaves_ignored():
  carry = (jnp.asarray([[3 + 4j, 0]], jnp.complex64), jnp.zeros((), jnp.int32))

  def loss(z):
    z, _ = clip_cotangent((z, carry[1]), jnp.float32(1.0))
    return jnp.sum((z * 2).real)

  gradient = jax.jit(jax.grad(loss))(carry[0])
  np.testing.assert_allclose(gradient, [[1 / np.sqrt(2)] * 2], rtol=1e-6)


def test_second_derivatives_are_finite_where_cotangents_are_zero(x64):
  # Past an example's end its cotangents are zero, where the norm is not differentiable. So second
  # derivatives, forward over reverse in this test, could become NaN.
  cell, params, xs, carry = problem("elman")

  @jax.jit
  def squares(params):
    def loss(params):
      _, ys = unroll(cell, params, xs, carry, clip_carry=1.0, lengths=LENGTHS)
      return jnp.vdot(weights(), ys)

    return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(params)))

  direction = draw(9, params)
  _, got = jax.jit(functools.partial(jax.jvp, squares))((params,), (direction,))
  ends = [
    squares(jax.tree.map(lambda a, b, s=sign: a + s * 1e-6 * b, params, direction))
    for sign in (1, -1)
  ]
  np.testing.assert_allclose(got, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize(
  ("threshold", "error", "message"),
  [
    (0, ValueError, "clip_carry must be greater than 0, got 0"),
    (-math.inf, ValueError, "clip_carry must be finite, got -inf"),
    (math.nan, ValueError, "clip_carry must be finite, got nan"),
    ("1", TypeError, "clip_carry must be a number, got '1'"),
    (np.ones(2), TypeError, "clip_carry must be a number"),
  ],
)
def test_a_wrong_threshold_is_refused_by_name(x64, unchecked_types, threshold, error, message):
  cell, params, xs, _ = problem("elman")
  with pytest.raises(error, match=message):
    unroll(cell, params, xs, clip_carry=threshold)


def test_a_traced_threshold_is_a_real_scalar():
  for wrong in (jnp.ones(2), jnp.ones((), bool)):
    with pytest.raises(TypeError, match="clip_carry must be a real scalar, got"):
      jax.jit(functools.partial(check, "clip_carry"))(wrong)
