"""The values of all units and gates of a language model while it reads a text."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from rnn_jax.gradient_flow import forward_layers
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DeepRNN
from rnn_jax.types import Carry, Params, step


class Quantity(NamedTuple):
  """The values of one part of a layer's carry, or of one of its gates.

  Attributes:
    name: name of the quantity, such as `layer 1 hidden` or `layer 2 forget gate`.
    values: value of each unit after the token at each step t was read.
    gate: whether the quantity is a gate, whose values are from 0 to 1.
  """

  name: str
  values: Float[np.ndarray, "T units"]
  gate: bool


class Reading(NamedTuple):
  """What a language model computes while it reads a text.

  Attributes:
    quantities: for each layer, the leaves of its carry, then its gates.
    losses: −ln p of the token that follows step t, in nats.
  """

  quantities: list[Quantity]
  losses: Float[np.ndarray, " T"]


def read(
  model: DeepRNN, variables: dict[str, Params], tokens: Integer[np.ndarray, " N"]
) -> Reading:
  """Returns the values and losses of a language model that reads a text, from a carry of zeros.

  Args:
    model: the language model.
    variables: the model's variables.
    tokens: N = T + 1 tokens; the last one is predicted but not read.
  """
  run = jax.jit(functools.partial(_forward, model))
  layers, losses = run(variables, jnp.asarray(tokens, jnp.int32))
  quantities = []
  for number, (carry, gates) in enumerate(layers, start=1):
    for name, values in _leaves(carry):
      quantities.append(Quantity(f"layer {number} {name}", values, gate=False))
    for name, values in gates.items():
      quantities.append(Quantity(f"layer {number} {name} gate", _flat(values), gate=True))
  return Reading(quantities, np.asarray(losses))


def _forward(
  model: DeepRNN, variables: dict[str, Params], tokens: Int[Array, " N"]
) -> tuple[list[tuple[Carry, dict[str, Array]]], Float[Array, " T"]]:
  """Returns each layer's carries and gates at every step, and the losses."""
  cells, params, xs = model.trunk(variables, tokens[:-1, None])
  passes = forward_layers(cells, params, xs, model.initial_carries(1))
  layers = []
  for cell, run in zip(cells, passes, strict=True):
    after = step(cell, run.params, run.before, run.drives)
    gates = {}
    if cell.gates is not None:
      recurrent = cell.recur(run.params, run.before)
      gates = cell.gates(run.params, run.before, run.drives, recurrent)
    layers.append((after, gates))
  logits: Any = model.apply(variables, passes[-1].ys, method="readout")
  return layers, cross_entropy(logits[:, 0], tokens[1:])


def _leaves(carry: Carry) -> list[tuple[str, Float[np.ndarray, "T units"]]]:
  """Returns a carry's floating-point leaves by name; complex ones as real and imaginary parts."""
  named = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
    name = jax.tree_util.keystr(path, simple=True, separator=" ") or "hidden"
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
      named += [(f"{name} real", _flat(leaf.real)), (f"{name} imaginary", _flat(leaf.imag))]
    elif jnp.issubdtype(leaf.dtype, jnp.floating):
      named.append((name, _flat(leaf)))
  return named


def _flat(values: Float[Array, "T 1 ..."]) -> Float[np.ndarray, "T units"]:
  """Returns values [T, 1, ...] with all axes but the first one flattened, [T, units]."""
  return np.asarray(values).reshape(len(values), -1)
