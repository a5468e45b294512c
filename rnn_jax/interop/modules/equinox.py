"""Recurrent cells of Equinox as a `Cell`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Key

from rnn_jax import checks
from rnn_jax.interop.modules.common import STATE, check_order, instance_message, without_key
from rnn_jax.interop.step import OutputOfOne, cell_from_step
from rnn_jax.types import Carry, Cell, Params


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
    raise TypeError(
      instance_message("from_equinox", make, "lambda input_size, key: …", "eqx.filter")
    )
  checks.function("make", make)

  def arrays_and_rest(input_size: int, key: Key[Array, ""]) -> tuple[Any, Any]:
    module = make(input_size, key=key)
    if not isinstance(module, eqx.Module) or not callable(module):
      raise TypeError(
        f"make must return an eqx.Module that can be called, got {checks.shown(module)}."
      )
    name = f"module {type(module).__name__}"
    check_order(name, module, "x", "carry")
    for part in jax.tree.leaves(module, is_leaf=lambda a: isinstance(a, eqx.nn.StateIndex)):
      if isinstance(part, eqx.nn.StateIndex):
        raise ValueError(STATE.format(name=name, where="its fields", found="an eqx.nn.StateIndex"))
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
    result = without_key(
      f"module {type(module).__name__}",
      lambda key: module(x, carry) if key is None else module(x, carry, key=key),
    )
    structure: object = jax.tree.structure(carry)
    if output is None and isinstance(carry, tuple) and jax.tree.structure(result) == structure:
      return result, result[0]
    return result

  return cell_from_step(step, init, initial_carry, output, input_size=input_size)
