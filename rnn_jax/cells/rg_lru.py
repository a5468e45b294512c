"""The real-gated linear recurrent unit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, over, the_carry, zeros
from rnn_jax.cells.linear import linear_cell, on_ring
from rnn_jax.cells.lru import check_ring
from rnn_jax.initializers import input_kernel
from rnn_jax.types import Array, Cell, Params

EXPONENT = 8.0
STEEPEST = 1000.0


@jax.custom_jvp
def bounded_sqrt(a: Array) -> Array:
  """√a for a ≥ 0, with a derivative of at most 1000: at 0 it would be infinite."""
  return jnp.sqrt(a)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
  (a,), (a_dot,) = primals, tangents
  return jnp.sqrt(a), a_dot / (2 * jnp.sqrt(jnp.maximum(a, (2 * STEEPEST) ** -2)))


def rg_lru(hidden_size: int, *, min_radius: float = 0.9, max_radius: float = 0.999) -> Cell:
  """Real-gated linear recurrent unit, the recurrence of Griffin: decay rates that the input gates.

    r, i = σ(x W + b)      v = x W_v + b_v
    a = exp(−8 r ∘ softplus Λ)
    h' = a ∘ h + √(1 − a²) ∘ i ∘ v

  Step Jacobian: diag(a) with 0 < a < 1, set by the input alone: products over time never explode.
  An input that shuts r makes a = 1: h is kept, nothing is written, and the gradient passes.

  v is x itself in the paper, where a layer in front has made it as wide as h; W_v is that layer.
  The derivative of √ is bounded by 1000, as the authors' code has it; that also writes i ∘ v
  without the factor √(1 − a²) at the first step of a sequence, and the equation here does not.

  Args:
    hidden_size: width H of carry and output.
    min_radius, max_radius: base radius exp(−softplus Λ) at initialisation, on this ring, uniform by
      area; from 0 to 1. With r = 1 a unit keeps the eighth power of it a step: so the authors'
      code has it, where the paper has that power from 0.9 to 0.999.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H]; params {"w_x": [D, 3·H], "b": [3·H],
    "lambda": [H]}, in the order r, i, v, of which r and i are named recurrence and input.
  Raises:
    TypeError, ValueError: a size below 1, radii that are not 0 ≤ min < max ≤ 1.
  References:
    De et al., 2024, https://arxiv.org/abs/2402.19427, and their code,
    https://github.com/google-deepmind/recurrentgemma
  """
  checks.integer("hidden_size", hidden_size)
  check_ring(min_radius, max_radius)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    checks.integer("input_size", input_size)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    x_key, ring_key = jax.random.split(key)
    rate = -on_ring(ring_key, hidden_size, min_radius, max_radius, dtype)  # softplus Λ
    return {
      "w_x": input_kernel(x_key, (input_size, 3 * hidden_size), dtype),
      "b": jnp.zeros(3 * hidden_size, dtype),
      "lambda": jnp.log(jnp.expm1(rate)),
    }

  def prepare(params: Params) -> Params:
    return {**params, "rate": EXPONENT * jax.nn.softplus(params["lambda"])}

  def linear(params: Params, drive: Array) -> tuple[Array, Array]:
    r, i, v = _parts(drive)
    log_a = -r * over(params["rate"], r)
    return jnp.exp(log_a), bounded_sqrt(-jnp.expm1(2 * log_a)) * i * v

  def gates(params: Params, h: Array, drive: Array, recurrent: Any) -> dict[str, Array]:
    del params, h, recurrent
    r, i, _ = _parts(drive)
    return {"recurrence": r, "input": i}

  return linear_cell(
    linear,
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=prepare,
    project=functools.partial(dense_project, bias=True),
    output=the_carry,
    gates=gates,
    output_is_carry=True,
  )


def _parts(drive: Array) -> tuple[Array, Array, Array]:
  """r, i, v."""
  r, i, v = jnp.split(drive, 3, axis=-1)
  return jax.nn.sigmoid(r), jax.nn.sigmoid(i), v
