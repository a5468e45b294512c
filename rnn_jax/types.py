"""The type `Cell`, the one abstraction on which the rest of this library is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, Key, PyTree, Shaped

from rnn_jax import checks

if TYPE_CHECKING:
  from typing import Generic
else:

  class _Erased:
    """A run-time replacement for `Generic`.

    It is needed because the tests check annotations with beartype, which does not accept generic
    NamedTuples.
    """

    def __class_getitem__(cls, parameters):
      return cls()

    def __mro_entries__(self, bases):
      return ()

  Generic = _Erased

Array = jax.Array
AnyArray: TypeAlias = jax.Array | np.ndarray  # for public signatures, which accept NumPy arrays
Sequences: TypeAlias = Float[AnyArray, "T B D"] | Integer[AnyArray, "T B"]  # vectors, or tokens
# The type of the arrays that a cell receives. To a type checker they are JAX arrays, which have
# `.at`, because the time loop passes no others. At run time tests and measures also pass NumPy
# arrays.
if TYPE_CHECKING:
  CellArray = jax.Array
else:
  CellArray = AnyArray

Size: TypeAlias = int | Any  # size of an axis, symbolic in some programs of `jax.export`
Shape: TypeAlias = tuple[Size, ...]

# Types shared by all cells.
Params: TypeAlias = PyTree  # from the cell's `init` or `prepare`
Carry: TypeAlias = PyTree  # an array, or a NamedTuple of arrays
Drive: TypeAlias = (
  PyTree  # the input's part of the pre-activation: [..., G·H] for G gates, or a pytree
)
Recurrent: TypeAlias = PyTree  # the recurrent product, which `recur` returns

# Types for the cells of `CELLS`, whose params are a flat dict. H is the number of units, and W is
# any width.
FlatParams: TypeAlias = Mapping[str, CellArray]
Units: TypeAlias = Float[CellArray, "*batch H"]
Features: TypeAlias = Float[CellArray, "*batch W"]
Gates: TypeAlias = dict[str, Units]  # {name of the gate: its values}
Inputs: TypeAlias = (
  Float[CellArray, "*batch D"] | Integer[CellArray, "*batch"]
)  # vectors, or tokens

# A number or a traced scalar. If it is traced, a sweep over it is one compiled program.
Number: TypeAlias = int | float | np.integer | np.floating | Shaped[AnyArray, ""]

P = TypeVar("P")
C = TypeVar("C")
D = TypeVar("D")
P_co = TypeVar("P_co", covariant=True)
C_co = TypeVar("C_co", covariant=True)
D_co = TypeVar("D_co", covariant=True)
P_contra = TypeVar("P_contra", contravariant=True)
C_contra = TypeVar("C_contra", contravariant=True)
D_contra = TypeVar("D_contra", contravariant=True)


@runtime_checkable
class InitFn(Protocol[P_co]):
  """The type of `Cell.init`, `(key, input_size, dtype=float) -> params`."""

  def __call__(self, key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> P_co: ...


@runtime_checkable
class InitialCarryFn(Protocol[C_co]):
  """The type of `Cell.initial_carry`, `(batch_shape, dtype=float) -> carry`.

  The carry is zeros, with leaves `[*batch_shape, ...]`.
  """

  def __call__(self, batch_shape: Shape, dtype: DTypeLike = float) -> C_co: ...


@runtime_checkable
class PrepareFn(Protocol[P]):
  """The type of `Cell.prepare`, `(params) -> params`, which runs once, before the time loop."""

  def __call__(self, params: P, /) -> P: ...


@runtime_checkable
class ProjectFn(Protocol[P_contra, D_co]):
  """The type of `Cell.project`, `(params, xs, key=None) -> drive`.

  The drive has the leading axes of xs.
  """

  def __call__(self, params: P_contra, xs: Inputs, key: Key[Array, ""] | None = None) -> D_co: ...


@runtime_checkable
class RecurFn(Protocol[P_contra, C_contra]):
  """The type of `Cell.recur`, `(params, carry) -> recurrent`, linear in the params that it uses."""

  def __call__(self, params: P_contra, carry: C_contra, /) -> Recurrent: ...


@runtime_checkable
class UpdateFn(Protocol[P_contra, C, D_contra]):
  """The type of `Cell.update`, `(params, carry, drive, recurrent) -> carry`."""

  def __call__(self, params: P_contra, carry: C, drive: D_contra, recurrent: Recurrent, /) -> C: ...


@runtime_checkable
class OutputFn(Protocol[P_contra, C_contra, D_contra]):
  """The type of `Cell.output`, `(params, carry, drive) -> y`."""

  def __call__(self, params: P_contra, carry: C_contra, drive: D_contra, /) -> PyTree: ...


@runtime_checkable
class GatesFn(Protocol[P_contra, C_contra, D_contra]):
  """The type of `Cell.gates`, `(params, carry, drive, recurrent) -> {name: values}`."""

  def __call__(
    self, params: P_contra, carry: C_contra, drive: D_contra, recurrent: Recurrent, /
  ) -> Gates: ...


@runtime_checkable
class LinearFn(Protocol[P_contra, C_co, D_contra]):
  """The type of `Cell.linear`, `(params, drive) -> (a, b)`, for cells whose update is a ∘ h + b."""

  def __call__(self, params: P_contra, drive: D_contra, /) -> tuple[C_co, C_co]: ...


def unprepared(params: P) -> P:
  """Returns the params unchanged. Serves as the `prepare` of a cell that prepares nothing."""
  return params


class Cell(NamedTuple, Generic[P, C, D]):
  """A recurrent cell h_t = f(h_{t-1}, x_t), split by *when* each part can be computed.

    drive = x_t W_x + b            project: needs no carry, so one product over all time
    recurrent = h_{t-1} W_h        recur:   the product that must wait for the carry
    h_t = φ(drive, recurrent)      update:  elementwise
    y_t = h_t                      output:  reads the new carry, does not change it

  All functions are pure and accept any leading batch axes. A drive may be any pytree of arrays
  with those leading axes. Stochastic cells draw their masks for all time in `project`, from `key`.
  `prepare` runs once, before the loop, on the params from `init` (e.g. a matrix exponential). Every
  function that is listed below `prepare` receives the prepared params.

  The last four fields say what a cell can do.

  Attributes:
    init: `(key, input_size, dtype=float) -> params`.
    initial_carry: `(batch_shape, dtype=float) -> carry`, zeros.
    prepare: `(params) -> params`; `unprepared` if there is nothing to prepare.
    project: `(params, xs, key=None) -> drive`; xs `[..., D]`, or integer tokens `[...]`, which
      stand for their one-hot vectors.
    recur: `(params, carry) -> recurrent`, linear in the params that it uses.
    update: `(params, carry, drive, recurrent) -> carry`.
    output: `(params, carry, drive) -> y`.
    gates: `(params, carry, drive, recurrent) -> {name: values [..., H]}`, the gates of the step
      that starts from `carry`, for inspection; None for a cell without gates.
    linear: `(params, drive) -> (a, b)`, both like the carry, for a cell whose update is a ∘ h + b.
      If a does not depend on the drive, its batch axes may have size 1. The time loop computes a
      and b for all steps at once, except with `remat="step"`. Such a linear, diagonal recurrence
      can also run as an associative scan. None for other cells.
    recurrent_kernel: name of the param W_h, if `recur` returns h W_h (+ b), where h is the first
      leaf of the carry, and if `prepare` does not change W_h and no other function reads it. None
      for other cells.
    output_is_carry: whether `output` returns the carry itself.
  """

  init: InitFn[P]
  initial_carry: InitialCarryFn[C]
  prepare: PrepareFn[P]
  project: ProjectFn[P, D]
  recur: RecurFn[P, C]
  update: UpdateFn[P, C, D]
  output: OutputFn[P, C, D]
  gates: GatesFn[P, C, D] | None = None
  linear: LinearFn[P, C, D] | None = None
  recurrent_kernel: str | None = None
  output_is_carry: bool = False


if not TYPE_CHECKING:
  Cell.__class_getitem__ = classmethod(lambda cls, parameters: cls)


PlainCell: TypeAlias = Cell[FlatParams, Array, Array]  # carry and drive are one array each


def step(cell: Cell[P, C, D], params: P, carry: C, drive: D) -> C:
  """Returns the next carry, h_t = f(h_{t-1}, x_t).

  Args:
    cell: the cell.
    params: the cell's prepared params.
    carry: h_{t-1}.
    drive: the drive for x_t, from `cell.project`.
  Raises:
    TypeError, ValueError: if an argument has the wrong structure, shape or dtype.
  """
  checks.instance("cell", cell, Cell)
  try:
    new = cell.update(params, carry, drive, cell.recur(params, carry))
  except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
    _check_carry(cell, carry)
    raise ValueError(
      "params and drive must fit the cell and the carry: params from cell.prepare, drive from "
      f"cell.project, got params {checks.shapes(params)} and drive {checks.shapes(drive)}: {error}"
    ) from error
  # Mismatched arrays that can be broadcast raise no error above, but they change the next carry's
  # shape.
  batch_shape = _check_carry(cell, carry)
  leaves = jax.tree.leaves(drive)
  if any(jnp.shape(leaf)[: len(batch_shape)] != batch_shape for leaf in leaves) or any(
    have.dtype != next_one.dtype
    for have, next_one in zip(jax.tree.leaves(carry), jax.tree.leaves(new), strict=True)
  ):
    raise ValueError(
      "carry and drive must have the same batch axes and precision, got carry "
      f"{checks.shapes(carry)} and drive {checks.shapes(drive)}."
    )
  return new


def _check_carry(cell: Cell[P, C, D], carry: C) -> Shape:
  """Returns a carry's batch axes; raises unless the carry is like that of `cell.initial_carry`."""
  entry = jax.eval_shape(lambda: cell.initial_carry(()))
  first, given = jax.tree.leaves(entry)[0], jax.tree.leaves(carry)
  shape = jnp.shape(given[0]) if given and hasattr(given[0], "shape") else ()
  batch_shape = shape[: max(0, len(shape) - first.ndim)]
  wanted = jax.eval_shape(lambda: cell.initial_carry(batch_shape))
  checks.like("carry", wanted, carry, any_precision=True)
  return batch_shape


def check_cells(cells: object) -> None:
  """Checks that `cells` is a sequence of at least one cell.

  Raises:
    TypeError: if `cells` is not a sequence, or if an entry is not a cell.
    ValueError: if `cells` is empty.
  """
  if isinstance(cells, Cell | str) or not isinstance(cells, Sequence):
    raise TypeError(f"cells must be a sequence, one cell a layer, got {type(cells).__name__}.")
  for i, cell in enumerate(cells):
    checks.instance(f"cells[{i}]", cell, Cell)
  if not cells:
    raise ValueError("cells must hold at least one cell, got none.")


def output_size(
  cell: Cell[P, C, D],
  params: P,
  input_size: int,
  dtype: DTypeLike = float,
  *,
  prepared: bool = False,
) -> int:
  """Returns the width of a cell's output y, without computing anything.

  Args:
    cell: the cell.
    params: the params from `cell.init`, or the prepared params from `cell.prepare`.
    input_size: width D of x.
    dtype: dtype of x.
    prepared: whether the params are prepared.
  """

  def output(params: P, x: Array) -> Array:
    params = params if prepared else cell.prepare(params)
    return cell.output(params, cell.initial_carry((), dtype), cell.project(params, x))

  x = jax.ShapeDtypeStruct((input_size,), jax.dtypes.canonicalize_dtype(dtype))
  return jax.eval_shape(output, params, x).shape[-1]


def floats_of(carry: Carry) -> Carry:
  """Returns the carry with None in place of integer leaves, which have no derivative."""
  return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.inexact) else None, carry)


def with_floats(floats: Carry, carry: Carry) -> Carry:
  """Returns `carry` with its real and complex leaves replaced by those of `floats`.

  `floats` has the structure that `floats_of` returns.
  """
  return jax.tree.map(lambda new, a: a if new is None else new, floats, carry, is_leaf=_is_none)


def _is_none(leaf: object) -> bool:
  return leaf is None
