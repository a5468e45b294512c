"""Recurrent cores of Haiku as a `Cell`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Key

from rnn_jax import checks
from rnn_jax.interop.modules.common import (
  STATE,
  cell_of_batches,
  check_order,
  first_inputs,
  method_of,
  own_carry,
  without_key,
)
from rnn_jax.types import Carry, Cell, Params


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
    check_order(f"core {type(module).__name__}", module, "x", "carry")
    return module

  # `apply` of a transformed function passes on anything that the function returns.
  name = "core " + hk.transform(lambda: type(core()).__name__).apply({}, None)
  run = hk.transform_with_state(lambda xs, carry: core()(xs, carry))
  if initial_carry is None:
    start = hk.transform(lambda: method_of(name, core(), "initial_state")(1))
    initial_carry = own_carry(name, lambda size: start.apply({}, None), input_size)

  def init(key: Key[Array, ""], input_size: int) -> Params:
    carry, xs = first_inputs(initial_carry, input_size)
    params, state = run.init(key, xs, carry)
    if state:
      found = f"the state of {', '.join(sorted(state))}"
      raise ValueError(STATE.format(name=name, where="hk.get_parameter", found=found))
    return params

  def step(params: Params, carry: Carry, xs: Array) -> tuple[Carry, Array]:
    (y, new), _ = without_key(name, lambda key: run.apply(params, {}, key, xs, carry))
    return new, y

  return cell_of_batches(name, step, init, initial_carry, input_size)
