"""The scaled Cayley orthogonal network (scoRNN), whose recurrent kernel is always orthogonal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, plain_recur, the_carry, zeros
from rnn_jax.cells.exprnn import cayley_angles, mod_relu, rotations
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import Array, Cell, FlatParams, PlainCell, Units


@memoized
def scornn(hidden_size: int, *, negative_share: int | float = 0.5) -> PlainCell:
  """Scaled Cayley network: its recurrent kernel is orthogonal for any value of its params.

    U = (I + S)⁻¹ (I − S) D      S = A − Aᵀ      h' = modReLU(x W_x + h U)
    modReLU(z) = sgn(z) relu(|z| + b)

  D is a fixed diagonal of 1s followed by −1s. Without D, no U could have the eigenvalue −1, and one
  near −1 would need large entries of S.

  At initialization, as in the authors' code: A has blocks [[0, −tan(s/2)], [0, 0]] on the diagonal
  with s ~ U(0, π/2), so that U rotates pairs of units by s before D is applied; W_x ~ U(−0.01,
  0.01); b = 0, so that at first modReLU is the identity and the cell is linear.

  Step Jacobian: ∂h'/∂h = U diag(|z| + b > 0), orthogonal except for the inactive units, whose
  columns are zero.

  Gradient flow: as in `exprnn`, the singular values are 1 or 0, before and after training, so a
  gradient never grows, and loses only its components in inactive units. The two cells differ in the
  kernels that they can represent: det U = 1 in `exprnn`, and det U = det D here.

  On a CPU with several cores, linear solves for several A, as under `vmap` over seeds, may
  deadlock; see `lyapunov_spectrum`.

  Args:
    hidden_size: width H of carry and output.
    negative_share: the share of −1 in D, rounded to whole units. The paper has 0.5 for the copying
      and the adding problem, and 0.1 for sequential MNIST.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "a": A [H, H], "b": [H]}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, or `negative_share` is not from 0 to 1.
  References:
    Helfrich et al., 2018, https://arxiv.org/abs/1707.09520; for the initialization:
    https://github.com/SpartinStuff/scoRNN
  """
  checks.integer("hidden_size", hidden_size)
  checks.number("negative_share", negative_share, minimum=0, maximum=1)
  negative = round(negative_share * hidden_size)
  signs = np.repeat([1, -1], [hidden_size - negative, negative])

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, a_key = jax.random.split(key)
    return {
      "w_x": jax.random.uniform(x_key, (input_size, hidden_size), dtype, -0.01, 0.01),
      "a": rotations(cayley_angles(a_key, (hidden_size // 2,), dtype), hidden_size),
      "b": jnp.zeros(hidden_size, dtype),
    }

  def prepare(params: FlatParams) -> FlatParams:
    # JAX solves no linear systems in half precision.
    a = params["a"].astype(np.promote_types(params["a"].dtype, jnp.float32))
    one = jnp.eye(hidden_size, dtype=a.dtype)
    s = a - a.T
    w_h = jnp.linalg.solve(one + s, one - s) * signs.astype(a.dtype)[None]
    return {"w_x": params["w_x"], "w_h": w_h.astype(params["a"].dtype), "b": params["b"]}

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
