"""The exponential network, whose recurrent kernel exp(A − Aᵀ) is always orthogonal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, expand_like, plain_recur, the_carry, zeros
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import Initializer, check_cell_init, drawn_in_float32
from rnn_jax.powers import exponent_of, power_of_two
from rnn_jax.types import Array, Cell, CellArray, FlatParams, PlainCell, Units


def _henaff(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = float) -> Array:
  return jax.random.uniform(key, shape, dtype, -math.pi, math.pi)


def cayley_angles(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = float) -> Array:
  """Returns angles θ = −tan(s/2) with s ~ U(0, π/2)."""
  # With s ~ U(0, π/2), s/2 is uniform in (0, π/4). The authors compute the same tan(s/2) as
  # √((1 − cos s) / (1 + cos s)).
  return -jnp.tan(jax.random.uniform(key, shape, dtype, 0, math.pi / 4))


# Initializers of the angles θ by which the recurrent kernel U rotates at initialization.
ANGLES: Mapping[str, Initializer] = {"henaff": _henaff, "cayley": cayley_angles}


@memoized
def exprnn(hidden_size: int, *, angles: str = "henaff") -> PlainCell:
  """Exponential network: its recurrent kernel is orthogonal for any value of its params.

    U = exp(A − Aᵀ)      h' = modReLU(x W_x + h U)      modReLU(z) = sgn(z) relu(|z| + b)

  At initialization, A has blocks [[0, θ], [0, 0]] on the diagonal, so that U rotates pairs of units
  by θ; if H is odd, U leaves the last unit unchanged. b ~ U(−0.01, 0.01), and W_x is He normal
  (variance 2/D).

  Step Jacobian: ∂h'/∂h = U diag(|z| + b > 0), orthogonal except for the inactive units, whose
  columns are zero. Its singular values are 1 or 0, both before and after training, so a gradient
  never grows, and loses only its components in inactive units.

  Args:
    hidden_size: width H of carry and output.
    angles: distribution of θ: `henaff`, θ ~ U(−π, π); or `cayley`, θ = −tan(s/2) with
      s ~ U(0, π/2).
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "a": A [H, H], "b": [H]}.
  Raises:
    TypeError, ValueError: if `angles` is unknown, or `hidden_size` is below 1.
  References:
    Lezcano-Casado and Martínez-Rubio, 2019, https://arxiv.org/abs/1901.08428, and their code
    Henaff et al., 2016 (angles), https://arxiv.org/abs/1602.06662
    Helfrich et al., 2018 (angles), https://arxiv.org/abs/1707.09520
  """
  checks.integer("hidden_size", hidden_size)
  draw_angles = ANGLES[checks.choice("angles", angles, ANGLES)]
  he_normal = jax.nn.initializers.he_normal()

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, a_key, b_key = jax.random.split(key, 3)
    theta = draw_angles(a_key, (hidden_size // 2,), dtype)
    return {
      "w_x": he_normal(x_key, (input_size, hidden_size), dtype),
      "a": rotations(theta, hidden_size),
      "b": jax.random.uniform(b_key, (hidden_size,), dtype, -0.01, 0.01),
    }

  def prepare(params: FlatParams) -> FlatParams:
    # In half precision, the products of the exponential would add up to errors of several percent.
    a = params["a"].astype(np.promote_types(params["a"].dtype, jnp.float32))
    w_h = exponential(a - a.T).astype(params["a"].dtype)
    return {"w_x": params["w_x"], "w_h": w_h, "b": params["b"]}

  def update(params: FlatParams, h: Units, drive: Units, recurrent: Units) -> Units:
    del h
    return mod_relu(drive + recurrent, params["b"])

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=prepare,
    project=dense_project,
    recur=plain_recur,
    update=update,
    output=the_carry,
    output_is_carry=True,
  )


def mod_relu(z: Units, b: Float[CellArray, " H"]) -> Units:
  """Returns sgn(z) relu(|z| + b)."""
  b = expand_like(b, z)
  # Use `where`, so that the step's derivative depends only on booleans. If it depended on floats,
  # the time loop would have to copy the drive.
  on = (jnp.abs(z) + b > 0) & (z != 0)
  return jnp.where(on, z + jnp.where(z > 0, b, -b), jnp.zeros_like(z))


def rotations(
  theta: Float[CellArray, " P"], hidden_size: int
) -> Float[Array, "{hidden_size} {hidden_size}"]:
  """Returns a matrix A with blocks [[0, θ], [0, 0]] on the diagonal, so that A − Aᵀ rotates planes.

  Args:
    theta: one angle for each pair of units; if H is odd, A is 0 for the last unit.
    hidden_size: H, the size of A.
  """
  first = np.arange(0, hidden_size - 1, 2)
  a = jnp.zeros((hidden_size, hidden_size), theta.dtype)
  return a.at[first, first + 1].set(theta)


_MOST_SQUARINGS = 16


def exponential(s: Float[CellArray, "H H"]) -> Float[Array, "H H"]:
  """Returns the matrix exponential exp(S), by scaling and squaring.

    exp(S) = (Σ_k (S/2ⁿ)^k / k!)^(2ⁿ)

  where n is such that each column of |S|/2ⁿ sums to less than 1/2. The result is accurate if each
  column of |S| sums to at most 2¹⁵. `jax.scipy.linalg.expm` is slower, because it solves linear
  systems: at H = 64 its gradient took 3 s to compile and 65 ms to run, whereas the gradient of this
  function took 0.3 s and 0.1 ms.
  """
  one = jnp.eye(s.shape[0], dtype=s.dtype)
  terms = 8 if s.dtype == jnp.float32 else 14
  size = jax.lax.stop_gradient(jnp.max(jnp.sum(jnp.abs(s), axis=0)))
  n = jnp.clip(exponent_of(size) + 2, 0, _MOST_SQUARINGS)
  small = s * power_of_two(-n, s.dtype)

  def add(total: Array, k: Array) -> tuple[Array, None]:
    return one + small @ total / k, None

  def square(power: Array, i: Array) -> tuple[Array, None]:
    return jax.lax.cond(i < n, lambda a: a @ a, lambda a: a, power), None

  # Scan over terms and squarings, because XLA would compile each unrolled product separately.
  total, _ = jax.lax.scan(add, one, jnp.arange(terms, 0, -1).astype(s.dtype))
  return jax.lax.scan(square, total, jnp.arange(_MOST_SQUARINGS, dtype=n.dtype))[0]
