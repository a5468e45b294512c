"""Functions shared by the linear recurrences h' = a ∘ h + b, whose a and b do not depend on h.

The *drive* is what `project` computes from the inputs of all steps before the time loop.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Inexact, Key

from rnn_jax import checks
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  Drive,
  FlatParams,
  GatesFn,
  InitFn,
  InitialCarryFn,
  LinearFn,
  OutputFn,
  PrepareFn,
  ProjectFn,
)


def linear_cell(
  *,
  init: InitFn[FlatParams],
  initial_carry: InitialCarryFn[Array],
  prepare: PrepareFn[FlatParams],
  project: ProjectFn[FlatParams, Drive],
  linear: LinearFn[FlatParams, Array, Drive],
  output: OutputFn[FlatParams, Array, Drive],
  gates: GatesFn[FlatParams, Array, Drive] | None = None,
  output_is_carry: bool = False,
) -> Cell[FlatParams, Array, Drive]:
  """Returns a Cell with the update h' = a ∘ h + b, where (a, b) = linear(params, drive).

  Its `recur` returns an empty tuple, because there is no recurrent product. Each argument is the
  field of `Cell` with the same name.
  """

  def recur(params: FlatParams, h: Inexact[CellArray, "*batch H"]) -> tuple[()]:
    del params, h
    return ()

  def update(
    params: FlatParams, h: Inexact[CellArray, "*batch H"], drive: Drive, recurrent: tuple[()]
  ) -> Inexact[Array, "*batch H"]:
    del recurrent
    a, b = linear(params, drive)
    return a * h + b

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=prepare,
    project=project,
    recur=recur,
    update=update,
    output=output,
    gates=gates,
    linear=linear,
    output_is_carry=output_is_carry,
  )


def on_ring(
  key: Key[Array, ""], size: int, inner: int | float, outer: int | float, dtype: DTypeLike
) -> Float[Array, " {size}"]:
  """Returns ln r, where r are the radii of `size` points drawn from a ring in the complex plane.

  The points are uniform in area: r² ~ U(inner², outer²). The lower limit is kept above 0, so that
  the logarithm is finite.
  """
  least = max(inner**2, float(jnp.finfo(dtype).tiny))
  return jnp.log(jax.random.uniform(key, (size,), dtype, least, outer**2)) / 2


def check_ring(min_radius: int | float, max_radius: int | float) -> None:
  """Raises unless 0 ≤ min_radius < max_radius ≤ 1.

  Raises:
    TypeError: if a radius is not a number.
    ValueError: if the radii violate the inequality.
  """
  for name, value in (("min_radius", min_radius), ("max_radius", max_radius)):
    checks.number(name, value, minimum=0, maximum=1)
  if min_radius >= max_radius:
    raise ValueError(f"min_radius must be below max_radius = {max_radius}, got {min_radius}.")
