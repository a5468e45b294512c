"""The minimal GRU and the minimal LSTM, whose gates read only the input."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, the_carry, zeros
from rnn_jax.cells.linear import linear_cell
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32, input_kernel
from rnn_jax.types import (
  Array,
  CellArray,
  Features,
  FlatParams,
  Gates,
  GatesFn,
  LinearFn,
  Number,
  PlainCell,
  Recurrent,
  Units,
  unprepared,
)


def positive(a: Float[CellArray, "*axes"]) -> Float[Array, "*axes"]:
  """Returns a + ½ where a ≥ 0 and σ(a) elsewhere, a continuous and positive function of a."""
  return jnp.where(a >= 0, a + 0.5, jax.nn.sigmoid(a))


CANDIDATES: Mapping[str, Callable[[Array], Array]] = {"linear": lambda a: a, "positive": positive}


@memoized
def mingru(hidden_size: int, *, candidate: str = "linear") -> PlainCell:
  """Minimal GRU: a linear recurrence whose gate z, the share replaced, reads only the input.

    z = σ(x W_z + b_z)      n = g(x W_n + b_n)
    h' = (1 − z) ∘ h + z ∘ n

  Step Jacobian: diag(1 − z), which depends only on the input. Its products over time never explode,
  and the gradient passes a step unchanged where the input makes z near 0.

  Args:
    hidden_size: width H of carry and output.
    candidate: the function g. `linear` is g(a) = a; `positive` is g(a) = a + ½ for a ≥ 0 and σ(a)
      for a < 0. `positive` keeps h positive, as a scan in log space requires.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H]; params {"w_x": [D, 2·H], "b": [2·H]} in the
    order z, n. Gates: {"update": z}.
  Raises:
    TypeError, ValueError: if `candidate` is unknown, or `hidden_size` is below 1.
  References:
    Feng et al., 2024, https://arxiv.org/abs/2410.01201
  """
  g = CANDIDATES[checks.choice("candidate", candidate, CANDIDATES)]

  def linear(params: FlatParams, drive: Features) -> tuple[Units, Units]:
    del params
    z, n = jnp.split(drive, 2, axis=-1)
    return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * g(n)

  def gates(params: FlatParams, h: Units, drive: Features, recurrent: Recurrent) -> Gates:
    del params, h, recurrent
    return {"update": jax.nn.sigmoid(jnp.split(drive, 2, axis=-1)[0])}

  return _cell(hidden_size, [0.0, 0.0], linear, gates)


@memoized
def minlstm(hidden_size: int, *, forget_bias: Number = 1.0, candidate: str = "linear") -> PlainCell:
  """Minimal LSTM: a linear recurrence whose two gates read only the input and add up to 1.

    i, f = σ(x W + b)      n = g(x W_n + b_n)
    h' = f / (f + i) ∘ h + i / (f + i) ∘ n

  Step Jacobian: diag(f / (f + i)), which depends only on the input. Its products over time never
  explode, and the gradient passes a step unchanged where the input makes i near 0.

  Args:
    hidden_size: width H of carry and output.
    forget_bias: initial value of the forget gate's block of b.
    candidate: the function g, as in `mingru`.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H]; params {"w_x": [D, 3·H], "b": [3·H]} in the
    order i, f, n. Gates: {"input": i / (f + i), "forget": f / (f + i)}.
  Raises:
    TypeError, ValueError: if `candidate` is unknown, `hidden_size` is below 1, or `forget_bias` is
      not a finite number.
  References:
    Feng et al., 2024, https://arxiv.org/abs/2410.01201
  """
  g = CANDIDATES[checks.choice("candidate", candidate, CANDIDATES)]
  checks.number("forget_bias", forget_bias)

  def shares(drive: Features) -> tuple[Units, Units]:
    """Returns the normalized gates i / (f + i) and f / (f + i)."""
    i, f, _ = jnp.split(drive, 3, axis=-1)
    # Use f / (f + i) = σ(ln f − ln i), which cannot become 0/0 when both gates underflow.
    more = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)
    return jax.nn.sigmoid(-more), jax.nn.sigmoid(more)

  def linear(params: FlatParams, drive: Features) -> tuple[Units, Units]:
    del params
    i, f = shares(drive)
    return f, i * g(jnp.split(drive, 3, axis=-1)[2])

  def gates(params: FlatParams, h: Units, drive: Features, recurrent: Recurrent) -> Gates:
    del params, h, recurrent
    i, f = shares(drive)
    return {"input": i, "forget": f}

  return _cell(hidden_size, [0.0, forget_bias, 0.0], linear, gates)


def _cell(
  hidden_size: int,
  biases: Sequence[Number],
  linear: LinearFn[FlatParams, Array, Array],
  gates: GatesFn[FlatParams, Array, Array],
) -> PlainCell:
  """Returns a linear recurrence with the drive x W + b.

  Args:
    hidden_size: width H of carry and output.
    biases: initial value of each block [H] of b; W and b have as many blocks as `biases` has
      entries.
    linear: the cell's `linear` function, (params, drive) -> (a, b).
    gates: the cell's `gates` function.
  """
  checks.integer("hidden_size", hidden_size)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    b = [jnp.full(hidden_size, value, dtype) for value in biases]
    w_x = input_kernel(key, (input_size, len(b) * hidden_size), dtype)
    return {"w_x": w_x, "b": jnp.concatenate(b)}

  return linear_cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=functools.partial(dense_project, bias=True),
    linear=linear,
    output=the_carry,
    gates=gates,
    output_is_carry=True,
  )
