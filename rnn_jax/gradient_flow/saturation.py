"""Gate values at every step, and the fraction of them that is nearly open or nearly closed."""

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
  """The fractions of one gate's values that are saturated, at every step.

  Attributes:
    high: fraction of values above 0.9, [T].
    low: fraction of values below 0.1, [T].
  """

  high: Float[Array, " T"]
  low: Float[Array, " T"]


def gate_values(
  cells: Sequence[Cell], params: Sequence[Params], xs: Sequences
) -> tuple[dict[str, Float[Array, "T B H"]], ...]:
  """Returns the values of all gates of each layer, at every step.

    gate_t = σ(drive_t + recurrent_t)

  drive_t and recurrent_t are the input's and the carry's parts of the pre-activation. The cell
  names its gates: input, forget and output for an LSTM; update (z, which keeps the old carry) and
  reset for a GRU.

  Cost: one forward pass, plus a second evaluation of its recurrent products, batched over time.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
  Returns:
    For each layer: {name of the gate: [T, B, H]}; {} for a cell without gates.
  Raises:
    TypeError, ValueError: if no cell has gates, or if the arguments do not fit the layers.
  """
  check_layers(cells, params=params)
  if all(cell.gates is None for cell in cells):
    raise ValueError(
      f"cells must include one with gates, such as lstm or gru; none of these {len(cells)} has any."
    )
  return tuple(map(_layer_gates, cells, forward_layers(cells, params, xs)))


def _layer_gates(cell: Cell, run: Pass) -> dict[str, Float[Array, "T B H"]]:
  """Computes `gate_values` for one layer, from its forward pass."""
  if cell.gates is None:
    return {}
  recurrent = cell.recur(run.params, run.before)
  return cell.gates(run.params, run.before, run.drives, recurrent)


def saturation(
  cells: Sequence[Cell], params: Sequence[Params], xs: Sequences
) -> tuple[dict[str, Saturation], ...]:
  """Returns the fraction of gate values above 0.9 and below 0.1, for every gate, layer and step.

    high_t = mean_{b,i} [gate_{t,b,i} > 0.9]        low_t = mean_{b,i} [gate_{t,b,i} < 0.1]

  The mean is over examples b and units i. A gate near 0 or 1 is saturated: almost no gradient flows
  into its own pre-activation. A forget gate (or a GRU's update gate z) near 1 passes the carry's
  gradient through unchanged.

  Cost: that of `gate_values`.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
  Returns:
    For each layer: {name of the gate: Saturation}; {} for a cell without gates.
  Raises:
    TypeError, ValueError: if no cell has gates, or if the arguments do not fit the layers.
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
