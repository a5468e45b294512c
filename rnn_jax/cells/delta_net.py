"""DeltaNet and gated DeltaNet, matrix memories that the delta rule updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, expand_like
from rnn_jax.cells.heads import by_head, check_heads, for_units, joined
from rnn_jax.cells.matrix_memory import outer, read, scaled
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32, input_kernel, log_uniform_steps
from rnn_jax.types import (
  Array,
  Cell,
  FlatParams,
  Gates,
  InitFn,
  Inputs,
  Shape,
  Units,
  unprepared,
)

Memory = Float[Array, "*batch N P P"]
EPSILON = 1e-6  # added to ‖·‖², as in the authors' code, so that a key of zeros has a derivative


class DeltaDrive(NamedTuple):
  """The drive of a DeltaNet with N heads of P = H/N units: all but its memory.

  Attributes:
    query, key, value: q, k and v [..., N, P]; q and k have unit norm.
    rate: β [..., N].
    decay: α [..., N]; None if the memory does not decay.
  """

  query: Array
  key: Array
  value: Array
  rate: Array
  decay: Array | None


DeltaCell = Cell[FlatParams, Array, DeltaDrive]


@memoized
def delta_net(
  hidden_size: int, *, num_heads: int = 1, negative_eigenvalues: bool = False
) -> DeltaCell:
  """DeltaNet: a matrix memory that replaces the value stored under a key, by the delta rule.

    q, k = silu(x W) / ‖silu(x W)‖     v = x W_v     β = σ(x w_β)
    S' = S + β kᵀ (v − k S) = (I − β kᵀ k) S + β kᵀ v
    y = q S'

  Each of the N heads of P = H/N units has its own memory S [P, P] and its own scalar β. k S is the
  value that S holds under the key k; a share β of it is replaced by v.

  Step Jacobian: I − β kᵀ k on every column of S. It is symmetric and depends only on the input. Its
  eigenvalues are 1 for the P − 1 directions orthogonal to k and 1 − β for k, each P times because S
  has P columns. β is in (0, 1), so products over time never explode. With `negative_eigenvalues`,
  β is in (0, 2) and 1 − β in (−1, 1); as β approaches 2, the step approaches a Householder
  reflection, which is orthogonal.

  Gradient flow: factors belong to directions instead of units. A step shrinks the gradient only in
  the direction of its key, and passes the rest unchanged.

  Args:
    hidden_size: width H of the output.
    num_heads: N, a divisor of H. The authors' code uses 4 by default.
    negative_eigenvalues: whether β is 2 σ(x w_β), so that the eigenvalue 1 − β may be negative, as
      state-tracking tasks require (Grazzi et al., 2024).
  Returns:
    A Cell: x [..., D], carry S [..., N, P, P] (keys × values), y [..., H];
    params {"w_x": [D, 3·H + N]} in the order q, k, v, β, LeCun normal. Gates, the
    same for all units of a head: {"update": σ(x w_β)}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, `num_heads` does not divide it, or
      `negative_eigenvalues` is not a bool.
  References:
    Yang et al., 2024, https://arxiv.org/abs/2406.06484, after Schlag et al., 2021,
    https://arxiv.org/abs/2102.11174; for negative eigenvalues: Grazzi et al., 2024,
    https://arxiv.org/abs/2411.12537. The authors' layer,
    https://github.com/fla-org/flash-linear-attention, also has short convolutions before q, k and
    v, silu of v, q / √P, and a normalization of y.
  """
  check_heads(hidden_size, num_heads)
  checks.boolean("negative_eigenvalues", negative_eigenvalues)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    return {"w_x": input_kernel(key, (input_size, 3 * hidden_size + num_heads), dtype)}

  return _cell(hidden_size, num_heads, negative_eigenvalues, init, None)


@memoized
def gated_delta_net(
  hidden_size: int, *, num_heads: int = 1, negative_eigenvalues: bool = False
) -> DeltaCell:
  """Gated DeltaNet: a DeltaNet whose whole memory also decays, at a rate that the input sets.

    q, k = silu(x W) / ‖silu(x W)‖     v = x W_v     β = σ(x w_β)
    α = exp(−e^a softplus(x w_α + b_α))
    S' = α (I − β kᵀ k) S + β kᵀ v
    y = q S'

  Each of the N heads of P = H/N units has its own memory S and its own scalars α and β.

  Step Jacobian: α (I − β kᵀ k) on every column of S. It is symmetric and depends only on the input.
  Its eigenvalues are α for the P − 1 directions orthogonal to k and α (1 − β) for k, each P times.
  As 0 < α < 1, products over time never explode, not even with `negative_eigenvalues`.

  Gradient flow: a step multiplies the whole gradient by α, and its component in the direction of
  the key also by 1 − β, so it can forget everything or a single key.

  Args:
    hidden_size: width H of the output.
    num_heads: N, a divisor of H. The authors' code uses 6 by default.
    negative_eigenvalues: whether β is 2 σ(x w_β), as in `delta_net`.
  Returns:
    A Cell: x [..., D], carry S [..., N, P, P] (keys × values), y [..., H];
    params {"w_x": [D, 3·H + 2·N] in the order q, k, v, β, α, "log_rate": a [N],
    "step_bias": b_α [N]}. As in the authors' code, e^a is uniform in (0, 16) at initialization,
    and softplus(b_α) is log-uniform from 0.001 to 0.1. W is LeCun normal. Gates, the same for all
    units of a head: {"update": σ(x w_β), "forget": α}.
  Raises:
    TypeError, ValueError: as for `delta_net`.
  References:
    Yang et al., 2024, https://arxiv.org/abs/2412.06464, and their code,
    https://github.com/fla-org/flash-linear-attention, whose layer also has short convolutions
    before q, k and v, silu of v, q / √P, and a gated normalization of y. α is that of Mamba2.
  """
  check_heads(hidden_size, num_heads)
  checks.boolean("negative_eigenvalues", negative_eigenvalues)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, rate_key, step_key = jax.random.split(key, 3)
    tiny = jnp.finfo(dtype).tiny
    return {
      "w_x": input_kernel(x_key, (input_size, 3 * hidden_size + 2 * num_heads), dtype),
      "log_rate": jnp.log(jax.random.uniform(rate_key, (num_heads,), dtype, tiny, 16)),
      # ln(e^Δ − 1), the inverse of softplus
      "step_bias": jnp.log(jnp.expm1(jnp.exp(log_uniform_steps(step_key, (num_heads,), dtype)))),
    }

  return _cell(hidden_size, num_heads, negative_eigenvalues, init, _decay)


def _decay(params: FlatParams, a: Float[Array, "*batch N"]) -> Float[Array, "*batch N"]:
  """Returns α, given x w_α."""
  step = jax.nn.softplus(a + expand_like(params["step_bias"], a))
  return jnp.exp(-step * expand_like(jnp.exp(params["log_rate"]), a))


def _cell(
  hidden_size: int,
  num_heads: int,
  negative_eigenvalues: bool,
  init: InitFn[FlatParams],
  decay: Callable[[FlatParams, Array], Array] | None,
) -> DeltaCell:
  """Returns a DeltaNet.

  Args:
    hidden_size, num_heads, negative_eigenvalues: options of the cell.
    init: the cell's `init`.
    decay: `(params, x w_α) -> α`; None if the memory does not decay.
  """
  head_size = hidden_size // num_heads
  edges = [hidden_size, 2 * hidden_size, 3 * hidden_size, 3 * hidden_size + num_heads]
  largest = 2 if negative_eigenvalues else 1

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> Array:
    return jnp.zeros((*batch_shape, num_heads, head_size, head_size), dtype)

  def project(params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None) -> DeltaDrive:
    q, k, v, b, a = jnp.split(dense_project(params, xs, key), edges, axis=-1)
    q, k, v = (by_head(part, num_heads) for part in (q, k, v))
    alpha = None if decay is None else decay(params, a)
    q, k = (unit_norm(jax.nn.silu(part)) for part in (q, k))
    return DeltaDrive(q, k, v, largest * jax.nn.sigmoid(b), alpha)

  def gates(params: FlatParams, carry: Memory, drive: DeltaDrive, recurrent: tuple[()]) -> Gates:
    del params, carry, recurrent
    found = {"update": drive.rate / largest}
    if drive.decay is not None:
      found["forget"] = drive.decay
    return {name: for_units(values, head_size) for name, values in found.items()}

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=unprepared,
    project=project,
    recur=_recur,
    update=_update,
    output=_output,
    gates=gates,
  )


def unit_norm(a: Float[Array, "*batch P"]) -> Float[Array, "*batch P"]:
  """Returns a / √(‖a‖² + ε), over the last axis. Half precision is computed in float32."""
  wide = a.astype(np.promote_types(a.dtype, np.float32))
  square = jnp.sum(wide**2, axis=-1, keepdims=True)
  return (wide * jax.lax.rsqrt(square + EPSILON)).astype(a.dtype)


def _recur(params: FlatParams, carry: Memory) -> tuple[()]:
  del params, carry
  return ()


def _update(params: FlatParams, carry: Memory, drive: DeltaDrive, recurrent: tuple[()]) -> Memory:
  del params, recurrent
  s, k = carry, drive.key
  if drive.decay is not None:
    s = scaled(drive.decay, s)
  error = drive.value - read(k, s)
  return s + outer(k, drive.rate[..., None] * error)


def _output(params: FlatParams, carry: Memory, drive: DeltaDrive) -> Units:
  del params
  return joined(read(drive.query, carry))
