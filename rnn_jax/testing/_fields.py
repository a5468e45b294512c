"""Checks of what a cell's fields declare: `output_is_carry`, `gates`, `recurrent_kernel`."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.testing._assertions import require
from rnn_jax.testing._example import Example, in_float64
from rnn_jax.testing._python_loop import BATCH_SIZE
from rnn_jax.testing._pytrees import are_close, are_equal, structure


@in_float64
def check_output(example: Example) -> None:
  """Checks that `output_is_carry` says whether the output is the carry itself."""
  cell, carry = example.cell, example.carry
  y = cell.output(example.params, carry, example.drive)
  same = structure(y) == structure(carry) and are_equal(y, carry)
  require(
    cell.output_is_carry == same,
    f"cell.output_is_carry is {cell.output_is_carry}, but output "
    f"{'returns the carry' if same else 'does not return the carry itself'}. Set it to {same}.",
  )


@in_float64
def check_gates(example: Example) -> str | None:
  """Checks that `gates` returns named values between 0 and 1, one for each unit and example."""
  cell = example.cell
  if cell.gates is None:
    return "does not apply: cell.gates is None"
  gates = cell.gates(example.params, example.carry, example.drive, example.recurrent)
  require(
    isinstance(gates, Mapping) and gates and all(isinstance(name, str) for name in gates),
    f"cell.gates must return a dict {{name: values}} of at least one gate, got "
    f"{checks.shapes(gates)}. The field of a cell without gates is None.",
  )
  units, source = jax.tree.leaves(example.carry)[0], "first leaf of the carry"
  if units.ndim > 2:  # a matrix for each head, whose axes are not the units
    units, source = cell.output(example.params, example.carry, example.drive), "output"
  shape = (BATCH_SIZE, units.shape[-1])
  for name, values in jax.device_get(dict(gates)).items():
    require(
      jnp.shape(values) == shape,
      f"cell.gates must return values [*batch, H], here {list(shape)}, one for each unit of the "
      f"{source}, but gate '{name}' is {checks.shown(values)}.",
    )
    require(
      bool(np.all((values >= 0) & (values <= 1))),
      f"cell.gates must return values from 0 to 1, but gate '{name}' has values from "
      f"{np.min(values):.3g} to {np.max(values):.3g}. Return the gate, not its pre-activation.",
    )
  return None


@in_float64
def check_recurrent_kernel(example: Example) -> str | None:
  """Checks that `recurrent_kernel` is the name of the param W_h, and is set if there is one."""
  claimed, given = example.cell.recurrent_kernel, example.given
  if not isinstance(given, Mapping):
    require(
      claimed is None,
      f"cell.recurrent_kernel must be the name of a param, but is '{claimed}', and the params are "
      f"no dict: {checks.shapes(given)}. Set it to None.",
    )
    return "does not apply: the params are no dict"
  if claimed is not None:
    require(
      claimed in given,
      f"cell.recurrent_kernel must be the name of a param, one of {sorted(given)}, got "
      f"'{claimed}'.",
    )
    reason = _not_a_recurrent_kernel(example, claimed)
    require(
      reason is None,
      f"cell.recurrent_kernel is '{claimed}', but {reason}. The field names a param W_h if recur "
      "returns h W_h (+ b), with h the first leaf of the carry, and if neither prepare nor another "
      "function uses W_h. Set it to None.",
    )
    return None
  for name in given:
    require(
      _not_a_recurrent_kernel(example, name) is not None,
      f"cell.recurrent_kernel is None, but recur returns h W_h with W_h = params['{name}']. Set "
      f"recurrent_kernel='{name}', which the measures of the recurrent kernel need.",
    )
  return "does not apply: cell.recurrent_kernel is None"


def _not_a_recurrent_kernel(example: Example, name: str) -> str | None:
  """Returns why the param `name` is not the plain recurrent kernel; None if it is."""
  cell, params, carry = example.cell, example.params, example.carry
  w_h, leaves = example.given[name], jax.tree.leaves(carry)
  if not hasattr(w_h, "ndim") or w_h.ndim != 2 or not leaves or leaves[0].ndim != 2:
    return "it is not a matrix, or the first leaf of the carry is not [..., H]"
  if not (isinstance(params, Mapping) and name in params and are_equal(params[name], w_h)):
    return "prepare changes this param"
  h = leaves[0]
  zeros = jax.tree.map(lambda a: jnp.asarray(np.zeros_like(a)), carry)
  recurrent, offset = example.recurrent, cell.recur(params, zeros)
  if h.shape[1] != w_h.shape[0] or jnp.shape(recurrent) != (BATCH_SIZE, w_h.shape[1]):
    return "recur does not return h W_h: the shapes differ"
  if not are_close(np.asarray(recurrent) - np.asarray(offset), np.asarray(h) @ np.asarray(w_h)):
    return "recur does not return h W_h: the values differ"
  unread = cell.prepare({**example.given, name: jnp.asarray(np.full_like(w_h, np.nan))})
  drive = cell.project(unread, example.x)
  new = cell.update(unread, carry, drive, example.recurrent)
  read = {"project": drive, "update": new, "output": cell.output(unread, new, drive)}
  for function, value in read.items():
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(value)):
      return f"{function} reads it too"
  return None
