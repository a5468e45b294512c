"""S5, one diagonal state-space model for all channels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import complex_of, complex_zeros
from rnn_jax.cells.linear import DISCRETIZATIONS, hippo_eigenvectors, linear_cell
from rnn_jax.cells.lru import LRUDrive, diagonal, project_with_skip, real_readout
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import (
  check_cell_init,
  drawn_in_float32,
  input_kernel,
  log_uniform_steps,
)
from rnn_jax.types import Array, Cell, FlatParams


@memoized
def s5(
  hidden_size: int, *, num_blocks: int = 1, discretization: str = "zoh"
) -> Cell[FlatParams, Array, LRUDrive]:
  """S5: one diagonal linear state-space model, initialized to HiPPO-N, that all channels share.

    h' = λ̄ ∘ h + B̄ x      zoh: λ̄ = e^{Δ∘λ}, B̄ = (e^{Δ∘λ} − 1)/λ ∘ B
    y = 2 Re(C h') + S x   bilinear: λ̄ = (1 + Δ∘λ/2)/(1 − Δ∘λ/2), B̄ = Δ/(1 − Δ∘λ/2) ∘ B

  The H complex states represent 2·H states in conjugate pairs. Every state has its own step size Δ.
  (In place of the matrix S of the skip connection, the paper has a vector D, because its input has
  width H.)

  Step Jacobian: diag(λ̄) for any input. At initialization Re λ = −1/2 and |λ̄| = e^{−Δ/2} with
  `zoh`, so the gradient is halved in 14 to 1400 steps. Unlike in the LRU and in S4D, it can
  explode, because training may make Re λ positive.

  Gradient flow: every state has its own factor |λ̄| and its own learned step size Δ, which scales
  decay and rotation alike.

  Args:
    hidden_size: width H of carry and output.
    num_blocks: J, a divisor of H. At initialization the state matrix is block-diagonal with J
      HiPPO-N matrices of size 2·H/J.
    discretization: `zoh`, the exact solution for an input that is constant during a step, or
      `bilinear`.
  Returns:
    A Cell: x [..., D], carry [..., H] (complex), y [..., H] (real);
    params {"w_x": Re B, Im B and S side by side [D, 3·H], "lambda_re": Re λ [H],
    "lambda_im": Im λ [H], "log_step": ln Δ [H], "c_re": Re C [H, H], "c_im": Im C [H, H]}. As in
    the authors' code, λ are at first the eigenvalues of HiPPO-N, B and C are LeCun normal in the
    coordinates in which the state matrix is HiPPO-N, and Δ is log-uniform from 0.001 to 0.1. S is
    LeCun normal.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, `num_blocks` does not divide it, or
      `discretization` is unknown.
  References:
    Smith et al., 2023, https://arxiv.org/abs/2208.04933, and their code,
    https://github.com/lindermanlab/S5
  """
  checks.integer("hidden_size", hidden_size)
  checks.integer("num_blocks", num_blocks)
  if hidden_size % num_blocks:
    raise ValueError(f"num_blocks must divide hidden_size {hidden_size}, got {num_blocks}.")
  discretize = DISCRETIZATIONS[checks.choice("discretization", discretization, DISCRETIZATIONS)]

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    b_key, c_key, step_key, skip_key = jax.random.split(key, 4)
    frequencies, vectors = hippo_eigenvectors(2 * hidden_size // num_blocks)
    v_re, v_im = jnp.asarray(vectors.real, dtype), jnp.asarray(vectors.imag, dtype)

    def rotated(rows: Array, v: Array) -> Array:
      """Returns Vᵀ rows [2·H, K] for the block-diagonal V [2·H, H], as [H, K]."""
      blocks = rows.reshape(num_blocks, -1, rows.shape[-1])
      return jnp.einsum("jak,ah->jhk", blocks, v).reshape(hidden_size, -1)

    states = 2 * hidden_size
    b = input_kernel(b_key, (input_size, states), dtype).T
    c_1, c_2 = jnp.split(input_kernel(c_key, (states, 2 * hidden_size), dtype), 2, axis=1)
    skip = input_kernel(skip_key, (input_size, hidden_size), dtype)
    # V⁻¹ is the conjugate transpose of V.
    return {
      "w_x": jnp.concatenate([rotated(b, v_re).T, -rotated(b, v_im).T, skip], axis=1),
      "lambda_re": jnp.full(hidden_size, -0.5, dtype),
      "lambda_im": jnp.tile(jnp.asarray(frequencies, dtype), num_blocks),
      "log_step": log_uniform_steps(step_key, (hidden_size,), dtype),
      "c_re": rotated(c_1, v_re) - rotated(c_2, v_im),
      "c_im": rotated(c_1, v_im) + rotated(c_2, v_re),
    }

  def prepare(params: FlatParams) -> FlatParams:
    eigenvalue = complex_of(params["lambda_re"], params["lambda_im"])
    factor, scale = discretize(eigenvalue, jnp.exp(params["log_step"]))
    re, im, skip = jnp.split(params["w_x"], 3, axis=1)
    b = scale[None] * complex_of(re, im)
    w_x = jnp.concatenate([b.real.astype(re.dtype), b.imag.astype(re.dtype), skip], axis=1)
    w_y = 2 * jnp.concatenate([params["c_re"], -params["c_im"]])  # 2 Re(C h) = [Re h, Im h] W_y
    return {"lambda": factor, "w_x": w_x, "w_y": w_y}

  return linear_cell(
    init=init,
    initial_carry=complex_zeros(hidden_size),
    prepare=prepare,
    project=project_with_skip,
    linear=diagonal,
    output=real_readout,
  )
