"""Forward and in reverse through all layers of a deep network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from rnn_jax.gradient_flow.reverse_sweep import (
  Pass,
  Scaled,
  forward_pass,
  normalize,
  reverse_sweep,
)
from rnn_jax.types import Array, Cell, Params


def forward_layers(cells: Sequence[Cell], params: Sequence[Params], xs: Array) -> tuple[Pass, ...]:
  """Runs each layer over the outputs of the one below, the first over xs."""
  passes, ys = [], xs
  for cell, cell_params in zip(cells, params, strict=True):
    passes.append(forward_pass(cell, cell_params, ys))
    ys = passes[-1].ys
  return tuple(passes)


def reverse_layers(
  cells: Sequence[Cell], passes: Sequence[Pass], y_bars: Scaled
) -> tuple[Scaled, ...]:
  """dL/dh_t at every step of every layer, right far outside the range of floats.

  h_t leaves step t, and the derivative is total: through the output at t, through later steps and
  through the layers above.

  Cost: one step's vector-Jacobian product a step and layer.

  Args:
    cells: of the layers, the first nearest the input.
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
      y_bars = normalize(drive_bars._replace(value=x_bars))
  return tuple(reversed(bars))


def check_scalar(loss: Callable[[Array], Array], ys: Array) -> None:
  """Refuses a loss of the outputs ys that is no scalar."""
  shape = jax.eval_shape(loss, ys).shape
  if shape != ():
    raise ValueError(f"loss must return a scalar, got shape {list(shape)}.")
