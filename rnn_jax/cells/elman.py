"""The simple recurrent network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, dense_recur, the_carry, zeros
from rnn_jax.types import Array, Cell, CellArray, FlatParams, Number, PlainCell, Units, unprepared


@jax.custom_jvp
def tanh(a: Float[CellArray, "*axes"]) -> Float[Array, "*axes"]:
  """Returns tanh a; its derivative ȧ ↦ (1 − h)(1 + h) ȧ stores one array, JAX's own stores two."""
  return jnp.tanh(a)


@tanh.defjvp
def _tanh_jvp(primals: tuple[CellArray], tangents: tuple[Array]) -> tuple[Array, Array]:
  h = jnp.tanh(primals[0])
  return h, (1 - h) * (1 + h) * tangents[0]


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
  "tanh": tanh,
  "relu": jax.nn.relu,
  "linear": lambda a: a,
}


def elman(
  hidden_size: int,
  *,
  activation: str = "tanh",
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """Simple recurrent network; the carry is the output.

    h' = φ(x W_x + h W_h + b)

  Step Jacobian: ∂h'/∂h = W_h diag(φ'(a)), whose norm is at most max|φ'| · σ₁(W_h) = σ₁(W_h):
  with gain < 1 the gradient must vanish, with gain > 1 it may explode.

  Args:
    hidden_size: width H of carry and output.
    activation: φ, one of `tanh`, `relu`, `linear`.
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [H]}.
  Raises:
    TypeError, ValueError: an unknown activation or kernel, a size below 1, a gain that is not a
      finite number.
  References:
    Elman, 1990, https://doi.org/10.1207/s15516709cog1402_1
  """
  phi = ACTIVATIONS[checks.choice("activation", activation, ACTIVATIONS)]

  def update(params: FlatParams, h: Units, drive: Units, recurrent: Units) -> Units:
    del params, h
    return phi(drive + recurrent)

  return Cell(
    init=dense_init(hidden_size, 1, recurrent_kernel, recurrent_gain),
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=dense_project,
    recur=dense_recur,
    update=update,
    output=the_carry,
    recurrent_kernel="w_h",
    output_is_carry=True,
  )


def irnn(hidden_size: int, *, scale: Number = 1.0) -> PlainCell:
  """Simple recurrent network of rectified linear units, initialized to the identity.

    h' = relu(x W_x + h W_h + b)      W_h = α I,  W_x ~ N(0, 0.001²),  b = 0 at initialization

  Step Jacobian: ∂h'/∂h = W_h diag(a > 0): α on the diagonal where a unit is on, 0 where it is off.
  At α = 1 the gradient passes unchanged through the units that stay on, until training moves W_h
  away from the identity. From then on nothing bounds it, from above or from below.

  Args:
    hidden_size: width H of carry and output.
    scale: α. The paper uses 0.01 for tasks with short dependencies.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [H]}.
  Raises:
    TypeError, ValueError: a size below 1, a scale that is not a finite number.
  References:
    Le et al., 2015, https://arxiv.org/abs/1504.00941
  """
  checks.number("scale", scale)
  cell = elman(hidden_size, activation="relu", recurrent_kernel="identity", recurrent_gain=scale)

  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    params = cell.init(key, input_size, dtype)
    w_x = params["w_x"]
    return {**params, "w_x": 0.001 * jax.random.normal(key, w_x.shape, w_x.dtype)}

  return cell._replace(init=init)
