"""The linear recurrent unit (LRU), a diagonal complex recurrence."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Complex, Key

from rnn_jax import checks
from rnn_jax.cells.dense import complex_of, complex_zeros, dense_project, expand_like
from rnn_jax.cells.linear import check_ring, linear_cell, on_ring
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32, input_kernel
from rnn_jax.types import Array, Cell, FlatParams, Inputs, Units

ComplexUnits = Complex[Array, "*batch H"]


class LRUDrive(NamedTuple):
  """The drive of a linear recurrent unit: what it computes from the input alone.

  Attributes:
    b: e^γ ∘ (B x), complex [..., H], the input of the recurrence.
    skip: S x, real [..., H], the input's direct contribution to the output.
  """

  b: Array
  skip: Array


@memoized
def lru(
  hidden_size: int,
  *,
  min_radius: int | float = 0.0,
  max_radius: int | float = 1.0,
  max_phase: int | float = 2 * math.pi,
) -> Cell[FlatParams, Array, LRUDrive]:
  """Linear recurrent unit: a diagonal complex recurrence, followed by a linear readout.

    h' = λ ∘ h + e^γ ∘ (B x)      λ = exp(−e^ν + i e^θ)
    y = Re(C h') + S x

  (The paper calls the matrix S of the skip connection D.)

  Step Jacobian: diag(λ) for any input. Over k steps the gradient of unit j is scaled by |λ_j|^k and
  rotated by the angle k e^θ_j. It cannot explode, because |λ| < 1 for every ν.

  Args:
    hidden_size: width H of carry and output.
    min_radius, max_radius: range of |λ| at initialization, inside [0, 1]. λ is drawn uniformly, by
      area, from the ring between these radii. For long dependencies, choose both near 1 (the paper
      uses 0.999 for its longest tasks).
    max_phase: e^θ ~ U(0, max_phase) at initialization, in radians. Choose it small for long
      dependencies.
  Returns:
    A Cell: x [..., D], carry [..., H] (complex), y [..., H] (real);
    params {"w_x": Re B, Im B and S side by side [D, 3·H], "nu": ν [H], "theta": θ [H],
    "gamma": γ [H], "c_re": Re C [H, H], "c_im": Im C [H, H]}. At initialization, the real and
    imaginary parts of B have variance 1/(2 D), those of C have variance 1/H, S is LeCun normal, and
    e^γ = √(1 − |λ|²), which keeps the carry at unit variance for white inputs.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, the radii violate
      0 ≤ min_radius < max_radius ≤ 1, or `max_phase` is not above 0.
  References:
    Orvieto et al., 2023, https://arxiv.org/abs/2303.06349
  """
  checks.integer("hidden_size", hidden_size)
  check_ring(min_radius, max_radius)
  checks.number("max_phase", max_phase, above=0)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    ring_key, phase_key, b_key, c_key, skip_key = jax.random.split(key, 5)
    rate = -on_ring(ring_key, hidden_size, min_radius, max_radius, dtype)  # e^ν = −ln |λ|
    tiny = jnp.finfo(dtype).tiny
    phase = jax.random.uniform(phase_key, (hidden_size,), dtype, tiny, max_phase)
    b = jax.random.normal(b_key, (input_size, 2 * hidden_size), dtype) / math.sqrt(2 * input_size)
    c = jax.random.normal(c_key, (2, hidden_size, hidden_size), dtype) / math.sqrt(hidden_size)
    skip = input_kernel(skip_key, (input_size, hidden_size), dtype)
    return {
      "w_x": jnp.concatenate([b, skip], axis=1),
      "nu": jnp.log(rate),
      "theta": jnp.log(phase),
      "gamma": jnp.log(-jnp.expm1(-2 * rate)) / 2,
      "c_re": c[0],
      "c_im": c[1],
    }

  return linear_cell(
    init=init,
    initial_carry=complex_zeros(hidden_size),
    prepare=_prepare,
    project=project_with_skip,
    linear=diagonal,
    output=real_readout,
  )


def _prepare(params: FlatParams) -> FlatParams:
  decay = jnp.exp(-jnp.exp(params["nu"]))
  turn = jnp.exp(params["theta"])
  e_gamma = jnp.exp(params["gamma"])
  ones = jnp.ones_like(e_gamma)
  return {
    "lambda": complex_of(decay * jnp.cos(turn), decay * jnp.sin(turn)),
    "w_x": params["w_x"] * jnp.concatenate([e_gamma, e_gamma, ones])[None],
    "w_y": jnp.concatenate([params["c_re"], -params["c_im"]]),  # Re(C h) = [Re h, Im h] W_y
  }


def project_with_skip(
  params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None
) -> LRUDrive:
  """Returns B x and S x, given the prepared w_x: Re B, Im B and S side by side [D, 3·H]."""
  re, im, skip = jnp.split(dense_project(params, xs, key), 3, axis=-1)
  return LRUDrive(complex_of(re, im), skip)


def diagonal(params: FlatParams, drive: LRUDrive) -> tuple[Complex[Array, "*ones H"], ComplexUnits]:
  """Returns (λ, B x), for h' = λ ∘ h + B x."""
  return expand_like(params["lambda"], drive.b), drive.b


def real_readout(params: FlatParams, h: ComplexUnits, drive: LRUDrive) -> Units:
  """Returns [Re h, Im h] W_y + S x, given the prepared w_y [2·H, H]."""
  parts = jnp.concatenate([h.real, h.imag], axis=-1)
  return parts.astype(drive.skip.dtype) @ params["w_y"] + drive.skip
