"""The lag profile: how much of the loss at one step is felt k steps earlier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.gradient_flow.layer_sweep import forward_layers, reverse_layers
from rnn_jax.gradient_flow.reverse_sweep import log10_norms, unscaled
from rnn_jax.types import Array, Carry, Cell, Params


def lag_profile(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Array,
  loss: Callable[[Array], Array],
  positions: int | Sequence[int] = -1,
) -> tuple[Carry, ...]:
  """Renormalised lag profile log₁₀ ‖∂L_s/∂h_{s−k}‖ of a deep network, k = 0 … T−1.

  L_s is the loss at step s alone, the last one by default: a loss summed over steps hides
  vanishing, since each dL/dh then holds a term of lag 0. In every layer the cotangent is rescaled
  to about 1 at each step and its power of two is added up as an integer, so the result is right at
  10^-900 and at 10^+900.

  Convention: per example, of its own loss; h_{s−k} is the carry that leaves step s−k, and the
  derivative is total: through later steps and through the layers above. Each leaf of the carry has
  its own norm, the others taken as independent of it. No truncation.

  Cost: one forward pass, and for each position one step's vector-Jacobian product a step and layer.

  Args:
    cells: the cell of each layer, the first nearest the input.
    params: of each cell.
    xs: [T, B, D], or tokens [T, B], as the first cell reads them.
    loss: `y -> [B]`, from the top cell's output y [B, H] at step s to each example's loss there;
      with several positions `ys -> [P, B]`, from the outputs ys [P, B, H] at all of them.
    positions: s, from 0 to T−1, or from the end as −1 to −T; or a sequence of P of them, taken
      side by side.
  Returns:
    For each layer, in the structure of its carry: log₁₀ norms [T, B], or [P, T, B], with the lag on
    the axis of T; −inf where the derivative is exactly zero, NaN where s−k is before the first
    step. Their mean over positions is `nanmean`.
  Raises:
    TypeError, ValueError: a position that is no step, none at all; or the loss is not one number an
      example and position.
  """
  num_steps, batch_size = xs.shape[:2]
  places = _check_positions(positions, num_steps)
  passes = forward_layers(cells, params, xs)
  ys = passes[-1].ys
  shape, wanted = jax.eval_shape(loss, ys[places]).shape, (*places.shape, batch_size)
  if shape != wanted:
    name = "[P, B]" if places.ndim else "[B]"
    raise ValueError(f"loss must return {name} = {list(wanted)}, got {list(shape)}.")
  bars = jax.grad(lambda y: jnp.sum(loss(y)))(ys[places])

  def of_position(place: Any, bar: Array) -> tuple[Carry, ...]:
    y_bars = unscaled(jnp.zeros_like(ys).at[place].set(bar))
    bars = reverse_layers(cells, passes, y_bars)
    return jax.tree.map(lambda a: _by_lag(a, place), tuple(map(log10_norms, bars)))

  if places.ndim:
    return jax.vmap(of_position)(places, bars)
  return of_position(places, bars)


def _by_lag(logs: Array, place: Any) -> Array:
  """[T, B] by time → [T, B] by lag: entry k is that of time place − k, NaN where there is none."""
  time = place - np.arange(len(logs), dtype=np.int32)
  return jnp.where(time[:, None] >= 0, logs[time], jnp.full_like(logs, jnp.nan))


def _check_positions(positions: Any, num_steps: int) -> np.ndarray:
  """int32 [] or [P], from 0 to T−1."""
  several = np.ndim(positions) > 0
  given = list(positions) if several else [positions]
  if not given:
    raise ValueError("positions must hold at least one step, got none.")
  for position in given:
    checks.integer("positions", position, minimum=-num_steps)
    if position >= num_steps:
      raise ValueError(f"positions must be below T = {num_steps}, got {position}.")
  places = np.array([int(position) % num_steps for position in given], np.int32)
  return places if several else places[0]
