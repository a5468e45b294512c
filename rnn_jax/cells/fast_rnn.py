"""FastRNN and FastGRNN, whose residual connection has two trained scalar weights."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import (
  dense_project,
  dense_recur,
  expand_like,
  plain_recur,
  the_carry,
  zeros,
)
from rnn_jax.cells.elman import tanh
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import (
  Array,
  Cell,
  FlatParams,
  Gates,
  InitFn,
  Number,
  PlainCell,
  Units,
)


@memoized
def fast_rnn(
  hidden_size: int,
  *,
  alpha: Number = -3.0,
  beta: Number = 3.0,
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """FastRNN: a simple recurrent network with a residual connection, weighted by two scalars.

    h' = σ(β) h + σ(α) n      n = tanh(x W_x + h W_h + b)

  Step Jacobian: ∂h'/∂h = σ(β) I + σ(α) W_h diag(1 − n²).

  Gradient flow: on each unit's path through itself, every step multiplies the gradient by σ(β),
  which is 0.95 at initialization: a decay by a factor of e in 20 steps. All units and steps share
  σ(β), as in `leaky`, but training changes it, and σ(α) and σ(β) need not add up to 1.

  Args:
    hidden_size: width H of carry and output.
    alpha: initial value of α. The weight of the candidate n is σ(−3) = 0.05 by default.
    beta: initial value of β.
    recurrent_gain: factor on W_h at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [H], "alpha": [1], "beta": [1]}. At initialization,
    as in the authors' code, the entries of W_x and W_h are N(0, 0.1²), whatever their size, and b
    is 1.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, or `alpha`, `beta` or `recurrent_gain` is
      not a finite number.
  References:
    Kusupati et al., 2018, https://arxiv.org/abs/1901.02358, where α and β are the weights σ(α) and
    σ(β) themselves; for the initialization: https://github.com/microsoft/EdgeML
  """
  scalars = {"alpha": alpha, "beta": beta}
  return Cell(
    init=_init(hidden_size, 1, recurrent_gain, scalars),
    initial_carry=zeros(hidden_size),
    prepare=functools.partial(_prepare, names=("alpha", "beta")),
    project=dense_project,
    recur=dense_recur,
    update=_update,
    output=the_carry,
    recurrent_kernel="w_h",
    output_is_carry=True,
  )


@memoized
def fast_grnn(
  hidden_size: int,
  *,
  zeta: Number = 1.0,
  nu: Number = -4.0,
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """FastGRNN: a gated network whose gate and candidate share their kernels.

    a = x W_x + h W_h      z = σ(a + b_z)      n = tanh(a + b_n)
    h' = z ∘ h + (σ(ζ) (1 − z) + σ(ν)) ∘ n

  Step Jacobian: ∂h'/∂h = diag(z) + W_h diag((h − σ(ζ) n) ∘ z ∘ (1 − z) +
  (σ(ζ) (1 − z) + σ(ν)) ∘ (1 − n²)).

  Gradient flow: on each unit's path through itself, every step multiplies the gradient by the gate
  z. Gate and candidate share the pre-activation a: apart from the biases, z is near 1 only where n
  is saturated, which closes the path through W_h.

  Args:
    hidden_size: width H of carry and output.
    zeta: initial value of ζ. The candidate's weight is σ(1) = 0.73 times 1 − z by default.
    nu: initial value of ν. σ(−4) = 0.02 is added to that weight by default.
    recurrent_gain: factor on W_h at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [2·H], "zeta": [1], "nu": [1]}, b in the order z, n.
    At initialization, as in the authors' code, the entries of W_x and W_h are N(0, 0.1²), whatever
    their size, and b is 1. Gates: {"update": z}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, or `zeta`, `nu` or `recurrent_gain` is not a
      finite number.
  References:
    Kusupati et al., 2018, https://arxiv.org/abs/1901.02358, where ζ and ν are the weights σ(ζ) and
    σ(ν) themselves; for the initialization: https://github.com/microsoft/EdgeML
  """
  scalars = {"zeta": zeta, "nu": nu}
  return Cell(
    init=_init(hidden_size, 2, recurrent_gain, scalars),
    initial_carry=zeros(hidden_size),
    prepare=functools.partial(_prepare, names=("zeta", "nu")),
    project=dense_project,
    recur=plain_recur,
    update=_gated_update,
    output=the_carry,
    gates=_gates,
    recurrent_kernel="w_h",
    output_is_carry=True,
  )


def _init(
  hidden_size: int, num_biases: int, recurrent_gain: Number, scalars: dict[str, Number]
) -> InitFn[dict[str, Array]]:
  """Returns an `init` with one input kernel, one recurrent kernel, biases, and scalars."""
  checks.integer("hidden_size", hidden_size)
  checks.number("recurrent_gain", recurrent_gain)
  for name, value in scalars.items():
    checks.number(name, value)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> dict[str, Array]:
    check_cell_init(key, input_size, dtype)
    x_key, h_key = jax.random.split(key)
    w_h = 0.1 * jax.random.normal(h_key, (hidden_size, hidden_size), dtype)
    return {
      "w_x": 0.1 * jax.random.normal(x_key, (input_size, hidden_size), dtype),
      "w_h": jnp.asarray(recurrent_gain, dtype) * w_h,
      "b": jnp.ones(num_biases * hidden_size, dtype),
      **{name: jnp.full(1, jnp.asarray(value, dtype)) for name, value in scalars.items()},
    }

  return init


def _prepare(params: FlatParams, names: tuple[str, str]) -> FlatParams:
  """Returns the params with the named scalars replaced by σ of them."""
  return {**params, **{name: jax.nn.sigmoid(params[name]) for name in names}}


def _update(params: FlatParams, h: Units, drive: Units, recurrent: Units) -> Units:
  alpha, beta = (expand_like(params[name], h) for name in ("alpha", "beta"))
  return beta * h + alpha * tanh(drive + recurrent)


def _gated_update(params: FlatParams, h: Units, drive: Units, recurrent: Units) -> Units:
  zeta, nu = (expand_like(params[name], h) for name in ("zeta", "nu"))
  z, n = _gate_and_candidate(params, drive + recurrent)
  return z * h + (zeta * (1 - z) + nu) * n


def _gate_and_candidate(params: FlatParams, a: Units) -> tuple[Units, Units]:
  b_z, b_n = (expand_like(b, a) for b in jnp.split(params["b"], 2))
  return jax.nn.sigmoid(a + b_z), jnp.tanh(a + b_n)


def _gates(params: FlatParams, h: Units, drive: Units, recurrent: Units) -> Gates:
  del h
  return {"update": _gate_and_candidate(params, drive + recurrent)[0]}
