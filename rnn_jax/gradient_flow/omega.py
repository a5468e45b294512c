"""Pascanu's Ω: how far each step changes the norm of the gradient."""

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
from rnn_jax.probes import scaled_norm
from rnn_jax.types import Carry, Cell, Params, Sequences, floats_of, step, with_floats


def omega(
  cells: Sequence[Cell], params: Sequence[Params], xs: Sequences, loss: ScalarLoss
) -> tuple[Float[Array, ""], ...]:
  """Returns Pascanu's vanishing-gradient regularizer Ω of each layer.

    Ω = Σ_k (‖(∂E/∂h_{k+1}) (∂h_{k+1}/∂h_k)‖ / ‖∂E/∂h_{k+1}‖ − 1)²        k = 0 … T−2

  Convention: per example, then the mean over the batch. h_k is the carry that leaves step k, all
  its leaves together (an LSTM's h and c); ∂E/∂h_{k+1} is its total derivative, through later steps
  and the layers above. Only the direction of ∂E/∂h_{k+1} counts, so the ratio is right where its
  norm is outside the range of floats. A step where it is zero adds nothing.

  As a regularizer it is differentiated as in the paper, through the immediate partial derivative
  alone: h_k, ∂E/∂h_{k+1} and the inputs of a layer count as constants, ∂h_{k+1}/∂h_k as a function
  of the params at fixed h_k. That gradient is not the gradient of the number returned.

  Cost: one forward pass, and two vector-Jacobian products of a step, per step and layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    loss: E, `ys -> scalar`, from the top cell's outputs [T, B, H]; its scale does not matter.
  Returns:
    For each layer: Ω, a scalar.
  Raises:
    TypeError, ValueError: the loss is not a scalar, or arguments do not fit the layers.
  References:
    Pascanu et al., 2013, https://arxiv.org/abs/1211.5063
  """
  xs = checks.array("xs", xs, "floats", "integers")
  check_layers(cells, params=params)
  frozen, xs = jax.lax.stop_gradient((params, xs))
  passes = forward_layers(cells, frozen, xs)
  ys = [layer.ys for layer in passes]
  check_loss(loss, ys[-1])
  # The loss may read params of its own, such as a readout's: they count as constants, too.
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
  """Returns Ω of one layer, from its prepared params, its inputs, h_{t−1} and dE/dh_t."""
  drives = cell.project(params, xs)
  # h_{−1} leaves no step, so the first step is left out.
  before, drives, bars = jax.tree.map(lambda a: a[1:], (before, drives, bars))

  def move(h: Carry) -> Carry:
    return floats_of(step(cell, params, with_floats(h, before), drives))

  _, vjp = jax.vjp(move, floats_of(before))
  (products,) = vjp(bars)
  return jnp.mean(jnp.sum(_squared_deviations(products, bars), axis=0))


def _squared_deviations(products: Carry, bars: Carry) -> Float[Array, "T B"]:
  """Returns (‖product‖ / ‖bar‖ − 1)² for each step and example, 0 where the bar is zero."""
  norm, other = _joint_norm(products), _joint_norm(bars)
  counts = other > 0
  ratio = norm / jnp.where(counts, other, jnp.ones_like(other))
  return jnp.where(counts, (ratio - 1) ** 2, jnp.zeros_like(ratio))


def _joint_norm(carry: Carry) -> Float[Array, "T B"]:
  """Returns the norm of all leaves [T, B, ...] together; its derivative at zero is zero."""
  leaves = jax.tree.leaves(carry)
  entries = jnp.concatenate(
    [leaf.reshape(*leaf.shape[:2], math.prod(leaf.shape[2:])) for leaf in leaves], axis=-1
  )
  zero = jnp.all(entries == 0, axis=-1)
  # Both branches are differentiated, so the one not taken needs a finite derivative.
  norm = scaled_norm(jnp.where(zero[..., None], jnp.ones_like(entries), entries), axis=-1)
  return jnp.where(zero, jnp.zeros_like(norm), norm)
