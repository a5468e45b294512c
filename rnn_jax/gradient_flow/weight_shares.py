"""What each step adds to the gradient of the recurrent kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.gradient_flow.layer_sweep import check_scalar, forward_layers, reverse_layers
from rnn_jax.gradient_flow.reverse_sweep import (
  Pass,
  Scaled,
  forward_pass,
  normalize,
  shift,
  unscaled,
)
from rnn_jax.types import Array, Carry, Cell, Params


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
    cells: the cell of each layer, the first nearest the input; in each, h W_h is the recurrent
      product, with W_h its param "w_h".
    params: of each cell.
    xs: [T, B, D], or tokens [T, B], as the first cell reads them.
    loss: `ys -> scalar`, from the top cell's outputs [T, B, H].
  Returns:
    For each layer: [T, H, G·H], in the units of dL/dW_h.
  Raises:
    ValueError: a cell whose recurrent product is another, or a loss that is no scalar.
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
    ValueError: a cell whose recurrent product is another, or a loss that is no scalar.
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
  factors = []
  passes = forward_layers(cells, params, xs)
  check_scalar(loss, passes[-1].ys)
  y_bars = unscaled(jax.grad(loss)(passes[-1].ys))
  bars = reverse_layers(cells, passes, y_bars)
  layers = zip(cells, params, passes, bars, strict=True)
  for i, (cell, given, layer, totals) in enumerate(layers):
    if not (_is_dense(cell, layer) and _is_as_given(given, layer.params)):
      raise ValueError(
        "cells must have the recurrent product h W_h (+ b), with W_h their params['w_h'], and no "
        f"other use of W_h; cells[{i}] has not."
      )
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


def _is_as_given(given: Params, prepared: Params) -> bool:
  """Whether W_h is itself a param: what is made of one, as by a mask, has other gradients."""
  return "w_h" in given and prepared["w_h"] is given["w_h"]


def has_shares(cell: Cell) -> bool:
  """Whether the cell's recurrent product is h W_h (+ b), which `weight_shares` is of."""
  found = []

  def look(key: Array) -> None:
    run = forward_pass(cell, cell.init(key, 2), jnp.zeros((1, 1, 2)))
    found.append(_is_dense(cell, run))

  jax.eval_shape(look, jax.random.key(0))
  return found[0]


def _is_dense(cell: Cell, run: Pass) -> bool:
  """Whether recur is h W_h (+ b), which is tried on random numbers, and update reads no W_h."""
  params, before = run.params, run.before
  if not isinstance(params, Mapping) or "w_h" not in params:
    return False
  random = np.random.default_rng(0)

  def draw(shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.asarray(random.standard_normal(shape), dtype)

  with jax.ensure_compile_time_eval():
    some = jax.tree.map(lambda a: draw(a.shape, a.dtype), params)
    carry = jax.tree.map(lambda a: draw((1, a.shape[-1]), a.dtype), before)
    product, offset = (cell.recur(some, c) for c in (carry, jax.tree.map(jnp.zeros_like, carry)))
    h, w_h = np.asarray(jax.tree.leaves(carry)[0]), np.asarray(some["w_h"])
    if h.shape[-1:] != w_h.shape[:1] or jnp.shape(product) != (1, *w_h.shape[1:]):
      return False
    if not np.allclose(product - offset, h @ w_h, rtol=1e-3, atol=1e-3):
      return False

  def update(w_h: Array) -> Carry:
    return cell.update({**params, "w_h": w_h}, before, run.drives, cell.recur(params, before))

  traced = jax.make_jaxpr(update)(params["w_h"]).jaxpr
  return not any(read is traced.invars[0] for step in traced.eqns for read in step.invars)
