"""Tests of `unroll`: lengths, masks, resets, direction, carries, keys and outputs."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unrolled import (
  CARRIES,
  LENGTHS,
  MASK,
  RESETS,
  B,
  D,
  H,
  T,
  apart,
  assert_close,
  draw,
  everything,
  problem,
  score,
  together,
)

from rnn_jax import unroll
from rnn_jax.cells import zoneout
from rnn_jax.time_loop import valid_steps

pytestmark = pytest.mark.usefixtures("x64")


ALL = {"lengths": LENGTHS, "resets": RESETS, "truncation": 2, "reverse": True}


@pytest.mark.parametrize(
  ("name", "time"),
  [
    ("lstm", ALL),
    ("gru", {"lengths": LENGTHS, "resets": RESETS}),
    ("elman", {"lengths": LENGTHS, "truncation": 3, "reverse": True}),
    ("lstm", ALL | {"mask": MASK}),
    ("gru", {"mask": MASK, "resets": RESETS & MASK, "truncation": 2, "clip_carry": 0.5}),
    ("clockwork", {"mask": MASK, "remat": "sqrt"}),
  ],
  ids=lambda v: v if isinstance(v, str) else "+".join(v),
)
def test_sequences_in_a_batch_do_not_affect_each_other(name, time):
  cell, arrays = problem(name)
  assert_close(together(cell, **time)(*arrays), apart(cell, **time)(*arrays))


@pytest.mark.parametrize("name", CARRIES)
@pytest.mark.parametrize(
  "time", [{"lengths": LENGTHS, "reverse": True}, {"mask": MASK}], ids="+".join
)
def test_inputs_at_skipped_steps_change_nothing(name, time):
  cell, (params, xs, carry, probe) = problem(name)
  padding = ~np.asarray(valid_steps(T, time.get("lengths"), time.get("mask")))
  run = together(cell, **time)
  clean = run(params, xs, carry, probe)
  for garbage in (np.nan, np.inf, 1e30):
    dirty = run(params, jnp.where(padding[..., None], garbage, xs), carry, probe)
    chex.assert_trees_all_equal(dirty, clean)
  (_, xs_bar, _, norms), (_, ys) = clean
  for a in (xs_bar, ys, *jax.tree.leaves(norms)):
    assert not np.any(np.asarray(a)[padding])


@pytest.mark.parametrize("name", CARRIES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
  "skip", [{"lengths": np.zeros(B, int)}, {"mask": np.zeros((T, B), bool)}], ids="+".join
)
def test_sequences_without_valid_steps_return_the_initial_carry_and_no_output(name, reverse, skip):
  cell, (params, xs, carry, _) = problem(name)
  time = {**skip, "reverse": reverse, "truncation": 2}
  final, ys = jax.jit(functools.partial(unroll, cell, **time))(params, xs, carry)
  chex.assert_trees_all_equal((final, ys), (carry, jnp.zeros((T, B, H))))


# These cells have every kind of carry: a pair of arrays, complex numbers, an integer step counter,
# earlier carries, and a single array.
@pytest.mark.parametrize(
  ("name", "time"),
  [
    ("lstm", {}),
    ("lstm", {"forward_mode": True}),
    ("lru", {"reverse": True}),
    ("lru", {"method": "associative"}),
    ("clockwork", {"reverse": True}),
    ("dilated_elman", {"remat": "step"}),
    ("gru", {"reverse": True, "remat": "sqrt"}),
  ],
  ids=lambda v: v if isinstance(v, str) else "+".join(v),
)
def test_a_mask_equals_a_scan_that_selects_the_old_carry(name, time):
  cell, (params, xs, carry, probe) = problem(name)
  resets = ~MASK | RESETS
  resets[5] = False  # of two successive skipped steps, only the first has a reset

  def by_hand(params, xs, carry, probe):
    del probe
    params = cell.prepare(params)

    def where(condition, yes, no):
      return jax.tree.map(
        lambda a, b: jnp.where(jnp.expand_dims(condition, range(1, a.ndim)), a, b), yes, no
      )

    def body(carry, inputs):
      drive, mask, reset = inputs
      carry = where(reset, jax.tree.map(jnp.zeros_like, carry), carry)
      new = cell.update(params, carry, drive, cell.recur(params, carry))
      y = cell.output(params, new, drive)
      return where(mask, new, carry), where(mask, y, jnp.zeros_like(y))

    inputs = cell.project(params, xs), MASK, resets
    return jax.lax.scan(body, carry, inputs, reverse=time.get("reverse", False))

  given = params, xs, carry, probe
  ours = together(cell, mask=MASK, resets=resets, **time)(*given)
  (*grads, _), result = everything(by_hand)(*given)
  assert_close((ours[0][:3], ours[1]), (tuple(grads), result))


@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_are_a_mask_of_the_first_steps(reverse):
  cell, arrays = problem("lstm")
  time = {"truncation": 2, "reverse": reverse}
  mask = np.arange(T)[:, None] < LENGTHS
  chex.assert_trees_all_equal(
    together(cell, mask=mask, **time)(*arrays), together(cell, lengths=LENGTHS, **time)(*arrays)
  )


def test_a_reset_at_a_skipped_step_acts_at_the_next_step_that_runs():
  cell, arrays = problem("lstm")
  mask, early, late = np.ones((T, B), bool), np.zeros((T, B), bool), np.zeros((T, B), bool)
  mask[2:4], early[2], late[4] = False, True, True
  run = functools.partial(together, cell, mask=mask, truncation=2)
  assert_close(run(resets=early)(*arrays), run(resets=late)(*arrays))


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.int64])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_may_be_of_any_integer_dtype(dtype, reverse):
  cell, (params, xs, carry, _) = problem("elman")
  run = functools.partial(unroll, cell, params, xs, carry, truncation=2, reverse=reverse)
  chex.assert_trees_all_equal(
    run(lengths=jnp.asarray(LENGTHS, dtype)), run(lengths=jnp.asarray(LENGTHS))
  )


@pytest.mark.parametrize("time", [{"lengths": LENGTHS}, ALL], ids="+".join)
def test_tokens_equal_their_one_hot_vectors_under_all_time_arguments(time):
  cell, (params, _, carry, _) = problem("gru")
  tokens = np.random.default_rng(0).integers(0, D, (T, B))
  run = jax.jit(functools.partial(unroll, cell, params, carry=carry, **time))
  assert_close(run(jnp.asarray(tokens)), run(jnp.asarray(np.eye(D)[tokens])))


@pytest.mark.parametrize("name", CARRIES)
def test_reverse_equals_forward_on_flipped_inputs(name):
  cell, (params, xs, carry, _) = problem(name)
  final, ys = unroll(cell, params, xs, carry, reverse=True)
  flipped_final, flipped_ys = unroll(cell, params, xs[::-1], carry)
  assert_close((final, ys[::-1]), (flipped_final, flipped_ys))


@pytest.mark.parametrize("name", CARRIES)
def test_two_halves_equal_the_whole(name):
  cell, arrays = problem(name)

  def halves(params, xs, carry, probe):
    early, late = (jax.tree.map(lambda a, at=at: a[at], probe) for at in np.s_[:3, 3:])
    carry, first = unroll(cell, params, xs[:3], carry, probe=early)
    carry, second = unroll(cell, params, xs[3:], carry, probe=late)
    return carry, jnp.concatenate([first, second])

  assert_close(everything(halves)(*arrays), together(cell)(*arrays))


def test_no_carry_is_the_zero_carry():
  cell, (params, xs, carry, _) = problem("lstm")
  zeros = jax.tree.map(jnp.zeros_like, carry)
  chex.assert_trees_all_equal(unroll(cell, params, xs), unroll(cell, params, xs, zeros))


def test_unrolling_the_compiled_loop_changes_nothing():
  cell, arrays = problem("elman")
  rolled = together(cell, truncation=3)(*arrays)
  for remat, num_unrolled in (("none", 2), ("none", 100), ("sqrt", 2)):
    unrolled = together(cell, truncation=3, scan_unroll=num_unrolled, remat=remat)(*arrays)
    assert_close(unrolled, rolled)


# Transformations


@pytest.mark.parametrize("time", [{}, {**ALL, "remat": "sqrt"}], ids=["plain", "all"])
def test_forward_mode_agrees_with_reverse_mode(time):
  cell, (*arrays, _) = problem("gru")
  direction = jax.tree.map(lambda a: draw(40, *a.shape), tuple(arrays))

  def loss(*arrays):
    return score(unroll(cell, *arrays, forward_mode=True, **time))

  _, forward = jax.jit(lambda: jax.jvp(loss, tuple(arrays), direction))()
  grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)
  pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
  np.testing.assert_allclose(forward, sum(np.vdot(g, d) for g, d in pairs))


def test_init_need_not_be_hashable():
  cell, (params, xs, carry, _) = problem("elman")

  class Init:
    __hash__ = None

    def __call__(self, key, input_size, dtype=jnp.float32):
      return cell.init(key, input_size, dtype)

  _, expected = unroll(cell, params, xs, carry)
  _, ys = unroll(cell._replace(init=Init()), params, xs, carry)
  np.testing.assert_array_equal(ys, expected)


def test_params_may_be_mapped():
  cell, (params, *arrays) = problem("elman")
  stacked = jax.tree.map(lambda a: jnp.stack([a, -a]), params)
  run = together(cell, lengths=LENGTHS, truncation=3)
  mapped = jax.vmap(lambda params: run(params, *arrays))(stacked)
  for i, sign in enumerate((1, -1)):
    one = run(jax.tree.map(lambda a, sign=sign: sign * a, params), *arrays)
    assert_close(jax.tree.map(lambda a, i=i: a[i], mapped), one)


def test_stochastic_cell_draws_from_the_key_for_all_time_at_once():
  cell, (params, xs, carry, _) = problem("gru")

  def project(params, xs, key=None):
    drive = cell.project(params, xs)
    return drive * jax.random.bernoulli(key, 0.5, drive.shape).astype(drive.dtype)

  noisy = cell._replace(project=project)
  run = jax.jit(lambda key: unroll(noisy, params, xs, carry, key=key)[1])
  first, same, other = (run(jax.random.key(k)) for k in (0, 0, 1))
  np.testing.assert_array_equal(first, same)
  assert not np.any(np.isclose(first, other).all(axis=(1, 2)))


@pytest.mark.usefixtures("unchecked_types")  # jaxtyping does not accept a raw key as a `Key`
@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_a_key_may_be_of_any_generator_typed_or_raw(implementation):
  elman, (params, xs, carry, _) = problem("elman")
  cell = zoneout(elman, 0.3)
  key = jax.random.key(5, impl=implementation)
  with jax.default_prng_impl(implementation):
    run = jax.jit(lambda key: unroll(cell, params, xs, carry, key=key)[1])
    typed, raw = run(key), run(jax.random.key_data(key))
  np.testing.assert_array_equal(typed, raw)
  assert np.any(np.asarray(typed) != unroll(cell, params, xs, carry)[1])


def test_output_may_be_a_pytree_and_is_zero_in_the_padding():
  cell, (params, xs, carry, _) = problem("lstm")

  def output(params, carry, drive):
    return carry, {"twice": 2 * cell.output(params, carry, drive)}

  _, (carries, ys) = unroll(cell._replace(output=output), params, xs, carry, lengths=LENGTHS)
  np.testing.assert_allclose(ys["twice"], 2 * carries.hidden)
  assert not np.any(carries.cell[4:, 1])
