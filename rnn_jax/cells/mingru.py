"""The minimal GRU and LSTM: gates that read the input alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, the_carry, zeros
from rnn_jax.cells.linear import linear_cell
from rnn_jax.initializers import input_kernel
from rnn_jax.types import Array, Cell, LinearFn, Params, unprepared


def positive(a: Array) -> Array:
  """a + ½ above 0, σ(a) below: continuous, and above 0 everywhere."""
  return jnp.where(a >= 0, a + 0.5, jax.nn.sigmoid(a))


CANDIDATES: Mapping[str, Callable[[Array], Array]] = {"linear": lambda a: a, "positive": positive}


def mingru(hidden_size: int, *, candidate: str = "linear") -> Cell:
  """Minimal GRU: a linear recurrence; its gate reads the input alone, and z replaces.

    z = σ(x W_z + b_z)      n = g(x W_n + b_n)
    h' = (1 − z) ∘ h + z ∘ n

  Step Jacobian: diag(1 − z), set by the input alone: products over time never explode, and the
  gradient passes a step unchanged where the input shuts z.

  Args:
    hidden_size: width H of carry and output.
    candidate: g, `linear`, or `positive`, a + ½ for a ≥ 0 and σ(a) below, which keeps h above 0 as
      a scan in logarithms needs it.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H]; params {"w_x": [D, 2·H], "b": [2·H]}, in the
    order z, n, of which z is named update.
  Raises:
    TypeError, ValueError: an unknown candidate, a size below 1.
  References:
    Feng et al., 2024, https://arxiv.org/abs/2410.01201
  """
  g = CANDIDATES[checks.choice("candidate", candidate, CANDIDATES)]

  def linear(params: Params, drive: Array) -> tuple[Array, Array]:
    del params
    z, n = jnp.split(drive, 2, axis=-1)
    return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * g(n)

  def gates(params: Params, h: Array, drive: Array, recurrent: Any) -> dict[str, Array]:
    del params, h, recurrent
    return {"update": jax.nn.sigmoid(jnp.split(drive, 2, axis=-1)[0])}

  return _cell(hidden_size, [0.0, 0.0], linear, gates)


def minlstm(hidden_size: int, *, forget_bias: Any = 1.0, candidate: str = "linear") -> Cell:
  """Minimal LSTM: a linear recurrence, whose gates read the input alone and add up to 1.

    i, f = σ(x W + b)      n = g(x W_n + b_n)
    h' = f / (f + i) ∘ h + i / (f + i) ∘ n

  Step Jacobian: diag(f / (f + i)), set by the input alone: products over time never explode, and
  the gradient passes a step unchanged where the input shuts i.

  Args:
    hidden_size: width H of carry and output.
    forget_bias: initial value of the forget gate's part of b.
    candidate: g, as in `mingru`.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H]; params {"w_x": [D, 3·H], "b": [3·H]}, in the
    order i, f, n; the gates i / (f + i) and f / (f + i) are named input and forget.
  Raises:
    TypeError, ValueError: an unknown candidate, a size below 1, a bias that is not finite.
  References:
    Feng et al., 2024, https://arxiv.org/abs/2410.01201
  """
  g = CANDIDATES[checks.choice("candidate", candidate, CANDIDATES)]
  checks.number("forget_bias", forget_bias)

  def shares(drive: Array) -> tuple[Array, Array]:
    i, f, _ = jnp.split(drive, 3, axis=-1)
    # ln f − ln i, of which f / (f + i) is the σ: no division, and no 0/0.
    more = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)
    return jax.nn.sigmoid(-more), jax.nn.sigmoid(more)

  def linear(params: Params, drive: Array) -> tuple[Array, Array]:
    del params
    i, f = shares(drive)
    return f, i * g(jnp.split(drive, 3, axis=-1)[2])

  def gates(params: Params, h: Array, drive: Array, recurrent: Any) -> dict[str, Array]:
    del params, h, recurrent
    return dict(zip(("input", "forget"), shares(drive), strict=True))

  return _cell(hidden_size, [0.0, forget_bias, 0.0], linear, gates)


def _cell(hidden_size: int, biases: Sequence[Any], linear: LinearFn, gates: Any) -> Cell:
  """The cell of a drive x W + b with as many parts as there are initial values of b."""
  checks.integer("hidden_size", hidden_size)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    checks.integer("input_size", input_size)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    b = [jnp.full(hidden_size, value, dtype) for value in biases]
    w_x = input_kernel(key, (input_size, len(b) * hidden_size), dtype)
    return {"w_x": w_x, "b": jnp.concatenate(b)}

  return linear_cell(
    linear,
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=functools.partial(dense_project, bias=True),
    output=the_carry,
    gates=gates,
    output_is_carry=True,
  )
