"""Code shared by the modules of all libraries: running them on one example, and error messages."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Key, PyTree

from rnn_jax import checks
from rnn_jax.interop.step import ParamsOf, cell_from_step
from rnn_jax.types import Carry, Cell, Params, floats_of

Result = TypeVar("Result")

# `(params, carry, xs) -> (carry, ys)`: one step of a batch, with leaves [B, ...].
StepOfBatch: TypeAlias = Callable[[Params, Carry, Array], Any]

# Names that people give the carry as an argument. Carry and x may have the same shape.
_CARRY = frozenset({"carry", "h", "hidden", "hidden_state", "prev_state", "state"})

_MIXES = (
  "{name} must process the examples of a batch independently, but its result for one example "
  "depends on the others, as with batch normalization."
)
RANDOM = (
  "{name} must not draw random numbers in a step, as dropout does. Use `rnn_jax.cells.zoneout` or "
  "the dropout of `DeepRNN` instead."
)
STATE = (
  "{name} must keep its state in the carry and its params in {where}, got {found}, which a step "
  "can change. A step for `cell_from_step` can hold constants in its params."
)


def cell_of_batches(
  name: str, step: StepOfBatch, init: ParamsOf, initial_carry: Carry, input_size: int | None
) -> Cell:
  """Returns a Cell that runs a module written for batches on each example, as a batch of one.

  Args:
    name: the module's name, for messages.
    step: `(params, carry, xs) -> (carry, ys)`, for leaves [B, ...].
    init: `(key, input_size) -> params`.
    initial_carry: zeros for one example.
    input_size: the only size of x, or None.
  """

  def step_of_one(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
    result = step(params, _batched(carry), x[None])
    if not isinstance(result, tuple) or len(result) != 2:
      raise TypeError(f"{name} must return a carry and an output, got {checks.shapes(result)}.")
    # Arrays by identity, so that a y that is a leaf of the carry remains one.
    squeezed: dict[int, Array] = {}

    def squeeze(a: Array) -> Array:
      if jnp.shape(a)[:1] != (1,):
        raise ValueError(f"{name} must return arrays [B, ...], got {checks.shown(a)} for B = 1.")
      return squeezed.setdefault(id(a), jnp.squeeze(a, 0))

    return jax.tree.map(squeeze, result)

  cell = cell_from_step(step_of_one, init, initial_carry, input_size=input_size)

  @functools.cache
  def check_mixing(input_size: int) -> None:
    """Raises if the result for one example of a batch depends on another example."""

    params = jax.eval_shape(lambda: init(jax.random.key(0), input_size))
    inputs = jax.tree.map(lambda a: a[0], first_inputs(initial_carry, input_size))

    def draw(seed: int | Array, a: Array | jax.ShapeDtypeStruct) -> Array:
      if not jnp.issubdtype(a.dtype, jnp.inexact):
        return jnp.zeros(a.shape, a.dtype)
      return jax.random.normal(jax.random.key(seed), a.shape, a.dtype)

    @jax.jit
    def first_result(seed: Array) -> PyTree[Array]:
      own, other = (jax.tree.map(functools.partial(draw, s), inputs) for s in (0, seed))
      carry, xs = jax.tree.map(lambda *examples: jnp.stack(examples), own, other)
      results = step(jax.tree.map(functools.partial(draw, 0), params), carry, xs)
      return jax.tree.map(lambda a: a[0], results)

    with jax.ensure_compile_time_eval():
      results = zip(
        *(jax.tree.leaves(first_result(jnp.asarray(seed))) for seed in (1, 2)), strict=True
      )
      if not all(np.array_equal(a, b, equal_nan=True) for a, b in results):
        raise ValueError(_MIXES.format(name=name))

  def checked_init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> Params:
    params = cell.init(key, input_size, dtype)
    check_mixing(input_size)
    return params

  return cell._replace(init=checked_init)


def _batched(carry: Carry) -> Carry:
  """Returns a batch of one: leaves [1, ...]."""
  return jax.tree.map(lambda a: jnp.asarray(a)[None], carry)


def first_inputs(initial_carry: Carry, input_size: int) -> tuple[Carry, Array]:
  """Returns zeros (carry, xs) for a batch of one; xs have the precision of the carry."""
  carry = jax.tree.map(
    lambda a: jnp.zeros((1, *jnp.shape(a)), jax.dtypes.canonicalize_dtype(a.dtype)), initial_carry
  )
  floats = jax.tree.leaves(floats_of(carry))
  dtype = jnp.finfo(floats[0].dtype).dtype if floats else float
  return carry, jnp.zeros((1, input_size), dtype)


def own_carry(name: str, start: Callable[[int], Carry], input_size: int | None) -> Carry:
  """Returns the initial carry of one example.

  Args:
    name: the module's name, for messages.
    start: `input_size -> carry` of a batch of one, leaves [1, ...].
    input_size: the only size of x, on which the carry may depend; or None.
  Raises:
    ValueError: if the carry depends on the input size, or has a leaf without a batch axis.
  """
  sizes = (1, 2) if input_size is None else (checks.integer("input_size", input_size),)
  try:
    carry, *others = map(start, sizes)
  except Exception as error:  # whatever the user's method raises
    error.add_note(f"(while {name} returned its initial carry; initial_carry= takes its place)")
    raise
  for one, *same in zip(*map(jax.tree.leaves, (carry, *others)), strict=True):
    if jnp.shape(one)[:1] != (1,) or any(jnp.shape(a) != jnp.shape(one) for a in same):
      raise ValueError(
        f"{name} must start from a carry [B, ...] that does not depend on the input size, unless "
        f"input_size is given, got {' and '.join(map(checks.shapes, (carry, *others)))} for B = 1 "
        f"and input sizes {' and '.join(map(str, sizes))}."
      )
  return jax.tree.map(lambda a: a[0], carry)


def method_of(name: str, module: Any, method: str = "initialize_carry") -> Callable[..., Carry]:
  """Returns a module's method that creates its initial carry; raises if it lacks the method."""
  found = getattr(module, method, None)
  if not callable(found):
    raise TypeError(f"{name} must have a method {method}, unless initial_carry is given.")
  return found


def check_reads_vectors(name: str, module: Any) -> None:
  """Raises if the module says that its inputs are not vectors."""
  try:
    axes = getattr(module, "num_feature_axes", 1)
  except NotImplementedError:
    return
  if axes != 1:
    raise ValueError(f"{name} must read vectors [..., D], got num_feature_axes = {axes}.")


def check_order(name: str, module: Any, *wanted: str) -> None:
  """Raises if the names of the module's first two arguments say that carry and x are swapped."""
  found = list(inspect.signature(module.__call__).parameters)[:2]
  carries = [i for i, argument in enumerate(found) if argument in _CARRY]
  if len(carries) == 1 and wanted[carries[0]] != "carry":
    raise ValueError(
      f"{name} must take ({', '.join(wanted)}), got ({', '.join(found)}). Call it in a step for "
      "`cell_from_step`."
    )


def instance_message(function: str, module: Any, example: str, params: str) -> str:
  """Returns the error message for a module that is given in place of a function that creates it."""
  return (
    f"{function} needs a function that creates the module for an input size, such as {example}, "
    f"got an instance of {type(module).__name__}. To use its params, pass those from {params} to "
    "unroll."
  )


def without_key(name: str, run: Callable[[Key[Array, ""] | None], Result]) -> Result:
  """Returns `run(None)`; raises a ValueError if it fails for lack of a random key."""
  try:
    return run(None)
  except Exception as error:
    try:
      run(jax.random.key(0))
    except Exception:
      raise error from None
    raise ValueError(RANDOM.format(name=name)) from error
