"""The simple recurrent network, and its variant IRNN, whose W_h starts as the identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, dense_recur, the_carry, zeros
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import drawn_in_float32
from rnn_jax.types import Array, Cell, CellArray, FlatParams, Number, PlainCell, Units, unprepared


@jax.custom_jvp
def tanh(a: Float[CellArray, "*axes"]) -> Float[Array, "*axes"]:
  """Returns h = tanh a. The backward pass stores only h, whereas `jnp.tanh` stores two arrays.

  The tangent is ḣ = (1 − h)(1 + h) ȧ.
  """
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


@memoized
def elman(
  hidden_size: int,
  *,
  activation: str = "tanh",
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """Simple recurrent network; the carry is the output.

    h' = φ(x W_x + h W_h + b)

  Step Jacobian: ∂h'/∂h = W_h diag(φ'(a)), where a is the pre-activation. Its norm is at most
  max|φ'| · σ₁(W_h) = σ₁(W_h), the largest singular value of W_h. Where σ₁ < 1 the gradient must
  vanish; where σ₁ > 1 it may explode.

  Args:
    hidden_size: width H of carry and output.
    activation: φ, one of `tanh`, `relu`, `linear`.
    recurrent_kernel: initialization of W_h: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization; with `orthogonal` and
      `identity`, it equals the initial σ₁.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [H]}.
  Raises:
    TypeError, ValueError: if `activation` or `recurrent_kernel` is unknown, `hidden_size` is below
      1, or `recurrent_gain` is not a finite number.
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


@memoized
def irnn(hidden_size: int, *, scale: Number = 1.0) -> PlainCell:
  """Simple recurrent network of rectified linear units; W_h is initialized to the identity.

    h' = relu(x W_x + h W_h + b)      W_h = α I,  W_x ~ N(0, 0.001²),  b = 0 at initialization

  Step Jacobian: ∂h'/∂h = W_h diag(a > 0), where a is the pre-activation. At initialization its
  diagonal is α for active units (a > 0) and 0 for the others. With α = 1 the gradient passes
  unchanged through units that stay active, until training moves W_h away from the identity. From
  then on the gradient may vanish or explode.

  Args:
    hidden_size: width H of carry and output.
    scale: α. The paper uses 0.01 for tasks with short dependencies.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [H]}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, or `scale` is not a finite number.
  References:
    Le et al., 2015, https://arxiv.org/abs/1504.00941
  """
  checks.number("scale", scale)
  cell = elman(hidden_size, activation="relu", recurrent_kernel="identity", recurrent_gain=scale)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    params = cell.init(key, input_size, dtype)
    w_x = params["w_x"]
    return {**params, "w_x": 0.001 * jax.random.normal(key, w_x.shape, w_x.dtype)}

  return cell._replace(init=init)
