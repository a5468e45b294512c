"""Tests of truncation: which steps the gradient reaches, for a static, traced or vmapped k."""

from __future__ import annotations

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unrolled import CARRIES, RESETS, B, T, assert_close, problem, together

from rnn_jax import unroll

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("name", CARRIES)
def test_truncation_at_the_length_or_beyond_is_full_backpropagation(name):
  cell, arrays = problem(name)
  cut = jax.jit(lambda k: together(cell, truncation=k)(*arrays))
  full = together(cell)(*arrays)
  for k in (T, T + 1, 2**31 - 1):
    assert_close(cut(k), full)


@pytest.mark.parametrize("name", CARRIES)
def test_truncation_leaves_the_forward_pass_bit_identical(name):
  cell, (params, xs, carry, _) = problem(name)
  whole = jax.jit(lambda: unroll(cell, params, xs, carry))()
  cut = jax.jit(lambda k: unroll(cell, params, xs, carry, truncation=k))
  for k in range(1, T + 2):
    chex.assert_trees_all_equal(cut(k), whole)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_resets", [False, True])
def test_loss_at_step_s_reaches_exactly_the_lags_up_to_s_minus_one_mod_k(reverse, with_resets):
  # In the test's name, steps s are counted from 1. In the code, `count` is the number of steps
  # since the sequence's own start, i.e. s − 1.
  cell, (params, xs, carry, _) = problem("lstm")
  resets = RESETS if with_resets else np.zeros_like(RESETS)

  @jax.jit
  @functools.partial(jax.jacrev, argnums=(0, 1))
  def reach(xs, carry, k):
    # Examples are independent, so summing over examples does not mix their derivatives.
    _, ys = unroll(cell, params, xs, carry, truncation=k, resets=resets, reverse=reverse)
    return jnp.sum(ys, axis=1)

  full_xs, full_carry = reach(xs, carry, T)  # [T, H, T, B, D] and leaves [T, H, B, H]
  time = np.arange(T)[::-1] if reverse else np.arange(T)
  for b in range(B):
    sequence, count = np.zeros(T, int), np.zeros(T, int)
    for before, now in itertools.pairwise(time):
      new = resets[now, b]
      sequence[now] = sequence[before] + new
      count[now] = 0 if new else count[before] + 1
    for k in range(1, T + 2):
      cut_xs, cut_carry = reach(xs, carry, k)
      lag = count[:, None] - count[None]
      seen = (sequence[:, None] == sequence[None]) & (lag >= 0) & (lag <= count[:, None] % k)
      expected = np.where(seen[:, None, :, None], full_xs[:, :, :, b], 0)
      np.testing.assert_allclose(cut_xs[:, :, :, b], expected)
      assert np.all((np.abs(cut_xs[:, :, :, b]).max(axis=(1, 3)) > 0) == seen)

      starts = (sequence == 0) & (count < k) & ~resets[time[0], b]
      for cut, full in zip(cut_carry, full_carry, strict=True):
        expected = np.where(starts[:, None, None], full[:, :, b], 0)
        np.testing.assert_allclose(cut[:, :, b], expected)


def test_one_program_serves_every_truncation_and_an_int_means_the_same():
  cell, (params, xs, carry, probe) = problem("gru")
  chex.clear_trace_counter()

  @jax.jit
  @chex.assert_max_traces(n=1)
  def traced(k):
    return together(cell, truncation=k)(params, xs, carry, probe)

  for k in (2, np.int32(5), jnp.int32(3)):
    static = together(cell, truncation=k)(params, xs, carry, probe)
    assert_close(traced(jnp.int32(k)), static)


def test_truncation_may_be_vmapped():
  cell, arrays = problem("elman")
  ks = jnp.array([1, 3, T])
  mapped = jax.jit(jax.vmap(lambda k: together(cell, truncation=k)(*arrays)))(ks)
  one = jax.jit(lambda k: together(cell, truncation=k)(*arrays))
  for i, k in enumerate(ks):
    assert_close(jax.tree.map(lambda a, i=i: a[i], mapped), one(k))


def test_a_truncation_beyond_int32_is_full_backpropagation():
  cell, arrays = problem("elman")
  full = together(cell)(*arrays)
  for k in (2**32 + 2, np.int64(2**32 + 2)):
    assert_close(together(cell, truncation=k)(*arrays), full)
