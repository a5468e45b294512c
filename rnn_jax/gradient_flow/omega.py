"""Pascanu's Ω: how far the gradient's norm is from being kept, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from rnn_jax.gradient_flow.layer_sweep import check_scalar, forward_layers, reverse_layers
from rnn_jax.gradient_flow.reverse_sweep import unscaled
from rnn_jax.probes import scaled_norm
from rnn_jax.types import Array, Carry, Cell, Params, floats_of, step, with_floats


def omega(
  cells: Sequence[Cell], params: Sequence[Params], xs: Array, loss: Callable[[Array], Array]
) -> tuple[Array, ...]:
  """Pascanu's vanishing-gradient regulariser of every layer of a deep network.

    Ω = Σ_k (‖(∂E/∂h_{k+1}) (∂h_{k+1}/∂h_k)‖ / ‖∂E/∂h_{k+1}‖ − 1)²        k = 0 … T−2

  Convention: per example, then the mean over the batch. h_k is the carry that leaves step k, all
  its leaves together (an LSTM's h and c); ∂E/∂h_{k+1} is its total derivative, through later steps
  and the layers above. Only the direction of ∂E/∂h_{k+1} counts, so the ratio is right where its
  norm is outside the range of floats. Where it is zero, that step adds nothing.

  As a regulariser it is differentiated as in the paper, through the immediate partial derivative
  alone: h_k, ∂E/∂h_{k+1} and what a layer reads count as constants, ∂h_{k+1}/∂h_k as a function of
  the params at fixed h_k. That gradient is not the one of the number returned.

  Cost: one forward pass, and two of one step's vector-Jacobian products a step and layer.

  Args:
    cells: the cell of each layer, the first nearest the input.
    params: of each cell.
    xs: [T, B, D], or tokens [T, B], as the first cell reads them.
    loss: E, `ys -> scalar`, from the top cell's outputs [T, B, H]; its scale does not matter.
  Returns:
    For each layer: Ω, a scalar.
  Raises:
    ValueError: the loss is no scalar.
  References:
    Pascanu et al., 2013, https://arxiv.org/abs/1211.5063
  """
  params = tuple(params)
  frozen, xs = jax.lax.stop_gradient((params, xs))
  passes = forward_layers(cells, frozen, xs)
  ys = [layer.ys for layer in passes]
  check_scalar(loss, ys[-1])
  # The loss may read params of its own, those of a readout: constants too.
  y_bars = unscaled(jax.lax.stop_gradient(jax.grad(loss)(ys[-1])))
  bars = reverse_layers(cells, passes, y_bars)
  layers = zip(cells, params, [xs, *ys[:-1]], passes, bars, strict=True)
  return tuple(
    _of_layer(cell, cell.prepare(cell_params), inputs, layer.before, bar.value)
    for cell, cell_params, inputs, layer, bar in layers
  )


def _of_layer(cell: Cell, params: Params, xs: Array, before: Carry, bars: Carry) -> Array:
  # h_{−1} leaves no step: the first one is left out.
  drives = cell.project(params, xs)
  before, drives, bars = jax.tree.map(lambda a: a[1:], (before, drives, bars))

  def move(h: Carry) -> Carry:
    return floats_of(step(cell, params, with_floats(h, before), drives))

  _, vjp = jax.vjp(move, floats_of(before))
  (products,) = vjp(bars)
  return jnp.mean(jnp.sum(_squared_deviations(products, bars), axis=0))


def _squared_deviations(products: Carry, bars: Carry) -> Array:
  """(‖product‖ / ‖bar‖ − 1)² for each step and example, 0 where the bar is zero; [T, B]."""
  norm, other = _joint_norm(products), _joint_norm(bars)
  counts = other > 0
  ratio = norm / jnp.where(counts, other, jnp.ones_like(other))
  return jnp.where(counts, (ratio - 1) ** 2, jnp.zeros_like(ratio))


def _joint_norm(carry: Carry) -> Array:
  """Norm of all leaves [T, B, ...] together, [T, B]; its derivative at zero is zero."""
  leaves = jax.tree.leaves(carry)
  entries = jnp.concatenate(
    [leaf.reshape(*leaf.shape[:2], math.prod(leaf.shape[2:])) for leaf in leaves], axis=-1
  )
  zero = jnp.all(entries == 0, axis=-1)
  # Both choices are differentiated: the one not taken must have a derivative too.
  norm = scaled_norm(jnp.where(zero[..., None], jnp.ones_like(entries), entries), axis=-1)
  return jnp.where(zero, jnp.zeros_like(norm), norm)
