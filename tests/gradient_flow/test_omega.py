"""Pascanu's Ω: its value, its gradient at fixed carries and cotangents, its effect in training."""

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
from rnn_jax.optimizers import make_optimizer
from rnn_jax.penalties import omega_penalty
from rnn_jax.tasks import Batch
from rnn_jax.training import init_state, update

T, B, D, H = 3, 2, 2, 3


def frozen_parts(cells, params, xs):
  """Returns (inputs, h_t, dL/dh_t) of each layer, leaves [T, B, ...], by JAX's autodiff alone.

  These are the quantities that Ω's gradient holds constant.
  """

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
  """Returns Ω of one layer by its formula, with an explicit Jacobian of every step.

  Args:
    cell: the layer's cell.
    params: the cell's params.
    inputs: the layer's inputs [T, B, ...].
    carries: h_t, leaves [T, B, ...].
    bars: dL/dh_t, leaves [T, B, ...].
  """

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


def test_value_and_gradient_match_the_formula_at_fixed_carries_and_cotangents(x64):
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
      # Only the layer's own params have a gradient: paths through other layers are held constant.
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
def test_every_step_of_a_scaled_orthogonal_recurrence_adds_the_same_term(scale):
  # The first example's gradient decays by ¼^100 = 6e-61, to below the float32 range. The second
  # example has no gradient, so its Ω is zero, which halves the mean over the examples.
  num_steps = 101
  weights = jnp.asarray([scale, 0.0])
  value, grads = quarter_omega(jnp.zeros((num_steps, 2, D)), weights)
  np.testing.assert_allclose(value, 100 * 0.75**2 / 2, rtol=1e-5)
  # If W is scaled to s W, each step's term is (‖v (s W)ᵀ‖ / ‖v‖ − 1)² = (¼ s − 1)². Its derivative
  # with respect to s at s = 1 is 2 · (−¾) · ¼.
  q = np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))[0]
  along = np.sum(np.asarray(grads["w_h"]) * 0.25 * q)
  np.testing.assert_allclose(along, 100 * 2 * -0.75 * 0.25 / 2, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_omega_is_zero_for_a_zero_loss_and_has_a_finite_gradient_at_a_zero_kernel(num_steps):
  @jax.jit
  def run(xs, weight):
    return linear_omega(0.0, xs, lambda ys: weight * jnp.sum(ys[-1]))

  xs = jnp.zeros((num_steps, B, D))
  value, grads = run(xs, 0.0)
  assert value == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
  # Only the last step's carry has a gradient, and a zero kernel passes none of it back. Ω therefore
  # has the single term (0 − 1)², or no term if there is only one step.
  value, grads = run(xs, 1.0)
  assert value == min(1, num_steps - 1)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_a_loss_that_is_not_a_scalar_is_refused():
  cells, params = network(["elman"], H)
  with pytest.raises(ValueError, match=r"loss must return a scalar, got \[3, 2, 3\]"):
    omega(cells, params, draw(80, T, B, D), lambda ys: ys)


# Ω as a penalty in training.


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
