"""Zoneout: its equations in NumPy, its masks, its mean over masks, and the rates 0 and 1."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import step, unroll
from rnn_jax.cells import LSTMCarry, elman, gru, lstm, zoneout

T, B, D, H = 6, 3, 2, 4

pytestmark = pytest.mark.usefixtures("x64")
close = functools.partial(chex.assert_trees_all_close, rtol=1e-12, atol=1e-14)


def draw(seed, like):
  random = np.random.default_rng(seed)
  return jax.tree.map(lambda a: jnp.asarray(0.6 * random.standard_normal(a.shape)), like)


def problem(cell, num_steps=T, batch_size=B):
  params = draw(1, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)))
  carry = draw(2, cell.initial_carry((batch_size,)))
  return params, carry, draw(3, jax.ShapeDtypeStruct((num_steps, batch_size, D), float))


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("keyed", [True, False])
def test_zoneout_lstm_matches_the_paper(keyed):
  rates = LSTMCarry(hidden=0.3, cell=0.5)
  cell, key = zoneout(lstm(H), rates), jax.random.key(5) if keyed else None
  params, carry, xs = problem(cell)
  _, ys = jax.jit(lambda *given: unroll(cell, *given, key=key))(params, xs, carry)
  kept = cell.project(params, xs, key)[1] if keyed else [np.full((T, B, H), p) for p in rates]
  h, c = map(np.asarray, carry)
  for x, d_h, d_c, y in zip(xs, *map(np.asarray, kept), ys, strict=True):
    i, f, g, o = np.split(x @ params["w_x"] + h @ params["w_h"] + params["b"][None], 4, axis=-1)
    candidate = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = d_h * h + (1 - d_h) * sigmoid(o) * np.tanh(candidate)
    c = d_c * c + (1 - d_c) * candidate
    np.testing.assert_allclose(y, h, rtol=1e-12)


def test_rate_1_holds_the_carry_and_rate_0_is_the_cell():
  base = lstm(H)
  params, carry, xs = problem(base)

  @jax.jit
  def final(params, carry, xs):
    given = params, xs, carry
    still, moved = zoneout(base, 1), zoneout(base, LSTMCarry(0.0, 0.0))
    key = jax.random.key(0)
    cells = [(still, None), (still, key), (moved, None), (moved, key)]
    return [unroll(cell, *given, key=key)[0] for cell, key in cells], unroll(base, *given)[0]

  (held, held_too, *free), expected = final(params, carry, xs)
  chex.assert_trees_all_equal(held, held_too, carry)
  for result in free:
    close(result, expected)


def test_a_step_without_a_key_is_the_mean_over_keys():
  # A step is linear in its mask, so the mean over random masks differs from the step with the mean
  # mask only by the sampling error.
  cell, num_keys = zoneout(gru(H), 0.3), 4000
  params, carry, xs = problem(cell)

  @jax.jit
  def steps(keys):
    def one(key):
      return step(cell, params, carry, cell.project(params, xs[0], key))

    return jax.vmap(one)(keys), one(None)

  drawn, mean = steps(jax.random.split(jax.random.key(0), num_keys))
  error = np.abs(np.mean(drawn, axis=0) - mean) / (np.std(drawn, axis=0) / num_keys**0.5)
  assert np.max(error) < 4.5


def test_masks_are_independent_and_have_their_rates():
  rates = LSTMCarry(hidden=0.1, cell=0.6)
  cell = zoneout(lstm(50), rates)
  params, _, xs = problem(cell, num_steps=20, batch_size=10)
  masks = jax.jit(lambda key: cell.project(params, xs, key)[1])(jax.random.key(1))
  chex.assert_shape(masks, (20, 10, 50))
  for mask, rate in zip(masks, rates, strict=True):
    assert mask.dtype == bool
    assert abs(np.mean(mask) - rate) < 4 * (rate * (1 - rate) / mask.size) ** 0.5
    # The mask must differ between steps, examples and units.
    for axis in range(3):
      assert np.any(mask != jnp.roll(mask, 1, axis))
  # Independent masks of rates 0.1 and 0.6 are both set in a share 0.06 of the entries; masks from
  # one shared draw would both be set in a share 0.1.
  assert abs(np.mean(masks.hidden & masks.cell) - 0.06) < 0.01


def test_step_jacobian_mixes_identity_and_wrapped_cells_jacobian_by_the_rate():
  base, rate = elman(H), 0.4
  params, carry, xs = problem(base)

  @jax.jit
  def jacobians(h, key):
    def of(cell, key):
      drive = cell.project(params, xs[0, 0], key)
      return jax.jacfwd(lambda h: step(cell, params, h, drive))(h), drive

    cell = zoneout(base, rate)
    return of(base, None)[0], of(cell, None)[0], *of(cell, key)

  own, mean, drawn, (_, kept) = jacobians(carry[0], jax.random.key(1))
  close(mean, rate * np.eye(H) + (1 - rate) * own)
  close(drawn, np.where(kept[:, None], np.eye(H), own))
  assert 0 < np.sum(kept) < H


def test_nested_zoneouts_draw_different_masks():
  # If both nested zoneouts used the same key, they would draw the same mask.
  cell = zoneout(zoneout(elman(H), 0.5), 0.5)
  params, _, xs = problem(cell)
  (_, inner), outer = cell.project(params, xs, jax.random.key(0))
  assert np.any(inner != outer)


def test_masks_for_tokens_have_the_shape_of_the_drive():
  cell = zoneout(elman(H), 0.5)
  params, _, _ = problem(cell)
  tokens = np.arange(T * B).reshape(T, B) % D
  drive, masks = cell.project(params, jnp.asarray(tokens), jax.random.key(0))
  chex.assert_shape([drive, masks], (T, B, H))


def test_an_integer_next_to_a_complex_carry_leaf_is_always_updated():
  base = elman(H)._replace(
    initial_carry=lambda shape, dtype=float: (
      jnp.zeros((*shape, H), complex),
      jnp.zeros(shape, int),
    ),
    recur=lambda params, carry: (),
    update=lambda params, carry, drive, recurrent: (
      1j * carry[0] + drive.astype(complex),
      carry[1] + 1,
    ),
    output=lambda params, carry, drive: carry[0].real,
  )
  cell, xs = zoneout(base, 1.0), jnp.ones((T, B, D))
  params = draw(1, jax.eval_shape(lambda: base.init(jax.random.key(0), D)))
  carry = draw(2, jnp.zeros((B, H))).astype(complex), jnp.zeros(B, int)
  for key in (None, jax.random.key(0)):
    (h, count), _ = unroll(cell, params, xs, carry, key=key)
    chex.assert_trees_all_equal(h, carry[0])
    np.testing.assert_array_equal(count, np.full(B, T))


def test_gates_equal_those_of_the_wrapped_cell():
  base = gru(H)
  params, carry, xs = problem(base)
  cell, recurrent = zoneout(base, 0.2), base.recur(params, carry)
  expected = base.gates(params, carry, base.project(params, xs[0]), recurrent)
  close(cell.gates(params, carry, cell.project(params, xs[0]), recurrent), expected)
  assert expected


def test_a_rate_may_be_traced():
  params, carry, xs = problem(elman(H))

  def gradient(rate, key):
    cell = zoneout(elman(H), rate)
    return jax.grad(lambda p: jnp.sum(unroll(cell, p, xs, carry, key=key)[1] ** 2))(params)

  def gradients(rate):
    return [gradient(rate, key) for key in (None, jax.random.key(0))]

  close(*jax.jit(lambda rate: (gradients(rate), gradients(0.3)))(0.3))


@pytest.mark.parametrize(
  ("rate", "error", "match"),
  [
    (-0.1, ValueError, "rate must be at least 0, got -0.1"),
    (1.5, ValueError, "rate must be at most 1, got 1.5"),
    ("0.5", TypeError, "rate must be a number, got '0.5'"),
    (LSTMCarry(0.1, float("nan")), ValueError, "rate must be finite, got nan"),
    ((0.1, 0.2), ValueError, r"rate must be a number, or in the carry's structure .*LSTMCarry"),
    (None, ValueError, "got None"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_invalid_rates_are_refused(rate, error, match):
  with pytest.raises(error, match=match):
    zoneout(lstm(H), rate)
