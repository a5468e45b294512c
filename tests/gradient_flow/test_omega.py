"""Pascanu's Ω: its value, its gradient with all else constant, its effect in training."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from networks import draw, mean_loss, network

from rnn_jax import DeepRNN, make_cell, step
from rnn_jax.gradient_flow import omega
from rnn_jax.losses import squared_error
from rnn_jax.tasks import Batch
from rnn_jax.training import init_state, make_optimizer, omega_penalty, update

T, B, D, H = 3, 2, 2, 3


def frozen_parts(cells, params, xs):
  """Returns inputs, carries and dL/dcarry_t [T, B, ...] of each layer, by plain autodiff."""

  def run(slots):
    ys, layers = xs, []
    for cell, cell_params, slot in zip(cells, params, slots, strict=True):
      carry, outputs, carries = cell.initial_carry((B,)), [], []
      for t in range(T):
        drive = cell.project(cell_params, ys[t])
        carry = step(cell, cell_params, carry, drive)
        carry = jax.tree.map(lambda a, s, t=t: a + s[t], carry, slot)
        carries.append(carry)
        outputs.append(cell.output(cell_params, carry, drive))
      layers.append((ys, jax.tree.map(lambda *a: jnp.stack(a), *carries)))
      ys = jnp.stack(outputs)
    return mean_loss(ys), layers

  slots = [jax.tree.map(lambda a: jnp.zeros((T, *a.shape)), c.initial_carry((B,))) for c in cells]
  bars, layers = jax.grad(run, has_aux=True)(slots)
  return [(inputs, carries, bar) for (inputs, carries), bar in zip(layers, bars, strict=True)]


def omega_by_jacobians(cell, params, inputs, carries, bars):
  """Returns Ω of one layer from explicit step Jacobians on the joint carry."""

  def of_example(inputs, carries, bars):
    total = 0.0
    for t in range(1, T):
      flat, unflatten = ravel_pytree(jax.tree.map(lambda a, t=t: a[t - 1], carries))

      def one(flat, unflatten=unflatten, t=t):
        drive = cell.project(params, inputs[t])
        return ravel_pytree(step(cell, params, unflatten(flat), drive))[0]

      bar = ravel_pytree(jax.tree.map(lambda a, t=t: a[t], bars))[0]
      ratio = jnp.linalg.norm(bar @ jax.jacfwd(one)(flat)) / jnp.linalg.norm(bar)
      total += (ratio - 1) ** 2
    return total

  return jnp.mean(jax.vmap(of_example, in_axes=(1, 1, 1))(inputs, carries, bars))


def test_value_and_gradient_are_those_of_the_formula_with_carries_and_cotangents_held(x64):
  cells, params = network(["elman", "lstm"], H)
  size = 1e-5
  direction = jax.tree.map(lambda a: draw(a.size, *a.shape), params)

  @jax.jit
  def run(params, xs):
    parts = frozen_parts(cells, params, xs)

    def held(way):
      moved = jax.tree.map(lambda a, d: a + way * size * d, params, direction)
      layers = zip(cells, moved, parts, strict=True)
      return [omega_by_jacobians(cell, p, *part) for cell, p, part in layers]

    def layers(params):
      return (omega(cells, params, xs, mean_loss),) * 2

    gradients, values = jax.jacrev(layers, has_aux=True)(params)
    return gradients, values, jax.lax.map(held, jnp.array([0.0, 1.0, -1.0]))

  gradients, values, expected = run(params, draw(80, T, B, D))
  for layer, (value, grads, (here, up, down)) in enumerate(
    zip(values, gradients, expected, strict=True)
  ):
    np.testing.assert_allclose(value, here, rtol=1e-10)
    along = jax.tree.map(lambda g, d: jnp.sum(g * d), grads, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(along)), (up - down) / (2 * size), rtol=1e-7)
    for other, own in enumerate(grads):
      # The immediate derivative: paths through other layers do not count.
      assert all(np.any(leaf) == (other == layer) for leaf in jax.tree.leaves(own))


LINEAR = make_cell("elman", H, activation="linear")


def linear_omega(gain, xs, loss):
  q = np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))[0]
  params = {"w_x": jnp.zeros((D, H)), "w_h": jnp.asarray(gain * q, float), "b": jnp.zeros(H)}
  return jax.value_and_grad(lambda p: omega([LINEAR], [p], xs, loss)[0])(params)


@jax.jit
def quarter_omega(xs, weights):
  return linear_omega(0.25, xs, lambda ys: jnp.sum(weights[:, None] * ys[-1]))


@pytest.mark.parametrize("scale", [1e-35, 1e35])
def test_scaled_orthogonal_recurrence_is_off_by_its_scale_at_every_step_of_any_size(scale):
  # The second example has no gradient: it adds nothing to the sum, but counts in the mean.
  num_steps = 101  # ¼^100 = 6e-61
  weights = jnp.asarray([scale, 0.0])
  value, grads = quarter_omega(jnp.zeros((num_steps, 2, D)), weights)
  np.testing.assert_allclose(value, 100 * 0.75**2 / 2, rtol=1e-5)
  # (‖v (w W)ᵀ‖ − 1)² = (¼ w − 1)²: its derivative in w at 1, a step.
  q = np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))[0]
  along = np.sum(np.asarray(grads["w_h"]) * 0.25 * q)
  np.testing.assert_allclose(along, 100 * 2 * -0.75 * 0.25 / 2, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_omega_of_no_gradient_is_zero_and_a_zero_kernel_has_a_finite_gradient(num_steps):
  @jax.jit
  def run(xs, weight):
    return linear_omega(0.0, xs, lambda ys: weight * jnp.sum(ys[-1]))

  xs = jnp.zeros((num_steps, B, D))
  value, grads = run(xs, 0.0)
  assert value == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
  # Only the last step's carry has a gradient, and a zero kernel passes none of it back: (0 − 1)².
  value, grads = run(xs, 1.0)
  assert value == min(1, num_steps - 1)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_a_loss_that_is_not_a_scalar_is_refused():
  cells, params = network(["elman"], H)
  with pytest.raises(ValueError, match=r"loss must return a scalar, got \[3, 2, 3\]"):
    omega(cells, params, draw(80, T, B, D), lambda ys: ys)


# In training


def test_training_with_the_penalty_lowers_omega_and_reports_the_loss_without_it():
  model = DeepRNN([make_cell("elman", 8, recurrent_gain=0.3)], output_size=1)
  optimizer = make_optimizer("sgd", 0.02)
  batch = Batch(draw(0, 10, 4, D), draw(1, 10, 4, 1), jnp.ones((10, 4), bool))
  state = jax.jit(functools.partial(init_state, model, optimizer))(jax.random.key(0), batch.xs)

  @jax.jit
  def train(state, weight):
    def body(state, _):
      penalty = omega_penalty(model, squared_error, weight)
      state, _, metrics = update(model, optimizer, squared_error, state, batch, penalty=penalty)
      return state, metrics

    return jax.lax.scan(body, state, None, length=40)

  measure = jax.jit(functools.partial(omega_penalty(model, squared_error, 1.0), batch=batch))
  (one, with_it), (other, without) = train(state, 1.0), train(state, 0.0)
  before, after, plain = (float(measure(s.params)) for s in (state, one, other))
  np.testing.assert_allclose(with_it.loss[0], without.loss[0], rtol=1e-6)
  np.testing.assert_allclose(with_it.norms[0][0], without.norms[0][0], rtol=1e-6)
  assert with_it.grad_norm[0] > 1.1 * without.grad_norm[0]
  assert after < 0.5 * before
  assert after < 0.6 * plain


def test_a_negative_weight_is_refused():
  model = DeepRNN([make_cell("elman", H)], output_size=1)
  with pytest.raises(ValueError, match=r"weight must be at least 0, got -1.0"):
    omega_penalty(model, squared_error, -1.0)
