"""Recurrent cells of Flax Linen as a `Cell`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from flax.errors import InvalidRngError
from jaxtyping import Array, Key

from rnn_jax import checks
from rnn_jax.interop.modules.common import (
  RANDOM,
  STATE,
  cell_of_batches,
  check_order,
  check_reads_vectors,
  first_inputs,
  method_of,
  own_carry,
)
from rnn_jax.types import Carry, Cell, Params


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
  check_reads_vectors(name, module)
  check_order(name, module, "carry", "x")
  if initial_carry is None:
    key = jax.random.key(0)
    start = lambda size: method_of(name, module)(key, (1, size))  # noqa: E731
    initial_carry = own_carry(name, start, input_size)

  def init(key: Key[Array, ""], input_size: int) -> Params:
    with _rule(RANDOM.format(name=name), InvalidRngError):
      variables = module.init(key, *first_inputs(initial_carry, input_size))
    others = sorted(set(variables) - {"params"})
    if others:
      found = f"the collections {', '.join(others)}"
      raise ValueError(STATE.format(name=name, where="the collection params", found=found))
    return variables.get("params", {})

  def step(params: Params, carry: Carry, xs: Array) -> Any:
    with _rule(RANDOM.format(name=name), InvalidRngError):
      return module.apply({"params": params}, carry, xs)

  return cell_of_batches(name, step, init, initial_carry, input_size)


@contextlib.contextmanager
def _rule(message: str, kind: type[Exception]) -> Iterator[None]:
  """Turns exceptions of this kind into a ValueError with this message."""
  try:
    yield
  except kind as error:
    raise ValueError(message) from error
