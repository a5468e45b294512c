"""Residual layers: the gradient's way past a cell."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rnn_jax.cells.output_size import output_size
from rnn_jax.types import Array, Carry, Cell, Drive, Params


def residual(cell: Cell) -> Cell:
  """A cell whose input is added to its output: a layer learns what it changes.

    y_t = x_t + output(h_t)

  The carry and its step Jacobian are the cell's own. In depth, dL/dx_t has the term dL/dy_t itself:
  the gradient passes the layer unchanged beside what goes through its cell.

  Args:
    cell: the cell; its output is as wide as what it reads.
  Returns:
    A Cell with the params, carry and gates of `cell`; x and y [..., D]; drive (that of `cell`, x).
    Its `init` and `project` raise a ValueError for an x of another width, and for tokens.
  References:
    He et al., 2016, https://arxiv.org/abs/1512.03385; between recurrent layers, Wu et al., 2016,
    section 3.1, https://arxiv.org/abs/1609.08144
  """

  def init(key: Array, input_size: int, dtype: Any = float) -> Params:
    params = cell.init(key, input_size, dtype)
    check(output_size(cell, params, input_size, dtype), input_size)
    return params

  def check(width: int, input_size: int) -> None:
    if width != input_size:
      raise ValueError(
        f"xs of a residual cell must be as wide as its output, [..., {width}], "
        f"got a width of {input_size}."
      )

  def project(params: Params, xs: Array, key: Array | None = None) -> tuple[Drive, Array]:
    if jnp.issubdtype(xs.dtype, jnp.integer):
      raise ValueError(
        "xs of a residual cell must be vectors, to be added to its output, got tokens "
        f"{xs.dtype}{list(xs.shape)}."
      )
    check(output_size(cell, params, xs.shape[-1], xs.dtype, prepared=True), xs.shape[-1])
    return cell.project(params, xs, key), xs

  def update(params: Params, carry: Carry, drive: Drive, recurrent: Any) -> Carry:
    return cell.update(params, carry, drive[0], recurrent)

  def output(params: Params, carry: Carry, drive: Drive) -> Any:
    return drive[1] + cell.output(params, carry, drive[0])

  gates, linear = cell.gates, cell.linear
  return cell._replace(
    init=init,
    project=project,
    update=update,
    output=output,
    gates=gates and (lambda p, carry, drive, recurrent: gates(p, carry, drive[0], recurrent)),
    output_is_carry=False,
    linear=linear and (lambda params, drive: linear(params, drive[0])),
  )
