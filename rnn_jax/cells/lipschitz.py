"""The Lipschitz recurrent network, Euler steps of a linear system plus a Lipschitz nonlinearity."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, plain_recur, the_carry, zeros
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import Array, Cell, CellArray, FlatParams, Number, PlainCell, Units


@memoized
def lipschitz(
  hidden_size: int,
  *,
  beta: Number = 0.75,
  gamma: Number = 0.001,
  epsilon: Number = 0.03,
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """Lipschitz network: Euler steps of an ODE with a linear part and a Lipschitz nonlinearity.

    h' = h + ε (h A + tanh(x W_x + h W + b))
    A = (1 − β) (M + Mᵀ) + β (M − Mᵀ) − γ I      W likewise, from another matrix M

  With β = 1, A and W are skew-symmetric up to the damping γ. The symmetric part, whose share is
  1 − β, lets eigenvalues leave the imaginary axis.

  Step Jacobian: ∂h'/∂h = I + ε (A + W diag(1 − tanh²)).

  Gradient flow: the term ε A does not saturate. Where tanh is flat, k steps multiply the gradient
  by (I + ε A)^k, whereas that of `antisymmetric` passes unchanged. Up to the error of Euler's
  method, its norm then changes by a factor 1 + ε s per step, where s lies between the smallest and
  the largest eigenvalue of the symmetric part of A, (1 − β) (M + Mᵀ) − γ I.

  Args:
    hidden_size: width H of carry and output.
    beta: β, from 0 to 1, the weight of the skew-symmetric part. The defaults of β, γ and ε are
      those of the authors' code for sequential MNIST.
    gamma: γ, the damping.
    epsilon: ε, the step size.
    recurrent_gain: factor g in the initialization M_ij ~ N(0, (0.1 g/H)²) of both matrices, as in
      the authors' code.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "m": the matrices M of A and W side by side [H, 2·H], "b": [H]}. W_x and
    b are uniform in ±1/√D at initialization, as in the authors' code.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, `beta` is not from 0 to 1, `gamma` or
      `recurrent_gain` is not a finite number, or `epsilon` is not above 0.
  References:
    Erichson et al., 2021, https://arxiv.org/abs/2006.12070; for the initialization:
    https://github.com/erichson/LipschitzRNN
  """
  checks.integer("hidden_size", hidden_size)
  checks.number("beta", beta, minimum=0, maximum=1)
  checks.number("gamma", gamma)
  checks.number("epsilon", epsilon, above=0)
  checks.number("recurrent_gain", recurrent_gain)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, m_key, b_key = jax.random.split(key, 3)
    bound = input_size**-0.5
    scale = jnp.asarray(recurrent_gain, dtype) * (0.1 / hidden_size)
    return {
      "w_x": jax.random.uniform(x_key, (input_size, hidden_size), dtype, -bound, bound),
      "m": scale * jax.random.normal(m_key, (hidden_size, 2 * hidden_size), dtype),
      "b": jax.random.uniform(b_key, (hidden_size,), dtype, -bound, bound),
    }

  def mixed(m: Float[CellArray, "H H"]) -> Float[Array, "H H"]:
    """Returns (1 − β) (M + Mᵀ) + β (M − Mᵀ) − γ I."""
    skew, damping = jnp.asarray(beta, m.dtype), jnp.asarray(gamma, m.dtype)
    symmetric = (1 - skew) * (m + m.T)
    return symmetric + skew * (m - m.T) - damping * jnp.eye(hidden_size, dtype=m.dtype)

  def prepare(params: FlatParams) -> FlatParams:
    w_h = jnp.concatenate([mixed(m) for m in jnp.split(params["m"], 2, axis=1)], axis=1)
    return {"w_x": params["w_x"], "w_h": w_h, "b": params["b"]}

  def update(
    params: FlatParams, h: Units, drive: Units, recurrent: Float[CellArray, "*batch 2*H"]
  ) -> Units:
    del params
    linear, nonlinear = jnp.split(recurrent, 2, axis=-1)
    return h + jnp.asarray(epsilon, h.dtype) * (linear + jnp.tanh(drive + nonlinear))

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=prepare,
    project=functools.partial(dense_project, bias=True),
    recur=plain_recur,
    update=update,
    output=the_carry,
    output_is_carry=True,
  )
