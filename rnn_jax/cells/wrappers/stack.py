"""A deep recurrent network as one cell."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.typing import DTypeLike
from jaxtyping import Key, PyTree

from rnn_jax.cells.memoized import memoized
from rnn_jax.types import (
  Array,
  Carry,
  Cell,
  Drive,
  Inputs,
  Params,
  Recurrent,
  Shape,
  check_cells,
  output_size,
)

LayerParams = tuple[Params, ...]
LayerCarries = tuple[Carry, ...]


@memoized
def stack(cells: Sequence[Cell]) -> Cell[LayerParams, LayerCarries, Drive]:
  """Returns several layers as one cell, whose carry holds the carries of all layers.

    h¹_t = f¹(h¹_{t−1}, x_t)      hˡ_t = fˡ(hˡ_{t−1}, yˡ⁻¹_t)      y_t = yᴸ_t

  One step runs all layers, so its Jacobian is that of the whole network, which measures of the
  joint dynamics need. The outputs equal those of running the layers one after another, but take
  longer to compute, because the input products of the upper layers are inside the time loop.

  Step Jacobian: blocks ∂hˡ_t/∂hᵐ_{t−1}, zero for m > l. The diagonal blocks are those of the single
  layers, so the Lyapunov spectrum is the union of the layers' spectra. Derivatives treat the
  layers' carries at one step as independent variables: the effect of h¹_t through h²_t is part of
  dL/dh²_t, not of dL/dh¹_t.

  Args:
    cells: the cell of each layer, from the input upward. Only the first cell can draw random masks,
      because `project` of the other cells runs inside the loop, where no key is available.
  Returns:
    A Cell with the inputs of the first cell and the outputs of the last; its params and carry are
    tuples with one entry per layer.
  Raises:
    TypeError: if `cells` is not a sequence, or an entry is not a Cell.
    ValueError: if `cells` is empty.
  """
  check_cells(cells)
  cells = tuple(cells)

  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> LayerParams:
    params = []
    for cell, layer_key in zip(cells, jax.random.split(key, len(cells)), strict=True):
      params.append(cell.init(layer_key, input_size, dtype))
      input_size = output_size(cell, params[-1], input_size, dtype)
    return tuple(params)

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> LayerCarries:
    return tuple(cell.initial_carry(batch_shape, dtype) for cell in cells)

  def prepare(params: LayerParams) -> LayerParams:
    return tuple(cell.prepare(of_cell) for cell, of_cell in zip(cells, params, strict=True))

  def project(params: LayerParams, xs: Inputs, key: Key[Array, ""] | None = None) -> Drive:
    return cells[0].project(params[0], xs, key)

  def recur(params: LayerParams, carry: LayerCarries) -> tuple[Recurrent, ...]:
    return tuple(cell.recur(p, h) for cell, p, h in zip(cells, params, carry, strict=True))

  def update(
    params: LayerParams, carry: LayerCarries, drive: Drive, recurrent: tuple[Recurrent, ...]
  ) -> LayerCarries:
    new: list[Carry] = []
    for i, cell in enumerate(cells):
      if i > 0:
        y = cells[i - 1].output(params[i - 1], new[-1], drive)
        drive = cell.project(params[i], y)
      new.append(cell.update(params[i], carry[i], drive, recurrent[i]))
    return tuple(new)

  def output(params: LayerParams, carry: LayerCarries, drive: Drive) -> PyTree:
    # Compute the upper layers' drives again, because `update` does not return them. XLA merges the
    # two computations, and drops drives that no output reads.
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
