"""Forward and reverse sweeps through all layers of a deep network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.gradient_flow.reverse_sweep import (
  Pass,
  Scaled,
  forward_pass,
  normalize,
  reverse_sweep,
)
from rnn_jax.types import Carry, Cell, Params, Sequences

ScalarLoss = Callable[[Array], Float[Array, ""]]


def check_layers(cells: Sequence[Cell], **entries: Sequence[Params | Carry]) -> None:
  """Checks that `cells` holds cells and that each of `entries` has one entry per layer.

  Raises:
    TypeError: `cells` or an entry is not a sequence, or `cells` holds something else.
    ValueError: no cells, or an entry of another length.
  """
  if isinstance(cells, Cell) or not isinstance(cells, Sequence):
    raise TypeError(f"cells must be a sequence, one cell a layer, got {type(cells).__name__}.")
  for i, cell in enumerate(cells):
    if not isinstance(cell, Cell):
      raise TypeError(f"cells must hold cells, got {type(cell).__name__} at [{i}].")
  if not cells:
    raise ValueError("cells must hold at least one cell, got none.")
  for name, value in entries.items():
    if isinstance(value, Mapping) or not isinstance(value, Sequence):
      raise TypeError(f"{name} must be a sequence, one entry a layer, got {type(value).__name__}.")
    if len(value) != len(cells):
      raise ValueError(f"{name} must have {len(cells)} entries, one a layer, got {len(value)}.")


def forward_layers(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  carries: Sequence[Carry] | None = None,
) -> tuple[Pass, ...]:
  """Runs a deep network, each layer over the outputs of the layer below.

  Args:
    cells: the cell of each layer, the layer nearest the input first.
    params: of each cell.
    xs: [T, B, D], or tokens [T, B], as the first cell reads them.
    carries: the initial carry of each layer, leaves [B, ...]; zeros if None.
  Returns:
    The Pass of each layer.
  Raises:
    TypeError, ValueError: arguments that do not have one entry a layer.
  """
  check_layers(cells, params=params, **({} if carries is None else {"carries": carries}))
  passes: list[Pass] = []
  ys = jnp.asarray(xs)
  for i, (cell, cell_params) in enumerate(zip(cells, params, strict=True)):
    passes.append(forward_pass(cell, cell_params, ys, None if carries is None else carries[i]))
    ys = passes[-1].ys
  return tuple(passes)


def reverse_layers(
  cells: Sequence[Cell], passes: Sequence[Pass], y_bars: Scaled
) -> tuple[Scaled, ...]:
  """Returns dL/dh_t at every step of every layer, right far outside the range of floats.

  h_t leaves step t, and the derivative is total: through the output at t, through later steps and
  through the layers above.

  Cost: one vector-Jacobian product of a step, per step and layer.

  Args:
    cells: the cell of each layer, the layer nearest the input first.
    passes: from `forward_layers`.
    y_bars: dL/dy_t, the cotangent of the top layer's outputs, [T, B, ...].
  Returns:
    For each layer: leaves [T, B, H].
  """
  bars = []
  for i in reversed(range(len(cells))):
    totals, drive_bars = reverse_sweep(cells[i], passes[i], y_bars)
    bars.append(totals)
    if i > 0:
      (x_bars,) = passes[i].inputs_vjp(drive_bars.value)
      y_bars = normalize(Scaled(x_bars, drive_bars.exponent))
  return tuple(reversed(bars))


def check_scalar(loss: ScalarLoss, ys: Array | jax.ShapeDtypeStruct) -> None:
  """Raises a ValueError if the loss of the outputs ys is not a scalar."""
  shape = jax.eval_shape(loss, ys).shape
  if shape != ():
    raise ValueError(f"loss must return a scalar, got shape {list(shape)}.")
