"""The coupled oscillatory network (coRNN), whose units are damped oscillators."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, product, the_hidden_state
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import Array, Cell, FlatParams, Number, Shape, Units, unprepared


class CornnCarry(NamedTuple):
  """The carry of a coupled oscillatory network.

  Attributes:
    hidden: h [..., H], the oscillators' positions.
    velocity: z [..., H], the oscillators' velocities.
  """

  hidden: Array
  velocity: Array


@memoized
def cornn(
  hidden_size: int, *, delta: Number = 0.042, gamma: Number = 2.7, epsilon: Number = 4.7
) -> Cell[FlatParams, CornnCarry, Array]:
  """Coupled oscillatory network: damped oscillators, driven by the input and by each other.

    z' = z + Δ (tanh(x W_x + h U + z V + b) − γ h − ε z)      h' = h + Δ z'

  Step Jacobian, with S = diag(1 − tanh²):

    ∂z'/∂h = Δ (U S − γ I)          ∂z'/∂z = I + Δ (V S − ε I)
    ∂h'/∂h = I + Δ ∂z'/∂h           ∂h'/∂z = Δ ∂z'/∂z

  The whole Jacobian is I + O(Δ), so a gradient vanishes or explodes only after about τ/Δ steps,
  where τ is the oscillators' time scale.

  Args:
    hidden_size: width H of h, z and output.
    delta: Δ, the step size. The defaults of Δ, γ and ε are the paper's values for sequential MNIST.
    gamma: γ, the stiffness: the square of an oscillator's natural frequency.
    epsilon: ε, the damping.
  Returns:
    A Cell: x [..., D], carry CornnCarry(hidden [..., H], velocity [..., H]), y [..., H];
    params {"w_x": [D, H], "w_h": U stacked on V [2·H, H], "b": [H]}, with all entries uniform in
    ±1/√(D + 2 H) at initialization.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, Δ, γ or ε is not a finite number, or Δ is
      not above 0.
  References:
    Rusch and Mishra, 2021, https://arxiv.org/abs/2010.00951, and their code
  """
  checks.integer("hidden_size", hidden_size)
  checks.number("delta", delta, above=0)
  checks.number("gamma", gamma)
  checks.number("epsilon", epsilon)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    bound = (input_size + 2 * hidden_size) ** -0.5
    shapes = {
      "w_x": (input_size, hidden_size),
      "w_h": (2 * hidden_size, hidden_size),
      "b": (hidden_size,),
    }
    keys = zip(shapes, jax.random.split(key, len(shapes)), strict=True)
    return {n: jax.random.uniform(k, shapes[n], dtype, -bound, bound) for n, k in keys}

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> CornnCarry:
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return CornnCarry(zeros, zeros)

  def recur(params: FlatParams, carry: CornnCarry) -> Units:
    return product(jnp.concatenate(carry, axis=-1), params["w_h"])

  def update(params: FlatParams, carry: CornnCarry, drive: Units, recurrent: Units) -> CornnCarry:
    del params
    h, z = carry
    step, stiffness, damping = (jnp.asarray(a, h.dtype) for a in (delta, gamma, epsilon))
    z = z + step * (jnp.tanh(drive + recurrent) - stiffness * h - damping * z)
    return CornnCarry(h + step * z, z)

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=unprepared,
    project=functools.partial(dense_project, bias=True),
    recur=recur,
    update=update,
    output=the_hidden_state,
  )
