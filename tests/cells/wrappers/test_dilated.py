"""Dilated recurrence: its equation, its equivalence to interleaved sequences, and its norms."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import H, check

from rnn_jax import gradient_probe, make_cell, unroll
from rnn_jax.cells import DilatedCarry, dilated

T, B, D, DILATION = 9, 2, 3, 3


def reference(activation, params, carry, x):
  oldest = carry.earlier[-1] if carry.earlier else carry.hidden
  h = activation(x @ params["w_x"] + oldest @ params["w_h"] + params["b"])
  buffer = [h, carry.hidden, *carry.earlier][: 1 + len(carry.earlier)]
  return DilatedCarry(buffer[0], tuple(buffer[1:])), h


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_cell_matches_its_equation(x64, dilation):
  cell = make_cell("dilated_elman", H, dilation=dilation)
  check(cell, functools.partial(reference, np.tanh))


@pytest.mark.parametrize("name", ["lstm", "clockwork"])
def test_a_dilated_cell_runs_interleaved_sequences(x64, name):
  cell = make_cell(name, H)
  params = cell.init(jax.random.key(0), D)
  xs = jax.random.normal(jax.random.key(1), (T, B, D))
  weights = jax.random.normal(jax.random.key(2), (T, B, H))
  probes = gradient_probe(dilated(cell, DILATION), T, B).hidden

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
  def together(params, xs, probes):
    probe = gradient_probe(dilated(cell, DILATION), T, B)._replace(hidden=probes)
    _, ys = unroll(dilated(cell, DILATION), params, xs, probe=probe)
    return jnp.sum(weights * ys)

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
  def apart(params, xs, probes):
    total = 0.0
    for first in range(DILATION):
      part = np.s_[first::DILATION]
      probe = jax.tree.map(lambda a, part=part: a[part], probes)
      _, ys = unroll(cell, params, xs[part], probe=probe)
      total += jnp.sum(weights[part] * ys)
    return total

  # The probes' gradients agree, too, because dL/d hidden at step t is the total derivative dL/dh_t.
  given = params, xs, probes
  chex.assert_trees_all_close(together(*given), apart(*given), rtol=1e-11, atol=1e-13)


def test_norms_of_earlier_carries_equal_the_norms_at_their_own_steps(x64):
  cell = make_cell("dilated_elman", H, dilation=DILATION)
  params = cell.init(jax.random.key(0), D)
  xs = jax.random.normal(jax.random.key(1), (T, B, D))

  @jax.jit
  @jax.grad
  def last_loss(probe):
    return jnp.sum(unroll(cell, params, xs, probe=probe)[1][-1])

  norms = last_loss(gradient_probe(cell, T, B))
  # The loss reads only the last step, so dL/dh_t comes entirely from steps after t, and dL/d
  # earlier[i − 1] at step t equals dL/dh_{t−i}.
  for i, earlier in enumerate(norms.earlier, 1):
    np.testing.assert_allclose(earlier[i:-1], norms.hidden[: T - 1 - i], rtol=1e-12)
  reached = np.arange(T) % DILATION == (T - 1) % DILATION
  np.testing.assert_array_equal(norms.hidden[:, 0] > 0, reached)


@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (1.5, TypeError)])
@pytest.mark.usefixtures("unchecked_types")
def test_an_invalid_dilation_is_refused(value, kind):
  with pytest.raises(kind, match=f"dilation must be .* got {value}"):
    make_cell("dilated_elman", H, dilation=value)
