"""Recurrent cells of Flax NNX as a `Cell`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from rnn_jax import checks
from rnn_jax.interop.modules.common import (
  RANDOM,
  STATE,
  cell_of_batches,
  check_order,
  check_reads_vectors,
  instance_message,
  method_of,
  own_carry,
)
from rnn_jax.types import Carry, Cell, Params


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
    raise TypeError(instance_message("from_nnx", make, "lambda input_size, rngs: …", "nnx.state"))
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
  check_reads_vectors(name, example)
  check_order(name, example, "carry", "x")
  if initial_carry is None:
    start = lambda size: method_of(name, merged(size, None))((1, size), rngs=nnx.Rngs(0))  # noqa: E731
    initial_carry = own_carry(name, start, input_size)

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
        raise ValueError(RANDOM.format(name=name))
      found = f"{type(variable).__name__} {'.'.join(map(str, path))}"
      raise ValueError(STATE.format(name=name, where="nnx.Param", found=found))
    return result

  return cell_of_batches(name, step, init, initial_carry, input_size)


def _any_random(a: Any) -> Array:
  """Returns an arbitrary value for a random-state variable, which no step may use."""
  if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
    return jnp.broadcast_to(jax.random.key(0), a.shape)
  return jnp.zeros(a.shape, a.dtype)
