"""Measures of networks with wrapped cells, against gradients of a plain Python loop."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw, mean_loss

from rnn_jax import step
from rnn_jax.cells import LSTMCarry, elman, gru, layer_norm, lstm, residual, stack, zoneout
from rnn_jax.gradient_flow import (
  gate_values,
  jacobian_norm,
  lag_profile,
  sensitivity,
  step_jacobians,
  truncation_bias,
  weight_shares,
)

T, B, H = 3, 2, 3

pytestmark = pytest.mark.usefixtures("x64")
close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13)

# The upper layer is residual, so gradients also reach the lower layer by the skip connection.
DENSE = [zoneout(lstm(H), LSTMCarry(hidden=0.2, cell=0.5)), residual(zoneout(gru(H), 0.3))]
NORMED = [DENSE[0], layer_norm(residual(elman(H)))]


def randomized(cells):
  shapes = [jax.eval_shape(lambda cell=cell: cell.init(jax.random.key(0), H)) for cell in cells]
  leaves, structure = jax.tree.flatten(shapes)
  return structure.unflatten([draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def slots_of(cells):
  """Returns zeros to add to each layer's carries, whose gradients are the carries' cotangents."""
  return [cell.initial_carry((T, B)) for cell in cells]


def by_hand(cells, params, xs, slots=None, kernels=None, truncation=T):
  """Runs a deep network in a Python loop.

  Args:
    cells: the cell of each layer.
    params: the params of each layer's cell.
    xs: the first layer's inputs [T, B, H].
    slots: zeros to add to each layer's carries, from `slots_of`; None to add nothing.
    kernels: for each layer, the recurrent kernel to use at each step [T, ...], instead of the one
      in the params; None to use the kernel in the params.
    truncation: gradients are stopped before every step whose index is a multiple of this number.
  Returns:
    (the carries of each layer, leaves [T, B, ...]; the top layer's outputs [T, B, H]).
  """
  ys, layers = xs, []
  for i, cell in enumerate(cells):
    carry, carries, outputs, own = cell.initial_carry((B,)), [], [], params[i]
    for t, x in enumerate(ys):
      if t % truncation == 0:
        carry = jax.lax.stop_gradient(carry)
      if kernels is not None:
        own = own | {"w_h": kernels[i][t]}
      drive = cell.project(own, x)
      carry = step(cell, own, carry, drive)
      if slots is not None:
        carry = jax.tree.map(lambda a, b, t=t: a + b[t], carry, slots[i])
      carries.append(carry)
      outputs.append(cell.output(own, carry, drive))
    ys = jnp.stack(outputs)
    layers.append(jax.tree.map(lambda *a: jnp.stack(a), *carries))
  return layers, ys


def test_lag_profile_is_the_norm_of_the_plain_gradient():
  cells, weights = NORMED, draw(91, B, H)

  def loss(y):
    return jnp.sum(weights * jnp.sin(y), axis=-1)

  @jax.jit
  def both(params, xs):
    def last(slots):
      return jnp.sum(loss(by_hand(cells, params, xs, slots)[1][-1]))

    return lag_profile(cells, params, xs, loss), jax.grad(last)(slots_of(cells))

  profiles, bars = both(randomized(cells), draw(80, T, B, H))
  for logs, bar in zip(*map(jax.tree.leaves, (profiles, bars)), strict=True):
    close(10**logs, np.linalg.norm(bar, axis=-1)[::-1])


def test_a_weight_share_is_the_gradient_of_a_kernel_used_at_that_step_only():
  @jax.jit
  def both(params, xs):
    kernels = [jnp.stack([p["w_h"]] * T) for p in params]
    plain = jax.grad(lambda k: mean_loss(by_hand(DENSE, params, xs, kernels=k)[1]))(kernels)
    return weight_shares(DENSE, params, xs, mean_loss), plain

  for share, expected in zip(*both(randomized(DENSE), draw(80, T, B, H)), strict=True):
    close(share, expected)


def test_weight_shares_refuse_a_normalized_cell_by_its_index():
  shares = functools.partial(weight_shares, NORMED, loss=mean_loss)
  with pytest.raises(ValueError, match=r"recurrent kernel.*cells\[1\] has none"):
    jax.eval_shape(shares, randomized(NORMED), draw(80, T, B, H))


def test_truncation_bias_equals_that_of_plain_gradients():
  cells, xs = NORMED, draw(80, T, B, H)
  params = randomized(cells)

  @jax.jit
  def both(params):
    def gradient(k):
      grads = jax.grad(lambda p: mean_loss(by_hand(cells, p, xs, truncation=k)[1]))(params)
      return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])

    return truncation_bias(cells, params, xs, mean_loss, truncations=[2]), gradient(2), gradient(T)

  bias, g, full = both(params)
  close(bias.relative_error, [np.linalg.norm(g - full) / np.linalg.norm(full)])
  close(bias.cosine, [g @ full / np.linalg.norm(g) / np.linalg.norm(full)])


def test_jacobians_of_a_stack_and_their_norm_equal_those_of_plain_steps():
  cell = stack(NORMED)
  num_probes, key = 3, jax.random.key(0)

  @jax.jit
  def all_of_them(params, xs):
    carry, jacobians = cell.initial_carry((B,)), []
    for x in xs:
      structure = jax.tree.structure(carry)

      def moved(s, x=x, structure=structure):
        drive = cell.project(params, x)
        return jnp.concatenate(
          jax.tree.leaves(step(cell, params, structure.unflatten(jnp.split(s, 3)), drive))
        )

      s = jnp.concatenate(jax.tree.leaves(carry), axis=-1)
      one = jax.vmap(jax.jacfwd(moved))
      jacobians.append(one(s, x))
      carry = step(cell, params, carry, cell.project(params, x))
    measured = (
      *step_jacobians([cell], [params], xs),
      *jacobian_norm([cell], [params], xs, key=key, num_probes=num_probes),
    )
    return measured, jnp.stack(jacobians)

  params = tuple(randomized(NORMED))
  (jacobians, norms), expected = all_of_them(params, draw(80, T, B, H))
  close(jacobians, expected)
  rows = np.asarray(jax.random.normal(key, (num_probes, B, 3 * H)))
  for lag in range(T):
    close(10 ** norms[lag], np.sqrt(np.mean(np.sum(rows**2, axis=-1), axis=0)))
    rows = np.einsum("pbi,bij->pbj", rows, expected[T - 1 - lag])


def test_a_carry_held_constant_has_the_identity_as_jacobian():
  cell = zoneout(lstm(H), 1.0)
  params, xs = randomized([cell])[0], draw(80, T, B, H)
  (jacobians,) = jax.jit(functools.partial(step_jacobians, [cell], [params]))(xs)
  close(jacobians, np.broadcast_to(np.eye(2 * H), (T, B, 2 * H, 2 * H)))


def test_sensitivity_and_gates_include_the_wrappers():
  params, xs = randomized(DENSE), draw(80, T, B, H)
  direction = jax.tree.map(lambda a: draw(a.size, *a.shape), params)

  @jax.jit
  def both(params, direction):
    plain = jax.jvp(lambda p: by_hand(DENSE, p, xs)[0], (params,), (direction,))[1]
    moved = sensitivity(DENSE, params, xs, direction=direction)
    return (moved, gate_values(DENSE, params, xs)), plain

  (measured, gates), expected = both(params, direction)
  jax.tree.map(close, list(measured), expected)
  assert [sorted(names) for names in gates] == [["forget", "input", "output"], ["reset", "update"]]
