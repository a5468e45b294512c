"""Weight shares: the term that each step contributes to the recurrent kernel's gradient."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.gradient_flow.layer_sweep import (
  ScalarLoss,
  check_layers,
  check_loss,
  forward_layers,
  reverse_layers,
)
from rnn_jax.gradient_flow.reverse_sweep import Pass, Scaled, normalize, shift, unscaled
from rnn_jax.types import Cell, Params, Sequences


def weight_shares(
  cells: Sequence[Cell], params: Sequence[Params], xs: Sequences, loss: ScalarLoss
) -> tuple[Float[Array, "T H GH"], ...]:
  """Returns each step's share of dL/dW_h, the recurrent kernel's gradient, for every layer.

    share_t = Σ_b h_{t−1,b}ᵀ δ_{t,b}        Σ_t share_t = dL/dW_h        δ_t = dL/d(h_{t−1} W_h)

  Convention: L is the given loss, without any rescaling. h is a row vector, so W_h is [H, G·H], the
  kernels of the cell's G gates side by side. The first share is zero, because the initial carry is
  zero.

  Cost: one forward pass; one single-step vector-Jacobian product for every step and layer; memory
  for T · |W_h| numbers per layer. For a large network, use `weight_share_norms`.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`. Every cell must have a `recurrent_kernel`.
    loss: `ys -> scalar`, a function of the top cell's outputs [T, B, H].
  Returns:
    For each layer: share [T, H, G·H].
  Raises:
    TypeError, ValueError: if a cell has no recurrent kernel, if the loss is not a scalar, or if the
      arguments do not fit the layers.
  """
  shares = []
  for h, delta in _factors(cells, params, xs, loss):
    exponent = jnp.maximum(h.exponent + delta.exponent, -2100)  # 2^-2100 is 0 even in float64
    share = jnp.einsum("tbi,tbj->tij", h.value, delta.value)
    shares.append(jnp.ldexp(share, exponent[:, None, None]))
  return tuple(shares)


def weight_share_norms(
  cells: Sequence[Cell], params: Sequence[Params], xs: Sequences, loss: ScalarLoss
) -> tuple[Float[Array, " T"], ...]:
  """Returns log₁₀ of the Frobenius norm of each step's share of dL/dW_h, for every layer.

    ‖share_t‖² = Σ_{b,c} (Δ Δᵀ ∘ H Hᵀ)_{b,c}        Δ [B, G·H] = δ_t, H [B, H] = h_{t−1}

  The shares themselves are never formed. Norms as small as 10^-900 or as large as 10^+900 are
  correct, as in `lag_profile`. If the terms of different examples cancel, the error of the norm is
  about √ε times the largest term's norm, where ε is the dtype's precision.

  Cost: one forward pass; one single-step vector-Jacobian product for every step and layer; memory
  for T · B² numbers per layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`. Every cell must have a `recurrent_kernel`.
    loss: `ys -> scalar`, a function of the top cell's outputs [T, B, H].
  Returns:
    For each layer: log₁₀ norms [T]; −inf where the share is exactly zero.
  Raises:
    TypeError, ValueError: if a cell has no recurrent kernel, if the loss is not a scalar, or if the
      arguments do not fit the layers.
  """
  norms = []
  for h, delta in _factors(cells, params, xs, loss):
    gram = jnp.einsum("tbi,tci->tbc", h.value, h.value)
    gram *= jnp.einsum("tbj,tcj->tbc", delta.value, delta.value)
    square = jnp.maximum(jnp.sum(gram, axis=(1, 2)), 0)  # rounding may make the sum negative
    exponent = (h.exponent + delta.exponent).astype(square.dtype)
    norms.append(jnp.log10(square) / 2 + exponent * math.log10(2))
  return tuple(norms)


def _factors(
  cells: Sequence[Cell], params: Sequence[Params], xs: Sequences, loss: ScalarLoss
) -> list[tuple[Scaled, Scaled]]:
  """Returns the factors of each layer's weight shares, h_{t−1} [T, B, H] and δ_t [T, B, G·H].

  A weight share is step t's term h_{t−1}ᵀ δ_t of dL/dW_h, where δ_t = dL/d(h_{t−1} W_h). Each
  factor has one exponent per step, [T], shared by all examples.
  """
  check_layers(cells, params=params)
  for i, cell in enumerate(cells):
    if cell.recurrent_kernel is None:
      raise ValueError(
        "cells must have a recurrent kernel, a param W_h whose only use is h W_h (+ b); "
        f"cells[{i}] has none."
      )
  passes = forward_layers(cells, params, xs)
  check_loss(loss, passes[-1].ys)
  y_bars = unscaled(jax.grad(loss)(passes[-1].ys))
  bars = reverse_layers(cells, passes, y_bars)
  return [_layer_factors(*layer) for layer in zip(cells, passes, bars, strict=True)]


def _layer_factors(cell: Cell, run: Pass, totals: Scaled) -> tuple[Scaled, Scaled]:
  """Returns (h_{t−1}, δ_t = dL/d(h_{t−1} W_h)) of one layer, from its forward pass and dL/dh_t."""
  recurrent = cell.recur(run.params, run.before)
  _, vjp = jax.vjp(functools.partial(cell.update, run.params, run.before, run.drives), recurrent)
  (delta,) = vjp(totals.value)
  h = jax.tree.leaves(run.before)[0]
  return _by_step(unscaled(h)), _by_step(totals._replace(value=delta))


def _by_step(scaled: Scaled) -> Scaled:
  """Rescales all examples of a step to a common exponent, so that their values can be summed."""
  scaled = normalize(scaled)
  exponent = jnp.max(scaled.exponent, axis=1)
  shared = jnp.broadcast_to(exponent[:, None], scaled.exponent.shape)
  return Scaled(shift(scaled, shared).value, exponent)
