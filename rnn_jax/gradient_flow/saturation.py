"""Gate values over time, and the share of them that is nearly open or nearly shut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.gradient_flow.layer_sweep import check_layers, forward_layers
from rnn_jax.gradient_flow.reverse_sweep import Pass
from rnn_jax.types import Cell, Params, Sequences

HIGH, LOW = 0.9, 0.1


class Saturation(NamedTuple):
  """Shares of a gate's values, from 0 to 1.

  Attributes:
    high: share above 0.9, [T].
    low: share below 0.1, [T].
  """

  high: Float[Array, " T"]
  low: Float[Array, " T"]


def gate_values(
  cells: Sequence[Cell], params: Sequence[Params], xs: Sequences
) -> tuple[dict[str, Float[Array, "T B H"]], ...]:
  """Returns the values of all gates of each layer.

    gate_t = σ(drive_t + recurrent_t)

  Gates are named as the cell names them: an LSTM's input, forget and output; a GRU's update (z,
  which keeps the old carry) and reset.

  Cost: one forward pass, and its recurrent products once more, over all time steps at once.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
  Returns:
    For each layer: {name: [T, B, H]}; {} for a cell without gates.
  Raises:
    TypeError, ValueError: no cell has gates, or arguments do not fit the layers.
  """
  check_layers(cells, params=params)
  if all(cell.gates is None for cell in cells):
    raise ValueError(
      f"cells must include one with gates, such as lstm or gru; none of these {len(cells)} has any."
    )
  return tuple(map(_layer_gates, cells, forward_layers(cells, params, xs)))


def _layer_gates(cell: Cell, run: Pass) -> dict[str, Float[Array, "T B H"]]:
  """Returns the `gate_values` of one layer."""
  if cell.gates is None:
    return {}
  recurrent = cell.recur(run.params, run.before)
  return cell.gates(run.params, run.before, run.drives, recurrent)


def saturation(
  cells: Sequence[Cell], params: Sequence[Params], xs: Sequences
) -> tuple[dict[str, Saturation], ...]:
  """Returns the share of gate values above 0.9 and below 0.1, for every gate, layer and step.

    high_t = mean_{b,i} [gate_{t,b,i} > 0.9]        low_t = mean_{b,i} [gate_{t,b,i} < 0.1]

  A gate near its bounds has almost no derivative of its own; a forget gate, or a GRU's z, near 1
  passes the gradient through unchanged. The mean is over examples and units.

  Cost: that of `gate_values`.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
  Returns:
    For each layer: {name of the gate: Saturation}; {} for a cell without gates.
  Raises:
    TypeError, ValueError: no cell has gates, or arguments do not fit the layers.
  References:
    Karpathy et al., 2015, section 4.2, https://arxiv.org/abs/1506.02078
  """

  def share(values: Array) -> Saturation:
    axes, dtype = tuple(range(1, values.ndim)), values.dtype
    return Saturation(
      jnp.mean(values > HIGH, axis=axes, dtype=dtype),
      jnp.mean(values < LOW, axis=axes, dtype=dtype),
    )

  return jax.tree.map(share, gate_values(cells, params, xs))
