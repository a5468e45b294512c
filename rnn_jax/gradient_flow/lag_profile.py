"""The lag profile: the gradient of the loss at one step, by how many steps it reaches back."""

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
  """Returns the renormalized lag profile log₁₀ ‖∂L_s/∂h_{s−k}‖ of each layer, k = 0 … T−1.

  L_s is the loss at step s alone, by default the last step: a loss summed over steps hides
  vanishing, because each dL/dh then contains a term of lag 0. In every layer the cotangent is
  rescaled to about 1 at each step and its power of two is added to an integer, so the result is
  right at 10^-900 and at 10^+900.

  Convention: per example, of its own loss. h_{s−k} is the carry that leaves step s−k, and the
  derivative is total: through later steps and through the layers above. Each leaf of the carry has
  its own norm and counts as independent of the other leaves. No truncation.

  Cost: one forward pass; for each position one vector-Jacobian product of a step, per step and
  layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    loss: `y -> [B]`, from the top cell's outputs y [B, H] at step s to each example's loss there;
      with several positions `ys -> [P, B]`, from the outputs ys [P, B, H] at all of them.
    positions: s, from 0 to T−1, or −1 to −T from the end; or a sequence of P of them, computed in
      parallel.
  Returns:
    For each layer, in the structure of its carry: log₁₀ norms [T, B], or [P, T, B], with the lag on
    the axis of T; −inf where the derivative is exactly zero, NaN where s−k is before the first
    step. `nanmean` averages over positions.
  Raises:
    TypeError, ValueError: a position that is not a step, or no position; a loss that does not
      return one number for each example and position; arguments that do not fit the layers.
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
  """Reorders norms by time into norms by lag: entry k is time position − k, or NaN before 0."""
  time = position - np.arange(len(logs), dtype=np.int32)
  return jnp.where(time[:, None] >= 0, logs[time], jnp.full_like(logs, jnp.nan))


def _check_positions(
  positions: int | Sequence[int], num_steps: int
) -> Int[np.ndarray, " P"] | np.int32:
  """Returns the positions, [P] or a scalar, counted from 0."""
  if not isinstance(positions, Sequence | np.ndarray):
    return np.int32(_check_position(positions, num_steps))
  if len(positions) == 0:
    raise ValueError("positions must hold at least one step, got none.")
  return np.array([_check_position(position, num_steps) for position in positions], np.int32)


def _check_position(position: int, num_steps: int) -> int:
  """Returns the position, from 0 to T−1."""
  checks.integer("positions", position, minimum=-num_steps)
  if position >= num_steps:
    raise ValueError(f"positions must be below T = {num_steps}, got {position}.")
  return int(position) % num_steps
