"""What every unit of a language model holds while it reads a text."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.gradient_flow import forward_layers
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DeepRNN
from rnn_jax.types import Array, Carry, step


class Quantity(NamedTuple):
  """One kind of value that every unit of a layer has.

  Attributes:
    name: such as `layer 1 hidden` or `layer 2 forget gate`.
    values: float [T, units], after the token at t was read.
    gate: whether they are a gate's, from 0 to 1.
  """

  name: str
  values: np.ndarray
  gate: bool


class Reading(NamedTuple):
  """A language model's way through a text.

  Attributes:
    quantities: leaves of the carry and gates, layer by layer.
    losses: float [T], −ln p of the token that comes after t, in nats.
  """

  quantities: list[Quantity]
  losses: np.ndarray


def read(model: DeepRNN, variables: Any, tokens: np.ndarray) -> Reading:
  """Reads a text once, from a carry of zeros, and keeps what there is to see.

  Args:
    model: of the text's vocabulary.
    variables: of the model.
    tokens: [T + 1] integers; the last is only predicted.
  Returns:
    The Reading.
  """

  @jax.jit
  def run(variables: Any, tokens: Array) -> tuple[list[tuple[Carry, dict[str, Array]]], Array]:
    cells, params, xs = model.trunk(variables, tokens[:-1, None])
    passes = forward_layers(cells, params, xs, model.initial_carries(1))
    layers = []
    for cell, run in zip(cells, passes, strict=True):
      now = run.before, run.drives
      after = step(cell, run.params, *now)
      gates = {}
      if cell.gates is not None:
        gates = cell.gates(run.params, *now, cell.recur(run.params, run.before))
      layers.append((after, gates))
    logits: Any = model.apply(variables, passes[-1].ys, method="readout")
    return layers, cross_entropy(logits[:, 0], tokens[1:])

  layers, losses = run(variables, jnp.asarray(tokens, jnp.int32))
  quantities = []
  for number, (carry, gates) in enumerate(layers, start=1):
    for name, values in _leaves(carry):
      quantities.append(Quantity(f"layer {number} {name}", values, gate=False))
    for name, values in gates.items():
      quantities.append(Quantity(f"layer {number} {name} gate", _flat(values), gate=True))
  return Reading(quantities, np.asarray(losses))


def _leaves(carry: Carry) -> list[tuple[str, np.ndarray]]:
  """(name, values [T, units]) of each float in a carry, real and imaginary part of each complex."""
  named = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
    name = jax.tree_util.keystr(path, simple=True, separator=" ") or "hidden"
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
      named += [(f"{name} real", _flat(leaf.real)), (f"{name} imaginary", _flat(leaf.imag))]
    elif jnp.issubdtype(leaf.dtype, jnp.floating):
      named.append((name, _flat(leaf)))
  return named


def _flat(values: Array) -> np.ndarray:
  """[T, 1, ...] → [T, units]."""
  return np.asarray(values).reshape(len(values), -1)
