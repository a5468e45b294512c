"""The lag profile: norms of the gradient of one step's loss with respect to each earlier carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rnn_jax import checks
from rnn_jax.gradient_flow.layer_sweep import check_loss, forward_layers, reverse_layers
from rnn_jax.gradient_flow.reverse_sweep import log10_norms, unscaled
from rnn_jax.types import Carry, Cell, Params, Sequences

Position = Int[Array | np.ndarray, ""] | np.int32


def lag_profile(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  loss: Callable[[Array], Array],
  *,
  positions: int | Sequence[int] = -1,
) -> tuple[Carry, ...]:
  """Returns the lag profile log₁₀ ‖∂L_s/∂h_{s−k}‖ of each layer, for the lags k = 0 … T−1.

  L_s is the loss at step s alone, by default the last step. (A loss summed over steps would hide
  vanishing, because each dL/dh_t would then contain a term of lag 0.) The reverse sweep of every
  layer rescales the cotangent to about 1 at each step and keeps the removed power of two in an
  integer, so norms as small as 10^-900 or as large as 10^+900 are correct.

  Convention: one norm per example, for that example's own loss. h_{s−k} is the carry after step
  s−k. The derivative is total: it includes the paths through later steps and through the layers
  above. Each leaf of h_{s−k} has its own norm, with the other leaves held constant. Gradients are
  not truncated.

  Cost: one forward pass; then for each position, one single-step vector-Jacobian product for every
  step and layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    loss: `y -> [B]`, maps the top cell's outputs y [B, H] at step s to each example's loss. If
      `positions` is a sequence, the loss is `ys -> [P, B]`, a function of the top cell's outputs ys
      [P, B, H] at all P positions.
    positions: the step s, from 0 to T−1, or from −T to −1 to count from the end; or a sequence of P
      such steps, computed in parallel.
  Returns:
    For each layer, in the structure of its carry: log₁₀ norms [T, B] or [P, T, B], where the axis T
    is the lag; −inf where the derivative is exactly zero, NaN where step s−k does not exist
    (k > s). To average over positions, use `nanmean`.
  Raises:
    TypeError, ValueError: if `positions` is empty or includes anything but a step, if the loss does
      not return one number per example and position, or if the arguments do not fit the layers.
  """
  passes = forward_layers(cells, params, xs)
  ys = passes[-1].ys
  num_steps, batch_size = ys.shape[:2]
  steps = _check_positions(positions, num_steps)
  wanted = (*steps.shape, batch_size)
  check_loss(loss, ys[steps], wanted, f"{'[P, B]' if steps.ndim else '[B]'} = {list(wanted)}")
  bars = jax.grad(lambda y: jnp.sum(loss(y)))(ys[steps])

  def profile_at(position: Position, bar: Array) -> tuple[Carry, ...]:
    y_bars = unscaled(jnp.zeros_like(ys).at[position].set(bar))
    bars = reverse_layers(cells, passes, y_bars)
    return jax.tree.map(lambda a: _by_lag(a, position), tuple(map(log10_norms, bars)))

  if steps.ndim:
    return jax.vmap(profile_at)(steps, bars)
  return profile_at(steps, bars)


def _by_lag(logs: Float[Array, "T B"], position: Position) -> Float[Array, "T B"]:
  """Reorders norms from time to lag.

  Entry k of the result is the norm at step `position` − k, or NaN if that step is before step 0.
  """
  time = position - np.arange(len(logs), dtype=np.int32)
  return jnp.where(time[:, None] >= 0, logs[time], jnp.full_like(logs, jnp.nan))


def _check_positions(
  positions: int | Sequence[int], num_steps: int
) -> Int[np.ndarray, " P"] | np.int32:
  """Returns the positions as int32 in 0 … T−1: [P] if given a sequence, otherwise a scalar."""
  if not isinstance(positions, Sequence | np.ndarray):
    return np.int32(_check_position(positions, num_steps))
  if len(positions) == 0:
    raise ValueError("positions must hold at least one step, got none.")
  return np.array([_check_position(position, num_steps) for position in positions], np.int32)


def _check_position(position: int, num_steps: int) -> int:
  """Returns the position as an int in 0 … T−1; a negative one counts from the end."""
  checks.integer("positions", position, minimum=-num_steps)
  if position >= num_steps:
    raise ValueError(f"positions must be below T = {num_steps}, got {position}.")
  return int(position) % num_steps
