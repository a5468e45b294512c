"""S6, the selective state-space model of Mamba."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, expand_like, product
from rnn_jax.cells.linear import linear_cell
from rnn_jax.cells.matrix_memory import outer
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import (
  check_cell_init,
  drawn_in_float32,
  input_kernel,
  log_uniform_steps,
)
from rnn_jax.types import Array, Cell, CellArray, FlatParams, Inputs, Shape, Units

States = Float[CellArray, "*batch H N"]


class S6Drive(NamedTuple):
  """The drive of an S6: what it computes from the input alone.

  Attributes:
    value: u [..., H].
    step: Δ [..., H].
    write: B [..., N].
    read: C [..., N].
  """

  value: Array
  step: Array
  write: Array
  read: Array


@memoized
def s6(hidden_size: int, *, state_size: int = 16) -> Cell[FlatParams, Array, S6Drive]:
  """S6, the recurrence of Mamba: a diagonal state-space model whose step size the input selects.

    u = x W_u      Δ = softplus(x W_δ V + b)      B = x W_B      C = x W_C
    h' = e^{−Δ ∘ A} ∘ h + (Δ ∘ u) B
    y = h' Cᵀ + S ∘ u

  h [H, N] has N states for each of the H channels. Every channel has its own step size Δ, and all
  channels share B and C. As in the authors' code, e^{−Δ ∘ A} is the exact zero-order hold, whereas
  Δ B approximates it for small Δ. (The paper writes −A and D for A and S. In the authors' block, u
  is the output of a convolution and silu, and Δ, B and C are computed from u; here all four are
  computed from x.)

  Step Jacobian: diag(e^{−Δ ∘ A}), between 0 and 1 because A > 0. It depends only on the input, and
  its products over time never explode. An input that makes Δ near 0 is skipped: h is kept, and the
  gradient passes unchanged.

  Gradient flow: the input chooses the time scale 1/Δ of each channel. The channel's N states share
  it; at initialization they decay at the rates Δ, 2 Δ, …, N Δ.

  Args:
    hidden_size: width H of the output, the number of channels.
    state_size: N, the number of states of a channel.
  Returns:
    A Cell: x [..., D], carry [..., H, N], y [..., H]; params {"w_x": [D, H + R + 2·N] in the order
    u, δ, B, C with R = ⌈H/16⌉, "w_step": V [R, H], "step_bias": b [H], "log_rate": ln A [H, N],
    "skip": S [H]}. As in the authors' code, at initialization A = 1, 2, …, N for every channel,
    V is uniform in ±1/√R, softplus(b) is log-uniform from 0.001 to 0.1, and S is 1. W is LeCun
    normal.
  Raises:
    TypeError, ValueError: if `hidden_size` or `state_size` is below 1.
  References:
    Gu and Dao, 2023, https://arxiv.org/abs/2312.00752, and their code,
    https://github.com/state-spaces/mamba
  """
  checks.integer("hidden_size", hidden_size)
  checks.integer("state_size", state_size)
  rank = -(-hidden_size // 16)
  edges = [hidden_size, hidden_size + rank, hidden_size + rank + state_size]

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, v_key, step_key = jax.random.split(key, 3)
    width, bound = edges[-1] + state_size, rank**-0.5
    rates = jnp.log(jnp.arange(1, state_size + 1, dtype=dtype))
    return {
      "w_x": input_kernel(x_key, (input_size, width), dtype),
      "w_step": jax.random.uniform(v_key, (rank, hidden_size), dtype, -bound, bound),
      # ln(e^Δ − 1), the inverse of softplus
      "step_bias": jnp.log(jnp.expm1(jnp.exp(log_uniform_steps(step_key, (hidden_size,), dtype)))),
      "log_rate": jnp.broadcast_to(rates, (hidden_size, state_size)),
      "skip": jnp.ones(hidden_size, dtype),
    }

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> Array:
    return jnp.zeros((*batch_shape, hidden_size, state_size), dtype)

  def project(params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None) -> S6Drive:
    u, low, b, c = jnp.split(dense_project(params, xs, key), edges, axis=-1)
    step = product(low, params["w_step"]) + expand_like(params["step_bias"], u)
    return S6Drive(u, jax.nn.softplus(step), b, c)

  return linear_cell(
    init=init,
    initial_carry=initial_carry,
    prepare=_prepare,
    project=project,
    linear=_linear,
    output=_output,
  )


def _prepare(params: FlatParams) -> FlatParams:
  return {**params, "rate": jnp.exp(params["log_rate"])}


def _linear(params: FlatParams, drive: S6Drive) -> tuple[States, States]:
  step = drive.step[..., None]
  rate = jnp.expand_dims(params["rate"], range(step.ndim - 2))
  return jnp.exp(-step * rate), outer(drive.step * drive.value, drive.write)


def _output(params: FlatParams, h: States, drive: S6Drive) -> Units:
  # XLA:CPU computes the derivatives of matrix-vector products faster than those of sums. On
  # accelerators, only the precision "highest" is that of a sum.
  read = jnp.einsum("...hn,...n->...h", h, drive.read, precision="highest")
  return read + expand_like(params["skip"], read) * drive.value
