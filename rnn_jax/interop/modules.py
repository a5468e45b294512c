"""Makes a `Cell` of a recurrent module of Flax Linen, Flax NNX, Equinox or Haiku."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.errors import InvalidRngError
from jax.typing import DTypeLike
from jaxtyping import Array, Key, PyTree

from rnn_jax import checks
from rnn_jax.interop.step import OutputOfOne, ParamsOf, cell_from_step
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
_RANDOM = (
  "{name} must not draw random numbers in a step, as dropout does. Use `rnn_jax.cells.zoneout` or "
  "the dropout of `DeepRNN` instead."
)
_STATE = (
  "{name} must keep its state in the carry and its params in {where}, got {found}, which a step "
  "can change. A step for `cell_from_step` can hold constants in its params."
)


def from_linen(
  module: nn.Module, initial_carry: Carry | None = None, *, input_size: int | None = None
) -> Cell:
  """Returns a Cell that runs a Flax Linen recurrent cell, with the module's own params.

      cell = from_linen(nn.GRUCell(64))
      params = cell.init(key, input_size)               # {"ir": {"kernel": …}, …}
      carry, ys = unroll(cell, params, xs)
      # The params of a trained nn.RNN(nn.GRUCell(64)) are variables["params"]["cell"].

  `cell_from_step` describes the Cell's carry, its output, and its cost.

  Args:
    module: a cell with the interface of `nn.RNNCellBase`, i.e. `module(carry, x) -> (carry, y)` for
      any batch axes: nn.SimpleCell, GRUCell, MGUCell, LSTMCell, OptimizedLSTMCell, or your own.
    initial_carry: zeros for one example, as in `cell_from_step`; by default those of
      `module.initialize_carry`. Required if this method needs params or has another signature.
    input_size: D, if the module accepts only this size of x; by default it accepts any.
  Returns:
    A Cell: x [..., D]; params, carry and y are the module's.
  Raises:
    TypeError: if `module` is not such a module.
    ValueError: if the module has variables outside the collection "params", draws random numbers in
      a step, changes the carry's structure, shapes or dtypes, reads arrays other than [..., D],
      takes x before the carry, or starts from a nonzero carry. `cell.init` raises it if the module
      mixes the examples of a batch.
  """
  if not isinstance(module, nn.Module):
    raise TypeError(f"module must be an instance of flax.linen.Module, got {checks.shown(module)}.")
  name = f"module {type(module).__name__}"
  _check_reads_vectors(name, module)
  _check_order(name, module, "carry", "x")
  if initial_carry is None:
    key = jax.random.key(0)
    start = lambda size: _method(name, module)(key, (1, size))  # noqa: E731
    initial_carry = _own_carry(name, start, input_size)

  def init(key: Key[Array, ""], input_size: int) -> Params:
    with _rule(_RANDOM.format(name=name), InvalidRngError):
      variables = module.init(key, *_first_inputs(initial_carry, input_size))
    others = sorted(set(variables) - {"params"})
    if others:
      found = f"the collections {', '.join(others)}"
      raise ValueError(_STATE.format(name=name, where="the collection params", found=found))
    return variables.get("params", {})

  def step(params: Params, carry: Carry, xs: Array) -> Any:
    with _rule(_RANDOM.format(name=name), InvalidRngError):
      return module.apply({"params": params}, carry, xs)

  return _cell_of_batches(name, step, init, initial_carry, input_size)


def from_nnx(
  make: Callable[..., nnx.Module],
  initial_carry: Carry | None = None,
  *,
  input_size: int | None = None,
) -> Cell:
  """Returns a Cell that runs a Flax NNX recurrent cell, with the module's own params.

      cell = from_nnx(functools.partial(nnx.GRUCell, hidden_features=64))
      params = cell.init(key, input_size)               # {"dense_i": {"kernel": …}, …}
      carry, ys = unroll(cell, params, xs)
      # The params of a trained module are nnx.to_pure_dict(nnx.state(module)).

  An NNX module is created with params for a fixed input size. `from_nnx` therefore takes a function
  that creates the module, which `cell.init` calls with its key and input size. `cell_from_step`
  describes the Cell's carry, its output, and its cost.

  Args:
    make: `make(input_size, rngs=rngs) -> module`, where the module has the interface of
      `nnx.RNNCellBase`, i.e. `module(carry, x) -> (carry, y)` for any batch axes: nnx.SimpleCell,
      GRUCell, LSTMCell, OptimizedLSTMCell, or your own.
    initial_carry: zeros for one example, as in `cell_from_step`; by default those of
      `module.initialize_carry`.
    input_size: D, if the module accepts only this size of x; by default it accepts any.
  Returns:
    A Cell: x [..., D]; params are the values of the module's variables, without its random state;
    carry and y are the module's. Variables other than `nnx.Param` have a gradient of zero.
  Raises:
    TypeError: if `make` is not a function, or does not return such a module.
    ValueError: if a step changes a variable of the module (e.g. batch statistics), draws random
      numbers, or changes the carry's structure, shapes or dtypes; or if the module reads arrays
      other than [..., D], takes x before the carry, or starts from a nonzero carry. `cell.init`
      raises it if the module mixes the examples of a batch.
  """
  if isinstance(make, nnx.Module):
    raise TypeError(_instance("from_nnx", make, "lambda input_size, rngs: …", "nnx.state"))
  checks.function("make", make)

  def module_of(input_size: int, key: Key[Array, ""]) -> nnx.Module:
    module = make(input_size, rngs=nnx.Rngs(key))
    if not isinstance(module, nnx.Module):
      raise TypeError(f"make must return an nnx.Module, got {checks.shown(module)}.")
    return module

  @functools.cache
  def parts(input_size: int) -> tuple[Any, ...]:
    """Returns the module's graph, the shapes of its variables, and those of its random state."""
    module = nnx.eval_shape(lambda: module_of(input_size, jax.random.key(0)))
    return nnx.split(module, nnx.Not(nnx.RngState), nnx.RngState)

  def merged(input_size: int, params: Params | None) -> nnx.Module:
    graph, variables, random = parts(input_size)
    if params is not None:
      variables = jax.tree.map(lambda a: a, variables)  # a copy
      nnx.replace_by_pure_dict(variables, params)
    return nnx.merge(graph, variables, jax.tree.map(_any_random, random))

  example = merged(input_size or 1, None)
  name = f"module {type(example).__name__}"
  _check_reads_vectors(name, example)
  _check_order(name, example, "carry", "x")
  if initial_carry is None:
    start = lambda size: _method(name, merged(size, None))((1, size), rngs=nnx.Rngs(0))  # noqa: E731
    initial_carry = _own_carry(name, start, input_size)

  def init(key: Key[Array, ""], input_size: int) -> Params:
    return nnx.to_pure_dict(nnx.state(module_of(input_size, key), nnx.Not(nnx.RngState)))

  def step(params: Params, carry: Carry, xs: Array) -> tuple[Carry, Array]:
    module = merged(xs.shape[-1], params)
    for _, variable in nnx.iter_graph(module):
      if isinstance(variable, nnx.Variable) and not isinstance(variable, nnx.Param | nnx.RngState):
        variable.set_value(jax.lax.stop_gradient(variable.get_value()))
    before = {path: a.get_value() for path, a in nnx.to_flat_state(nnx.state(module))}
    result = module(carry, xs)
    for path, variable in nnx.to_flat_state(nnx.state(module)):
      if path in before and before[path] is variable.get_value():
        continue
      if isinstance(variable, nnx.RngState):
        raise ValueError(_RANDOM.format(name=name))
      found = f"{type(variable).__name__} {'.'.join(map(str, path))}"
      raise ValueError(_STATE.format(name=name, where="nnx.Param", found=found))
    return result

  return _cell_of_batches(name, step, init, initial_carry, input_size)


def from_equinox(
  make: Callable[..., Any],
  initial_carry: Carry,
  output: OutputOfOne | None = None,
  *,
  input_size: int | None = None,
) -> Cell:
  """Returns a Cell that runs an Equinox recurrent cell, with the module's own params.

      cell = from_equinox(functools.partial(eqx.nn.GRUCell, hidden_size=64), jnp.zeros(64))
      params = cell.init(key, input_size)               # a GRUCell, with arrays as its only leaves
      carry, ys = unroll(cell, params, xs)
      # The params of a trained module are eqx.filter(module, eqx.is_array).

  An Equinox module is created with params for a fixed input size. `from_equinox` therefore takes a
  function that creates the module, which `cell.init` calls with its key and input size.
  `cell_from_step` describes the Cell's carry, its output, and its cost.

  Args:
    make: `make(input_size, key=key) -> module`, where `module(x, carry)` returns the new carry, or
      (carry, y), for one example: eqx.nn.GRUCell, LSTMCell, or your own.
    initial_carry: zeros for one example: `jnp.zeros(hidden_size)` for a GRUCell; for an LSTMCell, a
      pair of these, (hidden, cell).
    output: `(params, carry, x) -> y`, as in `cell_from_step`. By default, y is what the module
      returns in addition to the carry. If it returns only the carry, y is the carry, or the first
      entry of a tuple such as (hidden, cell).
    input_size: D, if the module accepts only this size of x; by default it accepts any.
  Returns:
    A Cell: x [..., D]; params are the module, with None in place of leaves that are not JAX arrays;
    carry and y are the module's.
  Raises:
    TypeError: if `make` is not a function, or does not return such a module.
    ValueError: if the module holds an `eqx.nn.StateIndex` (e.g. for batch statistics), draws random
      numbers in a step, takes the carry before x, or changes the carry's structure, shapes or
      dtypes; or if `initial_carry` is not zeros.
  """
  import equinox as eqx

  if isinstance(make, eqx.Module):
    raise TypeError(_instance("from_equinox", make, "lambda input_size, key: …", "eqx.filter"))
  checks.function("make", make)

  def arrays_and_rest(input_size: int, key: Key[Array, ""]) -> tuple[Any, Any]:
    module = make(input_size, key=key)
    if not isinstance(module, eqx.Module) or not callable(module):
      raise TypeError(
        f"make must return an eqx.Module that can be called, got {checks.shown(module)}."
      )
    name = f"module {type(module).__name__}"
    _check_order(name, module, "x", "carry")
    for part in jax.tree.leaves(module, is_leaf=lambda a: isinstance(a, eqx.nn.StateIndex)):
      if isinstance(part, eqx.nn.StateIndex):
        raise ValueError(_STATE.format(name=name, where="its fields", found="an eqx.nn.StateIndex"))
    return eqx.partition(module, eqx.is_array)

  def init(key: Key[Array, ""], input_size: int) -> Params:
    return arrays_and_rest(input_size, key)[0]

  @functools.cache
  def rest(input_size: int) -> Any:
    found: list[Any] = []

    def arrays() -> Params:
      params, rest = arrays_and_rest(input_size, jax.random.key(0))
      found.append(rest)
      return params

    jax.eval_shape(arrays)
    return found[0]

  def step(params: Params, carry: Carry, x: Array) -> Any:
    module = eqx.combine(params, rest(x.shape[-1]))
    result = _without_key(
      f"module {type(module).__name__}",
      lambda key: module(x, carry) if key is None else module(x, carry, key=key),
    )
    structure: object = jax.tree.structure(carry)
    if output is None and isinstance(carry, tuple) and jax.tree.structure(result) == structure:
      return result, result[0]
    return result

  return cell_from_step(step, init, initial_carry, output, input_size=input_size)


def from_haiku(
  make: Callable[[], Any], initial_carry: Carry | None = None, *, input_size: int | None = None
) -> Cell:
  """Returns a Cell that runs a Haiku recurrent core, with the module's own params.

      cell = from_haiku(lambda: hk.LSTM(64))
      params = cell.init(key, input_size)               # {"lstm/linear": {"w": …, "b": …}}
      carry, ys = unroll(cell, params, xs)

  A core can be created only inside `hk.transform`. `from_haiku` therefore takes a function that
  creates the core. `cell_from_step` describes the Cell's carry, its output, and its cost.

  Args:
    make: `make() -> core`, where the core has the interface of `hk.RNNCore`, i.e.
      `core(x, carry) -> (y, carry)` for a batch: hk.VanillaRNN, GRU, LSTM, DeepRNN, or your own.
    initial_carry: zeros for one example, as in `cell_from_step`; by default those of
      `core.initial_state`.
    input_size: D, if the core accepts only this size of x; by default it accepts any.
  Returns:
    A Cell: x [..., D]; params, carry and y are the core's.
  Raises:
    TypeError: if `make` is not a function, or does not return such a core.
    ValueError: if the core uses `hk.get_state` (e.g. for batch statistics), draws random numbers in
      a step, takes the carry before x, changes the carry's structure, shapes or dtypes, or starts
      from a nonzero carry. `cell.init` raises it if the core mixes the examples of a batch.
  """
  import haiku as hk

  checks.function("make", make)

  def core() -> Any:
    module = make()
    if not (isinstance(module, hk.Module) and callable(module)):
      raise TypeError(f"make must return an hk.RNNCore, got {checks.shown(module)}.")
    _check_order(f"core {type(module).__name__}", module, "x", "carry")
    return module

  # `apply` of a transformed function passes on anything that the function returns.
  name = "core " + hk.transform(lambda: type(core()).__name__).apply({}, None)
  run = hk.transform_with_state(lambda xs, carry: core()(xs, carry))
  if initial_carry is None:
    start = hk.transform(lambda: _method(name, core(), "initial_state")(1))
    initial_carry = _own_carry(name, lambda size: start.apply({}, None), input_size)

  def init(key: Key[Array, ""], input_size: int) -> Params:
    carry, xs = _first_inputs(initial_carry, input_size)
    params, state = run.init(key, xs, carry)
    if state:
      found = f"the state of {', '.join(sorted(state))}"
      raise ValueError(_STATE.format(name=name, where="hk.get_parameter", found=found))
    return params

  def step(params: Params, carry: Carry, xs: Array) -> tuple[Carry, Array]:
    (y, new), _ = _without_key(name, lambda key: run.apply(params, {}, key, xs, carry))
    return new, y

  return _cell_of_batches(name, step, init, initial_carry, input_size)


def _cell_of_batches(
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
    inputs = jax.tree.map(lambda a: a[0], _first_inputs(initial_carry, input_size))

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


def _first_inputs(initial_carry: Carry, input_size: int) -> tuple[Carry, Array]:
  """Returns zeros (carry, xs) for a batch of one; xs have the precision of the carry."""
  carry = jax.tree.map(
    lambda a: jnp.zeros((1, *jnp.shape(a)), jax.dtypes.canonicalize_dtype(a.dtype)), initial_carry
  )
  floats = jax.tree.leaves(floats_of(carry))
  dtype = jnp.finfo(floats[0].dtype).dtype if floats else float
  return carry, jnp.zeros((1, input_size), dtype)


def _own_carry(name: str, start: Callable[[int], Carry], input_size: int | None) -> Carry:
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


def _method(name: str, module: Any, method: str = "initialize_carry") -> Callable[..., Carry]:
  """Returns a module's method that creates its initial carry; raises if it lacks the method."""
  found = getattr(module, method, None)
  if not callable(found):
    raise TypeError(f"{name} must have a method {method}, unless initial_carry is given.")
  return found


def _check_reads_vectors(name: str, module: Any) -> None:
  """Raises if the module says that its inputs are not vectors."""
  try:
    axes = getattr(module, "num_feature_axes", 1)
  except NotImplementedError:
    return
  if axes != 1:
    raise ValueError(f"{name} must read vectors [..., D], got num_feature_axes = {axes}.")


def _check_order(name: str, module: Any, *wanted: str) -> None:
  """Raises if the names of the module's first two arguments say that carry and x are swapped."""
  found = list(inspect.signature(module.__call__).parameters)[:2]
  carries = [i for i, argument in enumerate(found) if argument in _CARRY]
  if len(carries) == 1 and wanted[carries[0]] != "carry":
    raise ValueError(
      f"{name} must take ({', '.join(wanted)}), got ({', '.join(found)}). Call it in a step for "
      "`cell_from_step`."
    )


def _instance(function: str, module: Any, example: str, params: str) -> str:
  """Returns the error message for a module that is given in place of a function that creates it."""
  return (
    f"{function} needs a function that creates the module for an input size, such as {example}, "
    f"got an instance of {type(module).__name__}. To use its params, pass those from {params} to "
    "unroll."
  )


@contextlib.contextmanager
def _rule(message: str, kind: type[Exception]) -> Iterator[None]:
  """Turns exceptions of this kind into a ValueError with this message."""
  try:
    yield
  except kind as error:
    raise ValueError(message) from error


def _without_key(name: str, run: Callable[[Key[Array, ""] | None], Result]) -> Result:
  """Returns `run(None)`; raises a ValueError if it fails for lack of a random key."""
  try:
    return run(None)
  except Exception as error:
    try:
      run(jax.random.key(0))
    except Exception:
      raise error from None
    raise ValueError(_RANDOM.format(name=name)) from error


def _any_random(a: Any) -> Array:
  """Returns an arbitrary value for a random-state variable, which no step may use."""
  if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
    return jnp.broadcast_to(jax.random.key(0), a.shape)
  return jnp.zeros(a.shape, a.dtype)
