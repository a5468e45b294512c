"""Backward estimators: backpropagation with factors on what passes between steps.

    λ_t = δ_t + w_{t+1} J̃_{t+1}ᵀ λ_{t+1}        dL/dθ = Σ_t I_tᵀ λ_t

δ_t = ∂L/∂y_t ∂y_t/∂s_t is the immediate error, and I_t = ∂s_t/∂θ at fixed s_{t−1}. J̃_t is the step
Jacobian ∂s_t/∂s_{t−1}, whose part through `cell.recur` is multiplied by a factor r_t. Each
estimator of this family chooses the factors w and r.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from rnn_jax.estimators._estimator import Estimator, check_key, checked, shift_lags
from rnn_jax.estimators._vector_cell import vector_cell
from rnn_jax.gradient_flow.joint_carry import to_vector
from rnn_jax.gradient_flow.reverse_sweep import forward_pass
from rnn_jax.parallel import vary_alike
from rnn_jax.precision import wide
from rnn_jax.time_loop import unroll
from rnn_jax.types import Carry, Cell, Params, Sequences, step


class Factors(NamedTuple):
  """The factors at every step, [T] or [T, B].

  Attributes:
    carry: w_t, on the gradient from step t to step t − 1; None for 1.
    recurrent: r_t, on the part of that gradient through `cell.recur`; None for 1.
  """

  carry: Float[Array, "*steps"] | None = None
  recurrent: Float[Array, "*steps"] | None = None


FactorsFn = Callable[[int, int, Key[Array, ""]], Factors]


def backward_estimator(factors: FactorsFn, random: bool) -> Estimator:
  """Returns the estimator with the factors that `factors(T, B, key)` returns.

  Cost: a forward and a backward pass; memory T·N per example.
  """

  def run(
    cell: Cell,
    params: Params,
    xs: Sequences,
    carry: Carry | None = None,
    *,
    estimator_key: Key[Array, ""] | None,
    **time: Any,
  ) -> tuple[Carry, PyTree[Array]]:
    num_steps, batch_size = jnp.shape(xs)[:2]
    own = factors(num_steps, batch_size, check_key(estimator_key, random))
    return unroll(
      cell,
      params,
      xs,
      carry,
      gradient_scale=own.carry,
      recurrent_gradient_scale=own.recurrent,
      **time,
    )

  def shares(
    cell: Cell,
    params: Params,
    xs: Sequences,
    y_bars: PyTree[Array],
    key: Key[Array, ""],
    *,
    num_lags: int = 1,
  ) -> Params:
    xs = checked(cell, params, xs)
    num_steps, batch_size = xs.shape[:2]
    own = factors(num_steps, batch_size, key)
    model = vector_cell(cell, params)
    before, prepared = forward_pass(cell, params, xs).before, model.unravel(model.theta)
    ones = jnp.ones((num_steps, batch_size), model.theta.dtype)
    w, r = (ones if a is None else _by_example(a, ones) for a in own)

    def back(later: Array, now: PyTree) -> tuple[Array, Array]:
      """Returns λ_{t−1} − δ_{t−1} [K, N] and the step's shares [K, P], from λ_t − δ_t, `later`."""
      carry, x, y_bar, w, r = now
      carry = jax.tree.map(lambda a: a[None], carry)
      s = to_vector(carry)[0]
      new, vjp = jax.vjp(lambda s, theta: model.step(s, theta, carry, x, r), s, model.theta)
      # `readout` takes the integer leaves from the carry after the step.
      after = step(cell, prepared, carry, cell.project(prepared, x[None]))
      _, readout_vjp = jax.vjp(lambda s, theta: model.readout(s, theta, after, x), new, model.theta)
      delta, direct = readout_vjp(y_bar)
      earlier, grads = jax.vmap(vjp)(later.at[0].add(delta))
      return shift_lags(w * earlier), grads.at[0].add(direct)

    def body(state: tuple[Array, Array], now: PyTree) -> tuple[tuple[Array, Array], None]:
      later, total = state
      later, grads = jax.vmap(back)(later, now)
      return (later, total + jnp.sum(grads, axis=0, dtype=total.dtype)), None

    size = to_vector(jax.tree.map(lambda a: a[0], before)).shape[1]
    start = jnp.zeros((batch_size, num_lags, size), model.theta.dtype)
    # The sum over all steps is in at least float32.
    total = jnp.zeros((num_lags, *model.theta.shape), wide(model.theta.dtype))
    start, total, _ = vary_alike((start, total, y_bars))
    # A plain scan, because derivatives of `unroll` do not keep the lags apart.
    (_, total), _ = jax.lax.scan(body, (start, total), (before, xs, y_bars, w, r), reverse=True)
    return jax.vmap(model.pull_back)(total)

  return Estimator(run, shares, random)


def _by_example(factor: Float[Array, "*steps"], like: Float[Array, "T B"]) -> Float[Array, "T B"]:
  factor = factor if factor.ndim == 2 else factor[:, None]
  return jnp.broadcast_to(factor, like.shape).astype(like.dtype)
