"""Kronecker-factored real-time recurrent learning."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax import checks
from rnn_jax.cells.memoized import memoized
from rnn_jax.estimators._estimator import Estimator, shift_lags
from rnn_jax.estimators._forward import Derivatives, Rule, forward_estimator
from rnn_jax.estimators._vector_cell import VectorCell
from rnn_jax.estimators.uoro import balance
from rnn_jax.gradient_flow.joint_carry import joint_size, to_vector
from rnn_jax.types import Array as JaxArray
from rnn_jax.types import Carry, Cell, Params


class Product(NamedTuple):
  """The influence of one kernel [V, W] as a Kronecker product, M[i, (v, w)] ≈ u[v] A[i, w].

  Attributes:
    u: [K, V], K lags.
    a: [N, W].
  """

  u: Float[Array, "K V"]
  a: Float[Array, "N W"]


class Products(NamedTuple):
  """The influence of all params.

  Attributes:
    input: that of W_x.
    recurrent: that of W_h.
    bias: that of b, exactly: [K, N, W].
  """

  input: Product
  recurrent: Product
  bias: Float[Array, "K N W"]


@memoized
def kf_rtrl() -> Estimator:
  """Kronecker-factored RTRL (KF-RTRL): a random Kronecker product as the influence matrix.

    M_t ≈ u_t ⊗ A_t                                  dL/dW ≈ Σ_t u_tᵀ (δ_tᵀ A_t)
    u_t = c₁ p₁ u_{t−1} + c₂ p₂ v_t                  A_t = c₁ / p₁ J_t A_{t−1} + c₂ / p₂ D_t
    p₁ = √(‖J_t A_{t−1}‖ / ‖u_{t−1}‖)                p₂ = √(‖D_t‖ / ‖v_t‖)

  A kernel W that acts as v_t W has I_t = v_t ⊗ D_t, a Kronecker product: v_t is h_{t−1} for W_h and
  x_t for W_x, and D_t is the derivative of s_t with respect to the product. c = ±1 at random, so
  E u ⊗ A = M. The paper has one product for all kernels, which needs the same D_t for all; here
  each kernel has its own, so that a GRU fits, where the reset gate scales only h W_h. The influence
  of b has the size of A and is kept exactly.

  Shares of lags: the terms of u_t are sorted by the lag k of their v_{t−k}. Each share also
  contains products with the terms of A_t from other steps, whose expectation is zero.

  Cost per step: N²·W; memory: N·W + V per kernel [V, W] and example, where W = G·H for G gates.
  Unbiased, with a smaller variance than `uoro`.

  Returns:
    An Estimator that is random. Cells other than those with params w_x, w_h, b and h_{t−1} W_h as
    their recurrent product raise a ValueError.
  References:
    Mujika, Meier and Steger, 2018, https://arxiv.org/abs/1805.10842
  """
  return forward_estimator(_make_rule, random=True)


def _make_rule(cell: Cell, params: Params, xs: Array, model: VectorCell) -> Rule:
  if cell.recurrent_kernel != "w_h" or not isinstance(params, dict) or set(params) != {*_NAMES}:
    raise ValueError(
      "cell must have a plain recurrent kernel w_h and no params but b, w_h and w_x for kf_rtrl, "
      f"such as elman, gru and lstm, got params {checks.shapes(params)}."
    )
  size, dtype = joint_size(cell), model.theta.dtype
  (input_size, width), (hidden_size, _) = params["w_x"].shape, params["w_h"].shape

  def init(num_lags: int) -> Products:
    a = jnp.zeros((size, width), dtype)
    return Products(
      Product(jnp.zeros((num_lags, input_size), dtype), a),
      Product(jnp.zeros((num_lags, hidden_size), dtype), a),
      jnp.zeros((num_lags, size, width), dtype),
    )

  def update(memory: Products, step: Derivatives) -> Products:
    x = (
      step.x
      if jnp.issubdtype(step.x.dtype, jnp.inexact)
      else jax.nn.one_hot(step.x, input_size, dtype=dtype)
    )
    hidden = jax.tree.leaves(step.before)[0][0]
    by_bias, by_drive, by_recurrent = _derivatives(cell, model, step.before, step.x)
    jacobian = jax.vmap(step.jvp, out_axes=1)(jnp.eye(size, dtype=dtype))
    signs = jax.random.rademacher(step.key, (2, 2), dtype)
    bias = (jacobian @ shift_lags(memory.bias)).at[0].add(by_bias)
    return Products(
      _advance(memory.input, jacobian, x, by_drive, signs[0]),
      _advance(memory.recurrent, jacobian, hidden, by_recurrent, signs[1]),
      bias,
    )

  def gradient(memory: Products, delta: Float[Array, " N"]) -> Float[Array, "K P"]:
    grads = {
      "b": jnp.einsum("i,kiw->kw", delta, memory.bias),
      "w_h": _outer(memory.recurrent, delta),
      "w_x": _outer(memory.input, delta),
    }
    return jax.vmap(lambda tree: jax.flatten_util.ravel_pytree(tree)[0])(grads)

  return Rule(init, update, gradient)


_NAMES = ("b", "w_h", "w_x")


def _derivatives(
  cell: Cell, model: VectorCell, carry: Carry, x: Array
) -> tuple[Float[Array, "N W"], Float[Array, "N W"], Float[Array, "N W"]]:
  """Returns the derivatives of s_t with respect to b, the drive and the recurrent product."""
  params = model.unravel(model.theta)
  drive, recurrent = cell.project(params, x[None]), cell.recur(params, carry)

  def of_bias(b: JaxArray) -> JaxArray:
    own = {**params, "b": b}
    return to_vector(cell.update(own, carry, cell.project(own, x[None]), cell.recur(own, carry)))[0]

  def new(drive: JaxArray, recurrent: JaxArray) -> JaxArray:
    return to_vector(cell.update(params, carry, drive[None], recurrent[None]))[0]

  by_drive, by_recurrent = jax.jacrev(new, argnums=(0, 1))(drive[0], recurrent[0])
  return jax.jacrev(of_bias)(params["b"]), by_drive, by_recurrent


def _advance(old: Product, jacobian: Array, v: Array, d: Array, signs: Array) -> Product:
  moved, u = jacobian @ old.a, shift_lags(old.u)
  p_1, p_2 = balance(moved.reshape(-1), jnp.sum(u, axis=0)), balance(d.reshape(-1), v)
  u = (signs[0] * p_1 * u).at[0].add(signs[1] * p_2 * v)
  return Product(u, signs[0] / p_1 * moved + signs[1] / p_2 * d)


def _outer(product: Product, delta: Array) -> Array:
  return product.u[:, :, None] * (delta @ product.a)[None, None, :]
