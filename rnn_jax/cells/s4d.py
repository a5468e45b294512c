"""S4D, diagonal state-space models of single channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Complex, Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import complex_of, complex_zeros, dense_project, expand_like
from rnn_jax.cells.linear import DISCRETIZATIONS, hippo_frequencies, linear_cell
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import (
  check_cell_init,
  drawn_in_float32,
  input_kernel,
  log_uniform_steps,
)
from rnn_jax.types import Array, CellArray, FlatParams, PlainCell, Units

States = Complex[Array, "*batch H M"]

# Initial Im λ_m of the M = N/2 states of a channel, m = 0 … M − 1, as functions of N.
FREQUENCIES: Mapping[str, Callable[[int], np.ndarray]] = {
  "lin": lambda n: np.pi * np.arange(n // 2),
  "inv": lambda n: n / np.pi * (n / (2 * np.arange(n // 2) + 1) - 1),
  "legs": hippo_frequencies,
}


@memoized
def s4d(
  hidden_size: int,
  *,
  state_size: int = 64,
  frequencies: str = "lin",
  discretization: str = "zoh",
) -> PlainCell:
  """S4D: every channel is a diagonal linear state-space model with states of many time scales.

    u = x W      λ = −e^ν + i ω
    h' = λ̄ ∘ h + B̄ ∘ u            zoh: λ̄ = e^{Δλ}, B̄ = (e^{Δλ} − 1)/λ
    y = 2 Re Σ_m C_m h'_m + S ∘ u   bilinear: λ̄ = (1 + Δλ/2)/(1 − Δλ/2), B̄ = Δ/(1 − Δλ/2)

  h [H, M] has M = N/2 complex states for each of the H channels, which represent N states in
  conjugate pairs. The states of a channel read only that channel's u, with B = 1, and share one
  step size Δ. (The vector S of the skip connection is called D in the paper. There, u is the input
  itself, because the layer below already has width H; here W takes the place of that layer.)

  Step Jacobian: diag(λ̄) for any input. |λ̄| < 1 for any value of the params, so the gradient cannot
  explode. At initialization |λ̄| = e^{−Δ/2} with `zoh`, so the gradient is halved in 14 to 1400
  steps.

  Gradient flow: every state has its own factor |λ̄|, and the output of a channel reads M of them at
  once, with many different frequencies.

  Args:
    hidden_size: width H of the output, the number of channels.
    state_size: N, the number of states of a channel, an even number.
    frequencies: initial ω: `lin`, π m; `inv`, N/π (N/(2 m + 1) − 1); or `legs`, the eigenvalues of
      the normal part of the HiPPO-LegS matrix. The initial −e^ν is −1/2 for all of them.
    discretization: `zoh`, the exact solution for an input that is constant during a step, or
      `bilinear`.
  Returns:
    A Cell: x [..., D], carry [..., H, M] (complex), y [..., H] (real); params {"w_x": [D, H],
    "nu": ν [H, M], "omega": ω [H, M], "log_step": ln Δ [H], "c_re": Re C [H, M],
    "c_im": Im C [H, M], "skip": S [H]}. As in the authors' code, Δ is log-uniform from 0.001 to
    0.1 at initialization, and C and S have variance 1. W is LeCun normal.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, `state_size` is not an even number of at
      least 2, or `frequencies` or `discretization` is unknown.
  References:
    Gu et al., 2022, https://arxiv.org/abs/2206.11893, and their code,
    https://github.com/state-spaces/s4
  """
  checks.integer("hidden_size", hidden_size)
  checks.integer("state_size", state_size, minimum=2)
  if state_size % 2:
    raise ValueError(f"state_size must be even, got {state_size}.")
  initial = FREQUENCIES[checks.choice("frequencies", frequencies, FREQUENCIES)](state_size)
  discretize = DISCRETIZATIONS[checks.choice("discretization", discretization, DISCRETIZATIONS)]
  shape = (hidden_size, state_size // 2)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, step_key, c_key, skip_key = jax.random.split(key, 4)
    c = jax.random.normal(c_key, (2, *shape), dtype) / math.sqrt(2)
    return {
      "w_x": input_kernel(x_key, (input_size, hidden_size), dtype),
      "nu": jnp.full(shape, math.log(0.5), dtype),
      "omega": jnp.broadcast_to(jnp.asarray(initial, dtype), shape),
      "log_step": log_uniform_steps(step_key, (hidden_size,), dtype),
      "c_re": c[0],
      "c_im": c[1],
      "skip": jax.random.normal(skip_key, (hidden_size,), dtype),
    }

  def prepare(params: FlatParams) -> FlatParams:
    eigenvalue = complex_of(-jnp.exp(params["nu"]), params["omega"])
    factor, b = discretize(eigenvalue, jnp.exp(params["log_step"])[:, None])
    c = complex_of(params["c_re"], params["c_im"])
    return {"w_x": params["w_x"], "lambda": factor, "b": b, "c": 2 * c, "skip": params["skip"]}

  return linear_cell(
    init=init,
    initial_carry=complex_zeros(*shape),
    prepare=prepare,
    project=dense_project,
    linear=_linear,
    output=_output,
  )


def _linear(params: FlatParams, drive: Units) -> tuple[Complex[Array, "*ones H M"], States]:
  u = complex_of(drive, jnp.zeros_like(drive))[..., None]
  ones = range(u.ndim - 2)
  return jnp.expand_dims(params["lambda"], ones), jnp.expand_dims(params["b"], ones) * u


def _output(params: FlatParams, h: Complex[CellArray, "*batch H M"], drive: Units) -> Units:
  c = jnp.expand_dims(params["c"], range(h.ndim - 2))
  # Re (c h) without the imaginary part, which nobody reads
  read: Float[Array, "*batch H"] = jnp.sum(c.real * h.real - c.imag * h.imag, axis=-1)
  return read.astype(drive.dtype) + expand_like(params["skip"], drive) * drive
