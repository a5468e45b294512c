"""What each step adds to the gradient of the recurrent kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from rnn_jax.gradient_flow.layer_sweep import check_scalar, forward_layers, reverse_layers
from rnn_jax.gradient_flow.reverse_sweep import (
  Scaled,
  normalize,
  shift,
  unscaled,
)
from rnn_jax.types import Array, Cell, Params


def weight_shares(
  cells: Sequence[Cell], params: Sequence[Params], xs: Array, loss: Callable[[Array], Array]
) -> tuple[Array, ...]:
  """Each step's share of dL/dW_h, for every layer of a deep network.

    share_t = Σ_b h_{t−1,b}ᵀ δ_{t,b}        Σ_t share_t = dL/dW_h        δ_t = dL/d(h_{t−1} W_h)

  Convention: L is the loss as given; a row h, so W_h is [H, G·H], with the cell's gates side by
  side. h_{t−1} is what step t starts from: the first share is zero.

  Cost: one forward pass, one step's vector-Jacobian product a step and layer, and T · |W_h| numbers
  a layer: for a large network see `weight_share_norms`.

  Args:
    cells: the cell of each layer, the first nearest the input; each has a `recurrent_kernel`.
    params: of each cell.
    xs: [T, B, D], or tokens [T, B], as the first cell reads them.
    loss: `ys -> scalar`, from the top cell's outputs [T, B, H].
  Returns:
    For each layer: [T, H, G·H], in the units of dL/dW_h.
  Raises:
    ValueError: a cell without a recurrent kernel, or a loss that is no scalar.
  """
  shares = []
  for h, delta in _factors(cells, params, xs, loss):
    exponent = jnp.maximum(h.exponent + delta.exponent, -2100)  # 2^-2100 is zero in float64 too
    share = jnp.einsum("tbi,tbj->tij", h.value, delta.value)
    shares.append(jnp.ldexp(share, exponent[:, None, None]))
  return tuple(shares)


def weight_share_norms(
  cells: Sequence[Cell], params: Sequence[Params], xs: Array, loss: Callable[[Array], Array]
) -> tuple[Array, ...]:
  """log₁₀ of the Frobenius norm of each step's share of dL/dW_h, for every layer.

    ‖share_t‖² = Σ_{b,c} (Δ Δᵀ ∘ H Hᵀ)_{b,c}        Δ [B, G·H] = δ_t, H [B, H] = h_{t−1}

  The shares themselves are never formed. Right at 10^-900 and at 10^+900, as `lag_profile` is.
  Where the examples' shares cancel, their sum is known to √(precision) of the largest of them.

  Cost: one forward pass, one step's vector-Jacobian product a step and layer, and T · B² numbers a
  layer.

  Args:
    cells: as in `weight_shares`.
    params: of each cell.
    xs: [T, B, D], or tokens [T, B].
    loss: `ys -> scalar`, from the top cell's outputs [T, B, H].
  Returns:
    For each layer: log₁₀ norms [T]; −inf where the share is exactly zero.
  Raises:
    ValueError: a cell without a recurrent kernel, or a loss that is no scalar.
  """
  norms = []
  for h, delta in _factors(cells, params, xs, loss):
    gram = jnp.einsum("tbi,tci->tbc", h.value, h.value)
    gram *= jnp.einsum("tbj,tcj->tbc", delta.value, delta.value)
    square = jnp.maximum(jnp.sum(gram, axis=(1, 2)), 0)  # rounding may leave less than nothing
    exponent = (h.exponent + delta.exponent).astype(square.dtype)
    norms.append(jnp.log10(square) / 2 + exponent * math.log10(2))
  return tuple(norms)


def _factors(
  cells: Sequence[Cell], params: Sequence[Params], xs: Array, loss: Callable[[Array], Array]
) -> list[tuple[Scaled, Scaled]]:
  """For each layer: h_{t−1} [T, B, H] and δ_t [T, B, G·H], with one exponent a step."""
  for i, cell in enumerate(cells):
    if cell.recurrent_kernel is None:
      raise ValueError(
        "cells must have a recurrent kernel, a param W_h whose only use is h W_h (+ b); "
        f"cells[{i}] has none."
      )
  factors = []
  passes = forward_layers(cells, params, xs)
  check_scalar(loss, passes[-1].ys)
  y_bars = unscaled(jax.grad(loss)(passes[-1].ys))
  bars = reverse_layers(cells, passes, y_bars)
  layers = zip(cells, passes, bars, strict=True)
  for cell, layer, totals in layers:
    recurrent = cell.recur(layer.params, layer.before)
    _, vjp = jax.vjp(
      functools.partial(cell.update, layer.params, layer.before, layer.drives), recurrent
    )
    (delta,) = vjp(totals.value)
    h = jax.tree.leaves(layer.before)[0]
    factors.append((_by_step(unscaled(h)), _by_step(totals._replace(value=delta))))
  return factors


def _by_step(scaled: Scaled) -> Scaled:
  """The same quantity with one exponent a step: its examples are about to be added up."""
  scaled = normalize(scaled)
  exponent = jnp.max(scaled.exponent, axis=1)
  shared = jnp.broadcast_to(exponent[:, None], scaled.exponent.shape)
  return Scaled(shift(scaled, shared).value, exponent)
