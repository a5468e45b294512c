"""The undamped oscillatory network (UnICORNN), whose units are independent oscillators."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, expand_like, the_hidden_state
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import Array, Cell, FlatParams, Number, Shape, Units


class UnicornnCarry(NamedTuple):
  """The carry of an undamped oscillatory network.

  Attributes:
    hidden: h [..., H], the oscillators' positions.
    velocity: z [..., H], the oscillators' velocities.
  """

  hidden: Array
  velocity: Array


@memoized
def unicornn(
  hidden_size: int, *, delta: Number = 0.19, alpha: Number = 30.65
) -> Cell[FlatParams, UnicornnCarry, Array]:
  """Undamped oscillatory network (UnICORNN): independent oscillators with learned step sizes.

    z' = z − δ ∘ (tanh(x W_x + u ∘ h + b) + α h)      h' = h + δ ∘ z'      δ = Δ σ(c)

  This is the symplectic Euler method for a Hamiltonian system of one oscillator per unit. A unit
  reads no other unit's carry.

  Step Jacobian, of one unit with k = u (1 − tanh²) + α:

    ∂z'/∂h = −δ k           ∂z'/∂z = 1
    ∂h'/∂h = 1 − δ² k       ∂h'/∂z = δ

  Its determinant is 1 for any input, and so is that of any product of Jacobians over time. Where
  0 < δ² k < 4, both eigenvalues lie on the unit circle.

  Gradient flow: a unit's singular values form a pair s and 1/s. What one direction of the unit
  loses, the other gains, so no unit can lose its whole gradient, before or after training.

  Args:
    hidden_size: width H of h, z and output.
    delta: Δ, the largest step size. The defaults of Δ and α are those of the authors' code for
      permuted sequential MNIST.
    alpha: α, the stiffness.
  Returns:
    A Cell: x [..., D], carry UnicornnCarry(hidden [..., H], velocity [..., H]), y [..., H];
    params {"w_x": [D, H], "u": [H], "c": [H], "b": [H]}. At initialization, as in the authors'
    code: W_x is uniform in ±√(6 / (65 D)), u ~ U(0, 1), c ~ U(−0.1, 0.1), and b = 0.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, Δ or α is not a finite number, Δ is not
      above 0, or α is below 0.
  References:
    Rusch and Mishra, 2021, https://arxiv.org/abs/2103.05487; for the initialization:
    https://github.com/tk-rusch/unicornn
  """
  checks.integer("hidden_size", hidden_size)
  checks.number("delta", delta, above=0)
  checks.number("alpha", alpha, minimum=0)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, u_key, c_key = jax.random.split(key, 3)
    bound = (6 / (65 * input_size)) ** 0.5
    return {
      "w_x": jax.random.uniform(x_key, (input_size, hidden_size), dtype, -bound, bound),
      "u": jax.random.uniform(u_key, (hidden_size,), dtype),
      "c": jax.random.uniform(c_key, (hidden_size,), dtype, -0.1, 0.1),
      "b": jnp.zeros(hidden_size, dtype),
    }

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> UnicornnCarry:
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return UnicornnCarry(zeros, zeros)

  def prepare(params: FlatParams) -> FlatParams:
    c = params["c"]
    step = jnp.asarray(delta, c.dtype) * jax.nn.sigmoid(c)
    return {"w_x": params["w_x"], "u": params["u"], "step": step, "b": params["b"]}

  def recur(params: FlatParams, carry: UnicornnCarry) -> Units:
    return expand_like(params["u"], carry.hidden) * carry.hidden

  def update(
    params: FlatParams, carry: UnicornnCarry, drive: Units, recurrent: Units
  ) -> UnicornnCarry:
    h, z = carry
    step, stiffness = expand_like(params["step"], h), jnp.asarray(alpha, h.dtype)
    z = z - step * (jnp.tanh(drive + recurrent) + stiffness * h)
    return UnicornnCarry(h + step * z, z)

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=prepare,
    project=functools.partial(dense_project, bias=True),
    recur=recur,
    update=update,
    output=the_hidden_state,
  )
