"""Forward and reverse sweeps through all layers of a deep network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_jax import checks
from rnn_jax.gradient_flow.reverse_sweep import (
  Pass,
  Scaled,
  forward_pass,
  normalize,
  reverse_sweep,
)
from rnn_jax.precision import at_least_float32
from rnn_jax.time_loop import check_params
from rnn_jax.types import Carry, Cell, Params, Sequences, check_cells

ScalarLoss = Callable[[Array], Float[Array, ""]]


def check_layers(cells: Sequence[Cell], **entries: Sequence[Params | Carry]) -> None:
  """Checks that `cells` holds cells and that each other argument has one entry per layer.

  Args:
    cells: the cell of each layer.
    **entries: the other arguments by name, such as `params`, for the error message.
  Raises:
    TypeError: if `cells` or another argument is not a sequence, or if `cells` holds a non-Cell.
    ValueError: if `cells` is empty, or if another argument's length differs from that of `cells`.
  """
  check_cells(cells)
  for name, value in entries.items():
    checks.per_layer(name, value, len(cells))


def forward_layers(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  carries: Sequence[Carry] | None = None,
) -> tuple[Pass, ...]:
  """Runs a deep network, each layer on the outputs of the layer below.

  Args:
    cells: the cell of each layer, the layer nearest the input first.
    params: the params of each cell.
    xs: the first layer's inputs: [T, B, D], or tokens [T, B].
    carries: the initial carry of each layer, leaves [B, ...]; zeros if None.
  Returns:
    For each layer, a Pass: the part of its forward pass that a reverse sweep needs, in at least
    float32.
  Raises:
    TypeError, ValueError: if `params` or `carries` does not have one entry per layer or does not
      fit the cells.
  """
  check_layers(cells, params=params, **({} if carries is None else {"carries": carries}))
  passes: list[Pass] = []
  xs = checks.array("xs", xs, "floats", "integers")
  params, ys, carries = at_least_float32((params, xs, carries))
  for i, (cell, cell_params) in enumerate(zip(cells, params, strict=True)):
    check_params(f"params[{i}]", cell, cell_params, ys)
    passes.append(forward_pass(cell, cell_params, ys, None if carries is None else carries[i]))
    ys = passes[-1].ys
  return tuple(passes)


def reverse_layers(
  cells: Sequence[Cell], passes: Sequence[Pass], y_bars: Scaled
) -> tuple[Scaled, ...]:
  """Returns dL/dh_t at every step of every layer, correct even far outside the float range.

  h_t is the carry after step t. The derivative is total: it includes the paths through the output
  at t, through later steps and through the layers above.

  Cost: one single-step vector-Jacobian product for every step and layer.

  Args:
    cells: the cell of each layer, the layer nearest the input first.
    passes: from `forward_layers`.
    y_bars: dL/dy_t, the cotangent of the top layer's outputs, [T, B, ...].
  Returns:
    For each layer: dL/dh_t in the structure of its carry, leaves [T, B, H].
  """
  bars = []
  for i in reversed(range(len(cells))):
    totals, drive_bars = reverse_sweep(cells[i], passes[i], y_bars)
    bars.append(totals)
    if i > 0:
      (x_bars,) = passes[i].inputs_vjp(drive_bars.value)
      y_bars = normalize(Scaled(x_bars, drive_bars.exponent))
  return tuple(reversed(bars))


def check_loss(
  loss: Callable[[Any], Array],
  ys: PyTree[Array | jax.ShapeDtypeStruct],
  shape: tuple[int, ...] = (),
  name: str = "a scalar",
) -> None:
  """Checks that `loss(ys)` is an array of floats of the given shape, without running it.

  Args:
    loss: a function of the network's outputs, or of something else.
    ys: its argument, or a pytree of shapes and dtypes.
    shape: the shape that the loss must return.
    name: a description of that shape, for the error message.
  Raises:
    TypeError: if `loss` is not a function, or does not return an array of floats.
    ValueError: if `loss` returns an array of a different shape.
  """
  checks.function("loss", loss)
  value = jax.eval_shape(loss, ys)
  if not isinstance(value, jax.ShapeDtypeStruct) or not jnp.issubdtype(value.dtype, jnp.floating):
    raise TypeError(f"loss must return floats, got {checks.shapes(value)}.")
  if value.shape != shape:
    raise ValueError(f"loss must return {name}, got {list(value.shape)}.")
