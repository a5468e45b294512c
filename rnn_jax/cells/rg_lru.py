"""The real-gated linear recurrent unit (RG-LRU), the recurrence of the Griffin models."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, expand_like, the_carry, zeros
from rnn_jax.cells.linear import check_ring, linear_cell, on_ring
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32, input_kernel
from rnn_jax.types import Array, CellArray, Features, FlatParams, Gates, PlainCell, Recurrent, Units

EXPONENT = 8.0
STEEPEST = 1000.0


@jax.custom_jvp
def bounded_sqrt(a: Float[CellArray, "*axes"]) -> Float[Array, "*axes"]:
  """Returns √a for a ≥ 0. Its derivative, which is infinite at a = 0, is limited to 1000."""
  return jnp.sqrt(a)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals: tuple[CellArray], tangents: tuple[Array]) -> tuple[Array, Array]:
  (a,), (a_dot,) = primals, tangents
  return jnp.sqrt(a), a_dot / (2 * jnp.sqrt(jnp.maximum(a, (2 * STEEPEST) ** -2)))


@memoized
def rg_lru(
  hidden_size: int, *, min_radius: int | float = 0.9, max_radius: int | float = 0.999
) -> PlainCell:
  """Real-gated linear recurrent unit, the recurrence of Griffin; the input gates its decay rates.

    r, i = σ(x W + b)      v = x W_v + b_v
    a = exp(−8 r ∘ softplus Λ)
    h' = a ∘ h + √(1 − a²) ∘ i ∘ v

  Step Jacobian: diag(a) with 0 < a < 1, which depends only on the input. Its products over time
  never explode. If the input makes r near 0, then a is near 1: h is kept, nothing is written, and
  the gradient passes unchanged.

  In the paper v is x itself, because the layer below already has width H; here W_v takes the place
  of that layer. As in the authors' code, the derivative of √ is limited to 1000. Their code also
  omits the factor √(1 − a²) at the first step of a sequence; this cell does not.

  Args:
    hidden_size: width H of carry and output.
    min_radius, max_radius: range of the base radius ρ = exp(−softplus Λ) at initialization, inside
      [0, 1]. ρ² is drawn uniformly. With r = 1 a unit decays by a = ρ⁸ per step. As in the
      authors' code, the default range 0.9 to 0.999 is that of ρ; in the paper it is that of ρ⁸.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H]; params {"w_x": [D, 3·H], "b": [3·H],
    "lambda": Λ [H]}, w_x and b in the order r, i, v. Gates: {"recurrence": r, "input": i}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, or the radii violate
      0 ≤ min_radius < max_radius ≤ 1.
  References:
    De et al., 2024, https://arxiv.org/abs/2402.19427, and their code,
    https://github.com/google-deepmind/recurrentgemma
  """
  checks.integer("hidden_size", hidden_size)
  check_ring(min_radius, max_radius)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, ring_key = jax.random.split(key)
    # `rate` is softplus(Λ); its inverse, ln(exp(rate) − 1), gives Λ.
    rate = -on_ring(ring_key, hidden_size, min_radius, max_radius, dtype)
    return {
      "w_x": input_kernel(x_key, (input_size, 3 * hidden_size), dtype),
      "b": jnp.zeros(3 * hidden_size, dtype),
      "lambda": jnp.log(jnp.expm1(rate)),
    }

  return linear_cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=_prepare,
    project=functools.partial(dense_project, bias=True),
    linear=_linear,
    output=the_carry,
    gates=_gates,
    output_is_carry=True,
  )


def _prepare(params: FlatParams) -> FlatParams:
  return {**params, "rate": EXPONENT * jax.nn.softplus(params["lambda"])}


def _linear(params: FlatParams, drive: Features) -> tuple[Units, Units]:
  r, i, v = _parts(drive)
  log_a = -r * expand_like(params["rate"], r)
  return jnp.exp(log_a), bounded_sqrt(-jnp.expm1(2 * log_a)) * i * v


def _gates(params: FlatParams, h: Units, drive: Features, recurrent: Recurrent) -> Gates:
  del params, h, recurrent
  r, i, _ = _parts(drive)
  return {"recurrence": r, "input": i}


def _parts(drive: Features) -> tuple[Units, Units, Units]:
  """Returns the gates r and i, and the value v, given the drive in the order r, i, v."""
  r, i, v = jnp.split(drive, 3, axis=-1)
  return jax.nn.sigmoid(r), jax.nn.sigmoid(i), v
