"""The Legendre memory unit, whose memory holds the recent past as a polynomial."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, product, the_hidden_state
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import Array, Cell, Features, FlatParams, Shape


class LMUCarry(NamedTuple):
  """The carry of a Legendre memory unit.

  Attributes:
    hidden: h [..., H].
    memory: m [..., P], the coefficients of the last θ values of u in Legendre polynomials.
  """

  hidden: Array
  memory: Array


@memoized
def lmu(
  hidden_size: int, *, order: int = 16, theta: int | float = 100.0
) -> Cell[FlatParams, LMUCarry, Features]:
  """Legendre memory unit: a fixed linear memory of the last θ steps, read by a tanh network.

    u = x e_x + h e_h + m e_m
    m' = m Āᵀ + u B̄
    h' = tanh(x W_x + h W_h + m' W_m)

  u is one number. m [P] holds its last θ values: u(t − r θ) ≈ Σ_i m_i L_i(2 r − 1), 0 ≤ r ≤ 1, with
  the Legendre polynomials L_i. Ā and B̄ are constants, the zero-order hold of θ dm/dt = A m + B u:

    A_ij = (2i + 1) (−1 if i < j else (−1)^{i−j+1})      B_i = (2i + 1) (−1)^i

  Step Jacobian: ∂m'/∂m = Āᵀ + e_m B̄ and ∂h'/∂h = (W_h + e_h B̄ W_m) diag(1 − h'²), with ∂m'/∂h =
  e_h B̄ and ∂h'/∂m = (Āᵀ + e_m B̄) W_m diag(1 − h'²). At initialization e_m = 0, and the memory
  alone has the factors of Ā, whose eigenvalues are all inside the unit circle.

  Gradient flow: the path through m decays by design, not by learning. Like a delay line, it keeps
  the gradient for about θ steps and then drops it.

  Args:
    hidden_size: width H of h and output.
    order: P, the number of Legendre polynomials. The paper uses 256 for windows of 784 steps.
    theta: θ, the length of the window in steps.
  Returns:
    A Cell: x [..., D], carry LMUCarry(hidden [..., H], memory [..., P]), y = h [..., H];
    params {"w_x": e_x and W_x side by side [D, 1 + H], "w_h": e_h and W_h [H, 1 + H],
    "w_m": W_m [P, H], "e_m": e_m [P]}. As in the paper, at initialization e_x and e_h are LeCun
    uniform, e_m is 0, and W_x, W_h and W_m are Xavier normal.
  Raises:
    TypeError, ValueError: if `hidden_size` or `order` is below 1, or `theta` is not a finite number
      above 0.
  References:
    Voelker et al., 2019,
    https://papers.nips.cc/paper/9689-legendre-memory-units-continuous-time-representation-in-recurrent-neural-networks
    The authors' library, https://github.com/nengo/keras-lmu, has no path from h or m to u and none
    from x to h by default.
  """
  checks.integer("hidden_size", hidden_size)
  checks.integer("order", order)
  checks.number("theta", theta, above=0)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    keys = jax.random.split(key, 5)
    lecun, xavier = jax.nn.initializers.lecun_uniform(), jax.nn.initializers.glorot_normal()

    def kernels(e_key: Key[Array, ""], w_key: Key[Array, ""], size: int) -> Array:
      e, w = lecun(e_key, (size, 1), dtype), xavier(w_key, (size, hidden_size), dtype)
      return jnp.concatenate([e, w], axis=1)

    return {
      "w_x": kernels(keys[0], keys[1], input_size),
      "w_h": kernels(keys[2], keys[3], hidden_size),
      "w_m": xavier(keys[4], (order, hidden_size), dtype),
      "e_m": jnp.zeros(order, dtype),
    }

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> LMUCarry:
    return LMUCarry(*(jnp.zeros((*batch_shape, size), dtype) for size in (hidden_size, order)))

  def prepare(params: FlatParams) -> FlatParams:
    # m' W_m = m (Āᵀ W_m) + u (B̄ W_m), so that one product with [h, m] gives all that a step needs
    # from its carry: the memory m Āᵀ, the carry's parts of u, and those of the argument of tanh.
    dtype = params["w_m"].dtype
    a, b = (jnp.asarray(array, dtype) for array in legendre_memory(order, float(theta)))
    of_h = jnp.concatenate([jnp.zeros((hidden_size, order), dtype), params["w_h"]], axis=1)
    of_m = jnp.concatenate([a, params["e_m"][:, None], a @ params["w_m"]], axis=1)
    return {
      "w_x": params["w_x"],
      "w_carry": jnp.concatenate([of_h, of_m]),  # [H + P, P + 1 + H]
      "w_u": jnp.concatenate([b, b @ params["w_m"]]),  # [P + H]
    }

  def update(
    params: FlatParams, carry: LMUCarry, drive: Features, recurrent: Float[Array, "*batch R"]
  ) -> LMUCarry:
    del carry
    memory, u, a = jnp.split(recurrent, [order, order + 1], axis=-1)
    u_x, a_x = jnp.split(drive, [1], axis=-1)
    w_u = jnp.expand_dims(params["w_u"], range(u.ndim - 1))
    moved_memory, moved_a = jnp.split((u + u_x) * w_u, [order], axis=-1)
    return LMUCarry(jnp.tanh(a + a_x + moved_a), memory + moved_memory)

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=prepare,
    project=dense_project,
    recur=_recur,
    update=update,
    output=the_hidden_state,
  )


def _recur(params: FlatParams, carry: LMUCarry) -> Features:
  return product(jnp.concatenate([*carry], axis=-1), params["w_carry"])


@functools.cache
def legendre_memory(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
  """Returns (Āᵀ [P, P], B̄ [P]), the zero-order hold of θ dm/dt = A m + B u, in float64.

  See `lmu` for A and B.
  """
  from scipy import linalg  # imported here because it takes a quarter of a second

  i, j = np.indices((order, order))
  a = (2 * i + 1) * np.where(i < j, -1, (-1.0) ** (i - j + 1))
  b = (2 * i[:, :1] + 1) * (-1.0) ** i[:, :1]
  # With u as a further state that is constant during a step, the step is one matrix exponential.
  joint = linalg.expm(np.block([[a, b], [np.zeros((1, order + 1))]]) / theta)
  return joint[:order, :order].T.copy(), joint[:order, order].copy()
