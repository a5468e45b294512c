"""The width of what a cell gives."""

from __future__ import annotations

from typing import Any

import jax

from rnn_jax.types import Array, Cell, Params


def output_size(
  cell: Cell, params: Params, input_size: int, dtype: Any = float, *, prepared: bool = False
) -> int:
  """Width of y for x [input_size] of `dtype`, with params from `init`, or `prepared` ones.

  Nothing is computed.
  """

  def output(params: Params, x: Array) -> Any:
    params = params if prepared else cell.prepare(params)
    return cell.output(params, cell.initial_carry((), dtype), cell.project(params, x))

  x = jax.ShapeDtypeStruct((input_size,), jax.dtypes.canonicalize_dtype(dtype))
  return jax.eval_shape(output, params, x).shape[-1]
