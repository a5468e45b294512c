"""The coupled oscillatory network."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, product, the_hidden_state
from rnn_jax.types import Array, Cell, Params, unprepared


class CornnCarry(NamedTuple):
  """hidden: h [..., H], positions of the oscillators; velocity: z [..., H]."""

  hidden: Array
  velocity: Array


def cornn(hidden_size: int, *, delta: Any = 0.042, gamma: Any = 2.7, epsilon: Any = 4.7) -> Cell:
  """Coupled oscillatory network: damped oscillators, driven by the input and by each other.

    z' = z + Δ (tanh(x W_x + h U + z V + b) − γ h − ε z)      h' = h + Δ z'

  Step Jacobian: ∂z'/∂h = Δ (U D − γ I) and ∂z'/∂z = I + Δ (V D − ε I), D = diag(1 − tanh²), and h'
  moves by Δ times that. All of it is I + O(Δ), so a gradient takes many steps to explode or to
  vanish: as many as the oscillators' own times, in units of Δ.

  Args:
    hidden_size: width H of h, z and output.
    delta: Δ, the step size. It, γ and ε are the paper's for sequential MNIST.
    gamma: γ, the stiffness: the square of an oscillator's own frequency.
    epsilon: ε, the damping.
  Returns:
    A Cell: x [..., D], CornnCarry [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [2·H, H], U above V, "b": [H]}, all U(±1/√(D + 2 H)) at first.
  Raises:
    TypeError, ValueError: a size below 1, a number that is not finite.
  References:
    Rusch and Mishra, 2021, https://arxiv.org/abs/2010.00951, and their code
  """
  checks.integer("hidden_size", hidden_size)
  numbers = {"delta": delta, "gamma": gamma, "epsilon": epsilon}
  for name, value in numbers.items():
    checks.number(name, value)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    checks.integer("input_size", input_size)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    bound = (input_size + 2 * hidden_size) ** -0.5
    shapes = {
      "w_x": (input_size, hidden_size),
      "w_h": (2 * hidden_size, hidden_size),
      "b": (hidden_size,),
    }
    keys = zip(shapes, jax.random.split(key, len(shapes)), strict=True)
    return {n: jax.random.uniform(k, shapes[n], dtype, -bound, bound) for n, k in keys}

  def initial_carry(batch_shape: tuple[int, ...], dtype: Any = float) -> CornnCarry:
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return CornnCarry(zeros, zeros)

  def recur(params: Params, carry: CornnCarry) -> Array:
    return product(jnp.concatenate(carry, axis=-1), params["w_h"])

  def update(params: Params, carry: CornnCarry, drive: Array, recurrent: Array) -> CornnCarry:
    del params
    h, z = carry
    step, stiffness, damping = (jnp.asarray(a, h.dtype) for a in numbers.values())
    z = z + step * (jnp.tanh(drive + recurrent) - stiffness * h - damping * z)
    return CornnCarry(h + step * z, z)

  project = functools.partial(dense_project, bias=True)
  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=unprepared,
    project=project,
    recur=recur,
    update=update,
    output=the_hidden_state,
  )
