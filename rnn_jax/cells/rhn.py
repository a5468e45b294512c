"""The recurrent highway network, whose step runs several highway layers."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, dense_recur, the_carry, zeros
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  Features,
  FlatParams,
  Gates,
  Number,
  PlainCell,
  Units,
  unprepared,
)


def gates(a: Features, s: Units) -> Units:
  """Returns t ∘ (h̃ − s), the change of s in one micro-step, as the equations of `rhn` are written.

  The tests compare `fused_gates` with this function.

  Args:
    a: pre-activations [..., 2·H] in the order h̃, t.
    s: the state [..., H].
  """
  candidate, gate = jnp.split(a, 2, axis=-1)
  return jax.nn.sigmoid(gate) * (jnp.tanh(candidate) - s)


@jax.custom_jvp
def fused_gates(a: Features, s: Units) -> Units:
  """Returns t ∘ (h̃ − s) from pre-activations a and state s, as `gates` does.

  Its backward pass stores three arrays [..., H]. The tangent is

    Σ k ȧ − t ṡ      k = [t (1 − h̃²),  t (1 − t) (h̃ − s)]

  where Σ is the sum over the blocks h̃, t.
  """
  return gates(a, s)


@fused_gates.defjvp
def _fused_gates_jvp(
  primals: tuple[CellArray, CellArray], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
  (a, s), (a_dot, s_dot) = primals, tangents
  candidate, gate = jnp.split(a, 2, axis=-1)
  candidate, t = jnp.tanh(candidate), jax.nn.sigmoid(gate)
  change = t * (candidate - s)
  k = jnp.concatenate([t * (1 - candidate**2), (1 - t) * change], axis=-1)
  candidate_part, gate_part = jnp.split(k * a_dot, 2, axis=-1)
  return change, candidate_part + gate_part - t * s_dot


@memoized
def rhn(
  hidden_size: int,
  *,
  num_microsteps: int = 3,
  transform_bias: Number = -2.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """Recurrent highway network: several highway layers in each time step.

    s₀ = h      sₗ₊₁ = (h̃ₗ − sₗ) ∘ tₗ + sₗ,  l = 0 … L−1      h' = s_L
    h̃₀ = tanh(x W_h̃ + s₀ U_h̃ + b_h̃)      t₀ = σ(x W_t + s₀ U_t + b_t)
    h̃ₗ = tanh(sₗ Rₗ_h̃ + bₗ_h̃)              tₗ = σ(sₗ Rₗ_t + bₗ_t)                l > 0

  Micro-step l computes sₗ₊₁. Its transform gate tₗ is the share of sₗ that is replaced by the
  candidate h̃ₗ; the carry gate is 1 − tₗ (the paper's coupled form). Only micro-step 0 reads the
  input.

  Step Jacobian: the product of L factors diag(1 − tₗ) + Rₗ_h̃ diag(tₗ ∘ (1 − h̃ₗ²)) +
  Rₗ_t diag((h̃ₗ − sₗ) ∘ tₗ ∘ (1 − tₗ)), with U in place of R₀. Where t is near 0 each factor is
  near I, and the gradient survives any number of micro-steps; where t is near 1 a step attenuates
  the gradient as much as L tanh layers do.

  Args:
    hidden_size: width H of carry and output.
    num_microsteps: L, the depth of a step. The paper's language models have up to 10.
    transform_bias: initial value of b_t in all micro-steps. The paper uses −2 to −4: the deeper the
      step, the lower the bias.
    recurrent_kernel: initialization of each block of U and Rₗ: `orthogonal`, `gaussian` or
      `identity`.
    recurrent_gain: factor on U and Rₗ at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 2·H], "w_h": U [H, 2·H], "b": [2·H]} of micro-step 0 and
    {"r_1": R₁ [H, 2·H], "b_1": [2·H], …} of the other L−1 micro-steps, each in the order h̃, t.
    Gates: {"transform_0": t₀, "transform_1": t₁, …}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` or `num_microsteps` is
      below 1, or `transform_bias` or `recurrent_gain` is not a finite number.
  References:
    Zilly et al., 2017, https://arxiv.org/abs/1607.03474
  """
  checks.integer("num_microsteps", num_microsteps)
  checks.number("transform_bias", transform_bias)
  dense = dense_init(hidden_size, 2, recurrent_kernel, recurrent_gain)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    key, *keys = jax.random.split(key, num_microsteps)
    params = dense(key, input_size, dtype)
    b = params["b"].at[hidden_size:].set(jnp.asarray(transform_bias, params["b"].dtype))
    params["b"] = b
    for i, r_key in enumerate(keys, 1):
      params |= {f"r_{i}": dense(r_key, 1, dtype)["w_h"], f"b_{i}": b}
    return params

  def microsteps(
    params: FlatParams, s: Units, drive: Features, recurrent: Features
  ) -> Iterator[tuple[Units, Units]]:
    """Yields (sₗ₊₁, tₗ), the new state and the transform gate, for each micro-step l."""
    a = drive + recurrent
    for i in range(1, num_microsteps + 1):
      s = s + fused_gates(a, s)
      yield s, jax.nn.sigmoid(a[..., hidden_size:])
      if i < num_microsteps:
        a = dense_recur({"w_h": params[f"r_{i}"], "b": params[f"b_{i}"]}, s)

  def update(
    params: FlatParams,
    h: Units,
    drive: Float[CellArray, "*batch 2*H"],
    recurrent: Float[CellArray, "*batch 2*H"],
  ) -> Units:
    return [s for s, _ in microsteps(params, h, drive, recurrent)][-1]

  def transform_gates(params: FlatParams, h: Units, drive: Features, recurrent: Features) -> Gates:
    steps = microsteps(params, h, drive, recurrent)
    return {f"transform_{i}": t for i, (_, t) in enumerate(steps)}

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=dense_project,
    recur=dense_recur,
    update=update,
    output=the_carry,
    gates=transform_gates,
    recurrent_kernel="w_h",
    output_is_carry=True,
  )
