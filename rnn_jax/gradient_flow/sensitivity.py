"""Sensitivity: how the carry moves, at every step, when the params do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from rnn_jax.time_loop import unroll
from rnn_jax.types import Array, Carry, Cell, Drive, Params


def sensitivity(
  cells: Sequence[Cell], params: Sequence[Params], xs: Array, direction: Sequence[Params]
) -> tuple[Carry, ...]:
  """dh_t/dθ along a direction θ̇ in parameter space, at every step of a deep network.

    ḣ_t = (∂h_t/∂h_{t−1}) ḣ_{t−1} + (∂h_t/∂θ) θ̇        ḣ_{−1} = 0

  Forward mode: beside the carry one tangent is carried along, whatever the number of steps. In an
  upper layer ∂h_t/∂θ includes the way through the layers below.

  Convention: per example; h_t is the carry that leaves step t, each of its leaves with its own
  tangent. For dh_t/dθ_i of a single param, θ̇ is 1 there and 0 elsewhere.

  Cost: about three forward passes, and the carries of all time.

  Args:
    cells: the cell of each layer, the first nearest the input.
    params: θ, of each cell.
    xs: [T, B, D], or tokens [T, B], as the first cell reads them.
    direction: θ̇, of each cell, in the structure, shapes and dtypes of the params.
  Returns:
    For each layer, in the structure of its carry: ḣ_t, leaves [T, B, H].
  Raises:
    ValueError: a direction that is not like the params.
  References:
    Williams and Zipser, 1989, https://doi.org/10.1162/neco.1989.1.2.270
  """
  params, direction = tuple(params), tuple(direction)
  _check_like(params, direction)

  def run(params: tuple[Params, ...]) -> tuple[Carry, ...]:
    ys, layers = xs, []
    for cell, cell_params in zip(cells, params, strict=True):

      def output(params: Params, carry: Carry, drive: Drive, cell: Cell = cell) -> Any:
        return carry, cell.output(params, carry, drive)

      watched = cell._replace(output=output)
      _, (carries, ys) = unroll(watched, cell_params, ys, forward_mode=True)
      layers.append(carries)
    return tuple(layers)

  return jax.jvp(run, (params,), (direction,))[1]


def _check_like(params: Any, direction: Any) -> None:
  wanted: Any = jax.tree.structure(params)
  got: Any = jax.tree.structure(direction)
  if got != wanted:
    raise ValueError(f"direction must have the structure of the params, {wanted}, got {got}.")
  for want, have in zip(jax.tree.leaves(params), jax.tree.leaves(direction), strict=True):
    if want.shape != have.shape or want.dtype != have.dtype:
      raise ValueError(
        f"direction must have leaves like those of the params, {want.dtype}{list(want.shape)}, "
        f"got {have.dtype}{list(have.shape)}."
      )
