"""Pascanu's Ω: how much each step back in time changes the norm of the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax import checks
from rnn_jax.gradient_flow.layer_sweep import (
  ScalarLoss,
  check_layers,
  check_loss,
  forward_layers,
  reverse_layers,
)
from rnn_jax.gradient_flow.reverse_sweep import unscaled
from rnn_jax.precision import at_least_float32
from rnn_jax.probes import scaled_norm
from rnn_jax.types import Carry, Cell, Params, Sequences, floats_of, step, with_floats


def omega(
  cells: Sequence[Cell], params: Sequence[Params], xs: Sequences, loss: ScalarLoss
) -> tuple[Float[Array, ""], ...]:
  """Returns Pascanu's vanishing-gradient regularizer Ω of each layer.

    Ω = Σ_k (‖(∂E/∂h_{k+1}) (∂h_{k+1}/∂h_k)‖ / ‖∂E/∂h_{k+1}‖ − 1)²        k = 0 … T−2

  Convention: Ω is computed per example, then averaged over the batch. h_k is the carry after step
  k, with all leaves (an LSTM's h and c) as one vector. ∂E/∂h_{k+1} is a total derivative: it
  includes the paths through later steps and through the layers above. Only its direction matters,
  so the ratio is correct even if its norm is outside the float range. A step where ∂E/∂h_{k+1} is
  zero adds nothing to Ω.

  `jax.grad` of Ω gives the paper's gradient, which uses only the immediate partial derivative: h_k,
  ∂E/∂h_{k+1} and the layer's inputs are held constant, and only ∂h_{k+1}/∂h_k depends on the
  params. The paper's gradient is therefore not the true gradient of the returned value.

  Cost: one forward pass; then two single-step vector-Jacobian products for every step and layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    loss: E, `ys -> scalar`, a function of the top cell's outputs [T, B, H]. Scaling it does not
      change Ω.
  Returns:
    For each layer: Ω, a scalar.
  Raises:
    TypeError, ValueError: if the loss is not a scalar, or if the arguments do not fit the layers.
  References:
    Pascanu et al., 2013, https://arxiv.org/abs/1211.5063
  """
  xs = checks.array("xs", xs, "floats", "integers")
  params, xs = at_least_float32((params, xs))
  check_layers(cells, params=params)
  frozen, xs = jax.lax.stop_gradient((params, xs))
  passes = forward_layers(cells, frozen, xs)
  ys = [layer.ys for layer in passes]
  check_loss(loss, ys[-1])
  # The loss may close over params, such as a readout's. `stop_gradient` holds them constant, too.
  y_bars = unscaled(jax.lax.stop_gradient(jax.grad(loss)(ys[-1])))
  bars = reverse_layers(cells, passes, y_bars)
  layers = zip(cells, params, [xs, *ys[:-1]], passes, bars, strict=True)
  return tuple(
    _layer_omega(cell, cell.prepare(cell_params), inputs, layer.before, bar.value)
    for cell, cell_params, inputs, layer, bar in layers
  )


def _layer_omega(
  cell: Cell, params: Params, xs: Array, before: Carry, bars: Carry
) -> Float[Array, ""]:
  """Returns Ω of one layer.

  Args:
    cell: the layer's cell.
    params: the cell's prepared params, with respect to which Ω may be differentiated.
    xs: the layer's inputs [T, B, ...].
    before: h_{t−1} for every step t, leaves [T, B, ...].
    bars: dE/dh_t for every step t, leaves [T, B, ...], up to a scale per step and example.
  """
  drives = cell.project(params, xs)
  # Ω has no term for the first step, because its h_{t−1} is the initial carry.
  before, drives, bars = jax.tree.map(lambda a: a[1:], (before, drives, bars))

  def move(h: Carry) -> Carry:
    return floats_of(step(cell, params, with_floats(h, before), drives))

  _, vjp = jax.vjp(move, floats_of(before))
  (products,) = vjp(bars)
  return jnp.mean(jnp.sum(_squared_deviations(products, bars), axis=0))


def _squared_deviations(products: Carry, bars: Carry) -> Float[Array, "T B"]:
  """Returns Ω's term (‖product‖ / ‖bar‖ − 1)² of each step and example; 0 where the bar is zero.

  Args:
    products: ∂E/∂h_{k+1} ∂h_{k+1}/∂h_k, leaves [T, B, ...].
    bars: ∂E/∂h_{k+1}, leaves [T, B, ...].
  """
  norm, other = _joint_norm(products), _joint_norm(bars)
  counts = other > 0
  ratio = norm / jnp.where(counts, other, jnp.ones_like(other))
  return jnp.where(counts, (ratio - 1) ** 2, jnp.zeros_like(ratio))


def _joint_norm(carry: Carry) -> Float[Array, "T B"]:
  """Returns each example's norm over all leaves, per step; the norm's derivative at 0 is 0."""
  leaves = jax.tree.leaves(carry)
  entries = jnp.concatenate(
    [leaf.reshape(*leaf.shape[:2], math.prod(leaf.shape[2:])) for leaf in leaves], axis=-1
  )
  zero = jnp.all(entries == 0, axis=-1)
  # Both branches of `where` are differentiated, so the unused one needs a finite derivative, too.
  norm = scaled_norm(jnp.where(zero[..., None], jnp.ones_like(entries), entries), axis=-1)
  return jnp.where(zero, jnp.zeros_like(norm), norm)
