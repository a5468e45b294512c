"""A deep recurrent network as one cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from rnn_jax.cells.output_size import output_size
from rnn_jax.types import Array, Carry, Cell, Drive, Params


def stack(cells: Sequence[Cell]) -> Cell:
  """Several layers as one cell, whose carry is that of all of them.

    h¹_t = f¹(h¹_{t−1}, x_t)      hˡ_t = fˡ(hˡ_{t−1}, yˡ⁻¹_t)      y_t = yᴸ_t

  One step takes all layers, so that it has the Jacobian of the whole network: for measures of the
  joint dynamics. It computes what the layers compute one after another, but slower: the input
  products of the upper layers are in the loop.

  Step Jacobian: blocks ∂hˡ_t/∂hᵐ_{t−1}, zero for m > l. Those on the diagonal are the layers' own,
  so the Lyapunov spectrum is that of all layers together. The layers' carries at one step count as
  independent of each other: what h¹_t does through h²_t is part of dL/dh²_t, not of dL/dh¹_t.

  Args:
    cells: the cell of each layer, the first nearest the input. The others get no key to draw masks
      from: theirs would have to be drawn for all time before the loop.
  Returns:
    A Cell: x as the first cell reads it, params and carry tuples with one entry a layer, y as the
    last cell gives it.
  Raises:
    ValueError: no cells.
  """
  cells = tuple(cells)
  if not cells:
    raise ValueError("cells must hold at least one cell, got none.")

  def init(key: Array, input_size: int, dtype: Any = float) -> tuple[Params, ...]:
    params = []
    for cell, layer_key in zip(cells, jax.random.split(key, len(cells)), strict=True):
      params.append(cell.init(layer_key, input_size, dtype))
      input_size = output_size(cell, params[-1], input_size, dtype)
    return tuple(params)

  def initial_carry(batch_shape: tuple[int, ...], dtype: Any = float) -> tuple[Carry, ...]:
    return tuple(cell.initial_carry(batch_shape, dtype) for cell in cells)

  def prepare(params: Params) -> tuple[Params, ...]:
    return tuple(cell.prepare(of_cell) for cell, of_cell in zip(cells, params, strict=True))

  def project(params: Params, xs: Array, key: Array | None = None) -> Drive:
    return cells[0].project(params[0], xs, key)

  def recur(params: Params, carry: Carry) -> tuple[Any, ...]:
    return tuple(cell.recur(*layer) for cell, *layer in zip(cells, params, carry, strict=True))

  def update(params: Params, carry: Carry, drive: Drive, recurrent: Any) -> tuple[Carry, ...]:
    new: list[Carry] = []
    for i, cell in enumerate(cells):
      if i > 0:
        y = cells[i - 1].output(params[i - 1], new[-1], drive)
        drive = cell.project(params[i], y)
      new.append(cell.update(params[i], carry[i], drive, recurrent[i]))
    return tuple(new)

  def output(params: Params, carry: Carry, drive: Drive) -> Any:
    # The drives of `update` again: XLA computes them once, and none that no output reads.
    for i in range(1, len(cells)):
      y = cells[i - 1].output(params[i - 1], carry[i - 1], drive)
      drive = cells[i].project(params[i], y)
    return cells[-1].output(params[-1], carry[-1], drive)

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=prepare,
    project=project,
    recur=recur,
    update=update,
    output=output,
  )
