"""Tests of the gradient probe's norms against explicit perturbations and closed forms."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import DeepRNN, gradient_probe, make_cell, unroll
from rnn_jax.cells import LSTMCarry
from rnn_jax.parallel import map_runs
from rnn_jax.probes import scaled_norm, tree_norm

T, B, D, H = 6, 2, 2, 3

LENGTHS = np.array([6, 4])
RESETS = np.zeros((T, B), bool)
RESETS[[3, 1], [0, 1]] = True


def draw(seed, *shape):
  return jnp.asarray(0.6 * np.random.default_rng(seed).standard_normal(shape), float)


def problem(name, num_steps=T, **options):
  """Returns (cell, params, xs, probe) of a small layer with random params and inputs."""
  cell = make_cell(name, H, **options)
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  params = {key: draw(i, *leaf.shape) for i, (key, leaf) in enumerate(shapes.items())}
  return cell, params, draw(9, num_steps, B, D), gradient_probe(cell, num_steps, B)


# Tests of the scaled norm


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_scaled_norm_is_the_euclidean_norm(x64, dtype):
  x = np.random.default_rng(0).standard_normal((4, 3, 5, 2)).view(np.complex128)[..., 0]
  x = (x if np.issubdtype(dtype, np.complexfloating) else x.real).astype(dtype)
  rtol = 20 * np.finfo(dtype).eps
  axes = (None, -1, (1, 2))
  norm, by_row, by_block = jax.jit(lambda x: [scaled_norm(x, axis=axis) for axis in axes])(x)
  assert norm.dtype == x.real.dtype
  np.testing.assert_allclose(norm, np.linalg.norm(x), rtol=rtol)
  np.testing.assert_allclose(by_row, np.linalg.norm(x, axis=-1), rtol=rtol)
  np.testing.assert_allclose(by_block, np.sqrt(np.sum(np.abs(x) ** 2, axis=(1, 2))), rtol=rtol)


# The sizes range from about the smallest normal float32 to 2e38, where the norm of a pair,
# √2 · size, is still finite.
@pytest.mark.parametrize("size", [1.2e-38, 1e-30, 1e-19, 1, 1e19, 1e30, 8e37, 9e37, 2e38])
@pytest.mark.parametrize("compiled", [False, True])
def test_scaled_norm_is_right_over_the_whole_float_range(size, compiled):
  x = jnp.array([[size, -size], [0, size], [size, 1.2e-38], [1, 1]], jnp.float32)
  norm = functools.partial(scaled_norm, axis=-1)
  expected = [np.sqrt(2) * size, size, np.hypot(size, 1.2e-38), np.sqrt(2)]
  np.testing.assert_allclose((jax.jit(norm) if compiled else norm)(x), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e20, 1e37])
def test_scaled_norm_is_right_for_compile_time_constants(size):
  x = jnp.full(4, size, jnp.float32)
  np.testing.assert_allclose(jax.jit(lambda: scaled_norm(x))(), 2 * size, rtol=1e-6)


@pytest.mark.parametrize(
  ("x", "norm"),
  [
    ([0, 0], 0),
    ([3e38, 3e38], np.inf),
    ([np.inf, 1], np.inf),
    ([-np.inf, 0], np.inf),
    ([np.nan, 1], np.nan),
    ([np.nan, np.inf], np.nan),
    ([np.nan, 0], np.nan),
  ],
)
def test_scaled_norm_hides_neither_zero_nor_infinity_nor_nan(x, norm):
  # The second row shows that rows do not affect each other.
  x = jnp.array([x, [3, 4]], jnp.float32)
  np.testing.assert_allclose(scaled_norm(x, axis=-1), [norm, 5], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
def test_tree_norm_is_the_norm_of_all_leaves_together(scale):
  tree = {"a": draw(0, 3, 2) * scale, "b": (draw(1, 4) * scale,)}
  flat = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])
  np.testing.assert_allclose(tree_norm(tree), np.linalg.norm(flat), rtol=1e-6)


# Tests of the probe


def perturbed(cell, nudges):
  """Returns a cell that adds nudges[t] to the carry after each step t of `cell`.

  The loss's gradient with respect to nudges[t] is dL/dh_t, whose norm the probe records.
  """

  def project(params, xs, key=None):
    return cell.project(params, xs, key), nudges

  def update(params, carry, drive, recurrent):
    drive, nudge = drive
    return jax.tree.map(jnp.add, cell.update(params, carry, drive, recurrent), nudge)

  def output(params, carry, drive):
    return cell.output(params, carry, drive[0])

  return cell._replace(project=project, update=update, output=output)


def losses(final, ys):
  """Returns three losses: of all steps' outputs, of the last step's output, of the final carry."""
  leaves = jax.tree.leaves(final)
  return jnp.stack(
    [
      jnp.vdot(draw(20, *ys.shape), ys),
      jnp.vdot(draw(21, *ys[-1].shape), ys[-1]),
      sum(jnp.vdot(draw(30 + i, *a.shape), a) for i, a in enumerate(leaves)),
    ]
  )


CUT = {"truncation": 2, "lengths": LENGTHS, "resets": RESETS}


# Lengths, resets, truncation and reversal are tested with a carry of one array, which is also the
# output, and with a carry of two arrays.
@pytest.mark.parametrize(
  ("name", "time"),
  [
    ("elman", {}),
    ("gru", CUT),
    ("lstm", CUT),
    ("lstm", {**CUT, "reverse": True, "remat": "sqrt"}),
  ],
  ids=lambda v: v if isinstance(v, str) else "+".join(v),
)
def test_norms_are_those_of_explicit_perturbations(x64, name, time):
  cell, params, xs, probe = problem(name)

  def probed(probe):
    return losses(*unroll(cell, params, xs, probe=probe, **time))

  def nudged(nudges):
    plain = {**time, "remat": "none", "forward_mode": True}
    return losses(*unroll(perturbed(cell, nudges), params, xs, **plain))

  norms = jax.jit(jax.jacrev(probed))(probe)
  grads = jax.jit(jax.jacrev(nudged))(cell.initial_carry((T, B)))
  explicit = jax.tree.map(lambda a: np.linalg.norm(a, axis=-1), grads)
  chex.assert_trees_all_close(norms, explicit, rtol=1e-10, atol=1e-14)
  assert all(np.any(leaf[0]) for leaf in jax.tree.leaves(norms))


def test_norms_of_a_deep_stack_are_those_of_explicit_perturbations(x64):
  model = DeepRNN([make_cell(name, H) for name in ("gru", "lstm", "elman")])
  xs = draw(9, T, B, D)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), xs))
  variables = jax.tree.map(lambda a: draw(a.size, *a.shape), shapes)
  weights = draw(20, T, B, H)

  def probed(probes):
    return jnp.sum(weights * model.apply(variables, xs, probes=probes)[1])

  def nudged(nudges):
    cells = [perturbed(cell, n) for cell, n in zip(model.cells, nudges, strict=True)]
    return jnp.sum(weights * model.clone(cells=cells).apply(variables, xs)[1])

  nudges = tuple(cell.initial_carry((T, B)) for cell in model.cells)
  explicit = jax.tree.map(lambda a: np.linalg.norm(a, axis=-1), jax.jit(jax.grad(nudged))(nudges))
  norms = jax.jit(jax.grad(probed))(model.probes(xs))
  chex.assert_trees_all_close(norms, explicit, rtol=1e-10)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_probe_changes_neither_result_nor_gradients(name):
  cell, params, xs, probe = problem(name)

  @jax.jit
  def everything(probe):
    def loss(params, xs):
      final, ys = unroll(cell, params, xs, probe=probe, truncation=4)
      return losses(final, ys)[0], (final, ys)

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, xs)

  chex.assert_trees_all_close(everything(probe), everything(None), rtol=1e-6, atol=1e-7)


def test_norms_are_zero_in_the_padding_and_for_examples_outside_the_loss():
  cell, params, xs, probe = problem("lstm")

  def loss(probe):
    _, ys = unroll(cell, params, xs, probe=probe, lengths=LENGTHS)
    return jnp.sum(ys[:, 1])

  norms = jax.jit(jax.grad(loss))(probe)
  for leaf in norms:
    assert not np.any(leaf[:, 0])
    assert not np.any(leaf[4:, 1])
  assert np.all(norms.hidden[:4, 1] > 0)


def test_norms_before_a_reset_exclude_later_losses():
  cell, params, xs, probe = problem("gru")

  def loss(probe):
    return jnp.sum(unroll(cell, params, xs, probe=probe, resets=RESETS)[1][-1])

  norms = jax.jit(jax.grad(loss))(probe)
  np.testing.assert_array_equal(norms > 0, np.arange(T)[:, None] >= [3, 1])


# Tests of the probe under transformations


def norms_of(params, xs, **time):
  cell = make_cell("elman", H)

  def loss(probe):
    return losses(*unroll(cell, params, xs, probe=probe, **time))[0]

  return jax.grad(loss)(gradient_probe(cell, T, B))


compiled_norms = jax.jit(norms_of, static_argnames="remat")


def test_probe_composes_with_jit():
  _, params, xs, _ = problem("elman")
  np.testing.assert_allclose(compiled_norms(params, xs), norms_of(params, xs), rtol=1e-5)


@pytest.mark.parametrize(
  "transform", [jax.vmap, lambda f: functools.partial(jax.lax.map, f)], ids=["vmap", "lax.map"]
)
def test_probe_composes_with_mapping(transform):
  _, params, xs, _ = problem("elman")
  stack = np.stack([xs, 2 * np.asarray(xs)])
  got = jax.jit(transform(lambda x: norms_of(params, x)))(stack)
  expected = [compiled_norms(params, x) for x in stack]
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.timeout(120)
def test_probe_composes_with_pmap():
  _, params, xs, _ = problem("elman")
  scales = np.array([1.0, 2.0], np.float32)
  run = map_runs(lambda scale, state, xs: (state, norms_of(params, scale * xs)), jax.devices()[:2])
  _, got = run(scales, jnp.zeros(2), xs)
  expected = [compiled_norms(params, scale * np.asarray(xs)) for scale in scales]
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("remat", ["step", "sqrt"])
def test_probe_composes_with_rematerialization(remat):
  _, params, xs, _ = problem("elman")
  again = compiled_norms(params, xs, remat=remat)
  np.testing.assert_allclose(again, compiled_norms(params, xs), rtol=1e-5)


# Tests against closed forms


@jax.jit
@functools.partial(jax.grad, argnums=3)
def linear_gradient(params, xs, v, probe):
  cell = make_cell("elman", len(v), activation="linear")
  return jnp.vdot(v, unroll(cell, params, xs, probe=probe)[1][-1, 0])


def linear_norms(w_h, num_steps, v, dtype=float):
  """Returns the norms [T] of dL/dh_t for the linear recurrence h' = h W_h and the loss v · h_T."""
  width, dtype = w_h.shape[0], jax.dtypes.canonicalize_dtype(dtype)
  params = {"w_x": np.zeros((1, width)), "w_h": w_h, "b": np.zeros(width)}
  given = params, np.ones((num_steps, 1, 1)), v, np.zeros((num_steps, 1))
  norms = linear_gradient(*jax.tree.map(lambda a: jnp.asarray(a, dtype), given))
  return np.asarray(norms)[:, 0]


def orthogonal(width, seed=0):
  return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.1])
def test_scaled_orthogonal_recurrence_decays_as_scale_to_the_lag(x64, scale):
  num_steps, v = 50, np.arange(1.0, 9.0)
  norms = linear_norms(scale * orthogonal(8), num_steps, v)
  lag = np.arange(num_steps)[::-1]
  np.testing.assert_allclose(norms, np.linalg.norm(v) * scale**lag, rtol=1e-10)


@pytest.mark.parametrize(("dtype", "longest"), [(jnp.float32, 15), (jnp.float64, 33)])
def test_scalar_weight_three_gives_powers_of_three_to_the_bit(x64, dtype, longest):
  norms = linear_norms(np.array([[3.0]]), longest + 1, np.ones(1), dtype)
  assert norms.dtype == dtype
  assert [int(norm) for norm in norms[::-1]] == [3**k for k in range(longest + 1)]


@pytest.mark.parametrize("log_norm", [-30, -20, 20, 30, 38])
def test_norms_in_float32_are_right_where_their_squares_overflow_or_underflow(log_norm):
  num_steps, v = 101, np.array([1.0, 2.0, 2.0]) / 3
  scale = 10 ** (log_norm / (num_steps - 1))
  norms = linear_norms(scale * orthogonal(3), num_steps, v)
  assert norms.dtype == np.float32
  expected = scale ** np.arange(num_steps)[::-1]
  np.testing.assert_allclose(norms, expected, rtol=1e-4)


def test_probe_has_the_structure_and_precision_of_the_carry(x64):
  for dtype in (jnp.float32, jnp.float64):
    zeros = jnp.zeros((T, B), dtype)
    probe = gradient_probe(make_cell("lstm", H), T, B, dtype)
    chex.assert_trees_all_equal(probe, LSTMCarry(zeros, zeros), strict=True)
