"""Gates: their values over time, and the share of them that is all but open or shut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.gradient_flow.reverse_sweep import forward_pass
from rnn_jax.types import Array, Cell, Params

HIGH, LOW = 0.9, 0.1


class Saturation(NamedTuple):
  """Shares of a gate's values, from 0 to 1.

  Attributes:
    high: share above 0.9, [T].
    low: share below 0.1, [T].
  """

  high: Array
  low: Array


def gate_values(
  cells: Sequence[Cell], params: Sequence[Params], xs: Array
) -> tuple[dict[str, Array], ...]:
  """Values of all gates of a deep network, as it runs over xs from carries of zeros.

    gate_t = σ(drive_t + recurrent_t), by its name: an LSTM's input, forget, output; a GRU's update
    (z, which keeps the old carry) and reset

  Cost: one forward pass, and its recurrent products once more, for all of time at once.

  Args:
    cells: the cell of each layer, the first nearest the input.
    params: of each cell.
    xs: [T, B, D], or tokens [T, B], as the first cell reads them.
  Returns:
    For each layer: {name: [T, B, H]}; {} for a cell without gates.
  Raises:
    ValueError: no cell has gates.
  """
  values: list[dict[str, Array]] = []
  ys = xs
  for cell, cell_params in zip(cells, params, strict=True):
    run = forward_pass(cell, cell_params, ys)
    if cell.gates is None:
      values.append({})
    else:
      recurrent = cell.recur(run.params, run.before)
      values.append(cell.gates(run.params, run.before, run.drives, recurrent))
    ys = run.ys
  if not any(values):
    raise ValueError(
      f"cells must hold one with gates, such as lstm or gru; none of these {len(cells)} has any."
    )
  return tuple(values)


def saturation(
  cells: Sequence[Cell], params: Sequence[Params], xs: Array
) -> tuple[dict[str, Saturation], ...]:
  """Share of gate values above 0.9 and below 0.1, of every gate, layer and step.

    high_t = mean_{b,i} [gate_{t,b,i} > 0.9]        low_t = mean_{b,i} [gate_{t,b,i} < 0.1]

  A gate at its bound has next to no derivative of its own; a forget gate, or a GRU's z, near 1
  hands the gradient on unchanged. The mean is over examples and units.

  Cost: that of `gate_values`.

  Args:
    cells: the cell of each layer, the first nearest the input.
    params: of each cell.
    xs: [T, B, D], or tokens [T, B], as the first cell reads them.
  Returns:
    For each layer: {name of the gate: Saturation}; {} for a cell without gates.
  Raises:
    ValueError: no cell has gates.
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
