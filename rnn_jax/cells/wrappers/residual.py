"""Residual connections around a cell."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.memoized import memoized
from rnn_jax.types import Array, C, Cell, D, Inputs, P, Recurrent, output_size


@memoized
def residual(cell: Cell[P, C, D]) -> Cell[P, C, tuple[D, Array]]:
  """Returns a cell that adds the input x_t to the output of `cell`.

    y_t = x_t + output(h_t)

  The wrapped cell thus learns the difference y_t − x_t. The carry and its step Jacobian are those
  of the wrapped cell. dL/dx_t contains the term dL/dy_t, so a gradient passes from layer to layer
  unchanged, in addition to its path through the wrapped cell.

  Args:
    cell: the cell to wrap; its outputs must be as wide as its inputs.
  Returns:
    A Cell with the params, carry and gates of `cell`; x and y [..., D]; its drive is the pair
    (drive of `cell`, x). Its `init` and `project` raise a ValueError if inputs and outputs differ
    in width; `project` also raises one for integer tokens.
  Raises:
    TypeError: if `cell` is not a Cell.
  References:
    He et al., 2016, https://arxiv.org/abs/1512.03385; between recurrent layers, Wu et al., 2016,
    section 3.1, https://arxiv.org/abs/1609.08144
  """
  checks.instance("cell", cell, Cell)

  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> P:
    params = cell.init(key, input_size, dtype)
    _check_width(input_size, output_size(cell, params, input_size, dtype))
    return params

  def project(params: P, xs: Inputs, key: Key[Array, ""] | None = None) -> tuple[D, Array]:
    if jnp.issubdtype(xs.dtype, jnp.integer):
      raise ValueError(
        "xs of a residual cell must be vectors, to be added to its output, got tokens "
        f"{xs.dtype}{list(xs.shape)}."
      )
    width = xs.shape[-1]
    _check_width(width, output_size(cell, params, width, xs.dtype, prepared=True))
    return cell.project(params, xs, key), xs

  def update(params: P, carry: C, drive: tuple[D, Array], recurrent: Recurrent) -> C:
    return cell.update(params, carry, drive[0], recurrent)

  def output(params: P, carry: C, drive: tuple[D, Array]) -> Float[Array, "*batch D"]:
    return drive[1] + cell.output(params, carry, drive[0])

  gates, linear = cell.gates, cell.linear
  return Cell(
    init=init,
    initial_carry=cell.initial_carry,
    prepare=cell.prepare,
    project=project,
    recur=cell.recur,
    update=update,
    output=output,
    gates=None if gates is None else (lambda p, h, d, r: gates(p, h, d[0], r)),
    linear=None if linear is None else (lambda p, d: linear(p, d[0])),
    recurrent_kernel=cell.recurrent_kernel,
  )


def _check_width(input_size: int, width: int) -> None:
  if width != input_size:
    raise ValueError(
      f"xs of a residual cell must be as wide as its output, [..., {width}], "
      f"got a width of {input_size}."
    )
