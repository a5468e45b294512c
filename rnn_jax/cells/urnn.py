"""The unitary evolution network (uRNN), whose complex recurrent kernel is always unitary."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Complex, Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import complex_of, complex_zeros, dense_project, expand_like, product
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import Array, Cell, CellArray, FlatParams, Inputs, Units

ComplexUnits = Complex[CellArray, "*batch H"]


@memoized
def urnn(hidden_size: int) -> Cell[FlatParams, Array, Array]:
  """Unitary evolution network: its complex recurrent kernel is unitary for any value of its params.

    h' = modReLU(x V + h U)      modReLU(z) = z / |z| ∘ relu(|z| + b)
    U = D₁ F R₁ Π D₂ F⁻¹ R₂ D₃      y = [Re h', Im h'] W_y

  h and V are complex. D_i = diag(exp(i θ_i)) are diagonal, F is the unitary Fourier transform,
  R_i = I − 2 vᵢ vᵢ* / ‖vᵢ‖² are reflections, and Π is a fixed random permutation. (In the paper,
  vectors are columns, so the factors are in the opposite order, and W_y belongs to the network's
  output layer. The paper also learns the initial carry, which is zero here.)

  U has 7·H real params, so it cannot represent every unitary matrix. The cell computes U once,
  before the loop. A step then costs O(H²) operations instead of O(H log H) for separate factors.

  Step Jacobian: in the real coordinates Re h and Im h, it is U followed by one 2 × 2 matrix per
  unit, with the factor 1 along z and 1 + b / |z| across it, or 0 where |z| + b ≤ 0. At
  initialization b = 0, and the Jacobian is orthogonal for any input.

  Gradient flow: each unit's phase has a factor of its own, 1 + b / |z|, which no real cell has. It
  is below 1 for b < 0; for b > 0 it exceeds 1, without bound as z approaches 0.

  Args:
    hidden_size: width H of carry and output.
  Returns:
    A Cell: x [..., D], carry [..., H] (complex), y [..., H] (real);
    params {"w_x": Re V and Im V side by side [D, 2·H], "theta": θ [3, H], "v_re": Re v [2, H],
    "v_im": Im v [2, H], "b": [H], "w_y": [2·H, H]}. At initialization, as in the paper: V and W_y
    are Glorot uniform, θ ~ U(−π, π), the parts of v are U(−1, 1), and b = 0.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1.
  References:
    Arjovsky et al., 2016, https://arxiv.org/abs/1511.06464. Their code,
    https://github.com/amarshah/complex_RNN, has |z| + 10⁻⁵ in the denominator of modReLU, and draws
    b ~ U(−0.01, 0.01) and v Glorot uniform.
  """
  checks.integer("hidden_size", hidden_size)
  glorot = jax.nn.initializers.glorot_uniform()
  # int32, because JAX raises an error if it traces an int64 index first without and then with x64.
  permutation = np.random.default_rng(0).permutation(hidden_size).astype(np.int32)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    re_key, im_key, theta_key, v_key, y_key = jax.random.split(key, 5)
    shape = (input_size, hidden_size)
    v = jax.random.uniform(v_key, (2, 2, hidden_size), dtype, -1, 1)
    return {
      "w_x": jnp.concatenate([glorot(re_key, shape, dtype), glorot(im_key, shape, dtype)], axis=1),
      "theta": jax.random.uniform(theta_key, (3, hidden_size), dtype, -math.pi, math.pi),
      "v_re": v[0],
      "v_im": v[1],
      "b": jnp.zeros(hidden_size, dtype),
      "w_y": glorot(y_key, (2 * hidden_size, hidden_size), dtype),
    }

  def prepare(params: FlatParams) -> FlatParams:
    turns = complex_of(jnp.cos(params["theta"]), jnp.sin(params["theta"]))
    v = complex_of(params["v_re"], params["v_im"])
    # Apply the factors to the rows of the identity matrix.
    u = jnp.diag(turns[0])
    u = _reflected(jnp.fft.fft(u, norm="ortho"), v[0])
    u = u[:, permutation] * turns[1][None]
    u = _reflected(jnp.fft.ifft(u, norm="ortho"), v[1])
    return {
      "w_x": params["w_x"],
      "w_h": u * turns[2][None],
      "b": params["b"].astype(u.real.dtype),
      "w_y": params["w_y"],
    }

  return Cell(
    init=init,
    initial_carry=complex_zeros(hidden_size),
    prepare=prepare,
    project=_project,
    recur=_recur,
    update=_update,
    output=_output,
  )


def _reflected(
  rows: Complex[CellArray, "N H"], v: Complex[CellArray, " H"]
) -> Complex[Array, "N H"]:
  """Returns rows R, where R = I − 2 v v* / ‖v‖²."""
  size = jnp.sum(v.real**2 + v.imag**2)
  unit = complex_of(v.real / size, v.imag / size)
  return rows - 2 * (rows @ v)[:, None] * jnp.conj(unit)[None]


def _project(
  params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None
) -> Complex[Array, "*batch H"]:
  return complex_of(*jnp.split(dense_project(params, xs, key), 2, axis=-1))


def _recur(params: FlatParams, h: ComplexUnits) -> ComplexUnits:
  return product(h, params["w_h"])


def _update(
  params: FlatParams, h: ComplexUnits, drive: ComplexUnits, recurrent: ComplexUnits
) -> ComplexUnits:
  del h
  return mod_relu(drive + recurrent, params["b"])


def mod_relu(z: ComplexUnits, b: Float[CellArray, " H"]) -> ComplexUnits:
  """Returns z / |z| ∘ relu(|z| + b), and 0 at z = 0, where its derivative is taken to be 0."""
  b, square = expand_like(b, z), z.real**2 + z.imag**2
  nonzero = square > 0
  size = jnp.sqrt(jnp.where(nonzero, square, jnp.ones_like(square)))
  scale = jnp.where(nonzero & (size + b > 0), 1 + b / size, jnp.zeros_like(size))
  return jax.lax.complex(scale * z.real, scale * z.imag)


def _output(params: FlatParams, h: ComplexUnits, drive: ComplexUnits) -> Units:
  del drive
  w_y = params["w_y"]
  return jnp.concatenate([h.real, h.imag], axis=-1).astype(w_y.dtype) @ w_y
