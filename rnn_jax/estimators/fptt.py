"""Backpropagation through time with the errors computed forward in time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from rnn_jax.cells.memoized import memoized
from rnn_jax.estimators._estimator import Estimator, checked
from rnn_jax.estimators._forward import Derivatives, custom_unroll, differentiate, output_of
from rnn_jax.estimators._vector_cell import vector_cell
from rnn_jax.gradient_flow.joint_carry import joint_size, to_vector
from rnn_jax.parallel import vary_alike
from rnn_jax.precision import wide
from rnn_jax.types import Carry, Cell, Params, Sequences, floats_of


@memoized
def fptt() -> Estimator:
  """Errors forward in time: the exact adjoint, from the first step to the last.

    λ_0 = Σ_t (J_t … J_1)ᵀ δ_t        λ_t = J_t⁻ᵀ (λ_{t−1} − δ_{t−1})        dL/dθ = Σ_t I_tᵀ λ_t

  A first pass multiplies the step Jacobians to obtain λ_0. A second pass solves the recursion of
  BPTT for the later error. In exact arithmetic the gradient is that of BPTT. Rounding errors grow
  by J⁻ᵀ at every step. Once the smallest singular value of J_t … J_1 is below the precision of the
  dtype, rounding errors dominate λ_t in its direction. The gradient is inf or NaN where a J_t is
  singular, as with relu units that are off, and in cells whose old carry does not enter the new one
  in all directions, such as `qrnn`.

  Cost per step: N³; memory: N² per example. Bias: none except rounding. Batched linear solves may
  deadlock in a program on several CPU devices; see `lyapunov_spectrum`.

  Returns:
    An Estimator that is not random. It supports neither lengths and masks nor resets.
  References:
    Zucchet et al., 2025, "Forward propagation of errors through time"
  """
  unroll = custom_unroll(_shares, random=False, masked=False)
  return Estimator(unroll, _shares, random=False, forward=True)


def _shares(
  cell: Cell,
  params: Params,
  xs: Sequences,
  y_bars: PyTree[Array],
  key: Key[Array, ""],
  *,
  num_lags: int = 1,
  carry: Carry | None = None,
  final_bar: Carry | None = None,
  valid: None = None,
  resets: None = None,
) -> Params:
  del valid, resets
  xs = checked(cell, params, xs)
  num_steps, batch_size = xs.shape[:2]
  model = vector_cell(cell, params)
  if carry is None:
    carry = cell.initial_carry((batch_size,), model.theta.dtype)
  last = None if final_bar is None else to_vector(jax.tree.map(jnp.conj, floats_of(final_bar)))
  eye = jnp.eye(joint_size(cell), dtype=model.theta.dtype)
  # Keep all lags apart, unless only their sum is wanted: an entry for several lags could not be
  # divided among smaller lags, one step later.
  lags = 1 if num_lags == 1 else num_steps
  t = jnp.arange(num_steps)
  now = t, xs, y_bars

  def step_of(carry: Carry, now: PyTree, last: Array | None) -> tuple[Derivatives, Array, Array]:
    t, x, y_bar = now
    step = differentiate(cell, model, carry, x, key)
    delta, direct = output_of(model, step.after, x)[1](y_bar)
    if last is not None:
      delta = delta + jnp.where(t == num_steps - 1, last, jnp.zeros_like(last))
    return step, delta, direct

  def first_pass(state: PyTree, now: PyTree, last: Array | None) -> PyTree:
    carry, product, error = state
    step, delta, _ = step_of(carry, now, last)
    moved = jax.vmap(step.jvp, in_axes=1, out_axes=1)(product)
    product = jnp.where(now[0] == 0, eye, moved)  # J_0 is not part of λ_0
    return step.after, product, error.at[jnp.minimum(now[0], lags - 1)].add(delta @ product)

  def second_pass(state: PyTree, now: PyTree, last: Array | None) -> tuple[PyTree, Array]:
    carry, error = state  # before step 0 the error is λ_0, then λ_{t−1} − δ_{t−1}
    step, delta, direct = step_of(carry, now, last)
    jacobian = jax.vmap(step.jvp, out_axes=1)(eye)
    system = jacobian.T.astype(total.dtype), error.T.astype(total.dtype)
    moved = jnp.linalg.solve(*system).T.astype(error.dtype)
    error = jnp.where(now[0] == 0, error, moved)
    grads = jax.vmap(step.vjp)(error).at[0].add(direct)
    error = error.at[0].add(-delta)
    if lags > 1:  # a lag is smaller by one at the next step
      error = jnp.concatenate([error[1:], jnp.zeros_like(error[:1])])
    return (step.after, error), grads

  def run_first(state: PyTree, now: PyTree) -> tuple[PyTree, None]:
    mapped = jax.vmap(first_pass, (0, (None, 0, 0), None if last is None else 0))
    return mapped(state, now, last), None

  def run_second(state: PyTree, now: PyTree) -> tuple[PyTree, None]:
    mapped = jax.vmap(second_pass, (0, (None, 0, 0), None if last is None else 0))
    state, total = state
    state, grads = mapped(state, now, last)
    return (state, total + jnp.sum(grads, axis=0, dtype=total.dtype)), None

  products = jnp.broadcast_to(eye, (batch_size, *eye.shape))
  errors = jnp.zeros((batch_size, lags, len(eye)), eye.dtype)
  # JAX has no half-precision linear solver, and the sum over all steps needs at least float32.
  total = jnp.zeros((lags, *model.theta.shape), wide(eye.dtype))
  carry, products, errors, total, _ = vary_alike(
    (carry, products, errors, total, (y_bars, model.theta))
  )
  # Plain scans, because `unroll` runs nothing next to the cell.
  (_, _, errors), _ = jax.lax.scan(run_first, (carry, products, errors), now)
  (_, total), _ = jax.lax.scan(run_second, ((carry, errors), total), now)
  if num_lags > 1:
    total = jnp.concatenate([total, jnp.zeros((num_lags, total.shape[1]), total.dtype)])
    total = total[:num_lags].at[-1].add(jnp.sum(total[num_lags:], axis=0))
  return jax.vmap(model.pull_back)(total)
