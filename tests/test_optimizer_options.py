"""Tests of the optimizer's options: momentum, decoupled weight decay, learning rate schedules."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_problem import MODEL, assert_close, batch_of, mean_loss, start, updated

from rnn_jax.losses import squared_error
from rnn_jax.optimizers import learning_rate_schedule, make_optimizer
from rnn_jax.training import update

pytestmark = pytest.mark.usefixtures("optax_promotion")

RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.3
GRADS = [np.random.default_rng(i).standard_normal(5) for i in range(4)]


def steps(optimizer, count=4):
  """Returns the params after each of `count` updates by the fixed gradients."""

  @jax.jit
  def run(params):
    state, found = optimizer.init(params), []
    for grads in GRADS[:count]:
      updates, state = optimizer.update(jnp.asarray(grads, float), state, params)
      params = optax.apply_updates(params, updates)
      found.append(params)
    return jnp.stack(found)

  return run(jnp.linspace(-1, 1, 5))


def reference(direction, momentum=0.0, decay=0.0, rate=lambda t: RATE):
  """Returns the same by the equations; `direction` maps the gradients so far to d(g)."""
  params, m, found = np.linspace(-1, 1, 5), np.zeros(5), []
  for t in range(4):
    m = momentum * m + direction(GRADS[: t + 1])
    params = params - rate(t) * (m + decay * params)
    found.append(params)
  return np.stack(found)


def by_sgd(grads):
  return grads[-1]


def by_rmsprop(grads):
  square = sum(0.1 * 0.9**i * g**2 for i, g in enumerate(reversed(grads)))
  return grads[-1] / np.sqrt(square + 1e-8)


def by_adam(grads):
  t = len(grads)
  m = sum(0.1 * 0.9**i * g for i, g in enumerate(reversed(grads))) / (1 - 0.9**t)
  v = sum(0.001 * 0.999**i * g**2 for i, g in enumerate(reversed(grads))) / (1 - 0.999**t)
  return m / (np.sqrt(v) + 1e-8)


@pytest.mark.parametrize("decay", [None, DECAY])
@pytest.mark.parametrize(
  ("name", "direction", "momentum"),
  [
    ("sgd", by_sgd, None),
    ("sgd", by_sgd, MOMENTUM),
    ("rmsprop", by_rmsprop, None),
    ("rmsprop", by_rmsprop, MOMENTUM),
    ("adam", by_adam, None),
  ],
)
def test_momentum_and_weight_decay_follow_the_equations(name, direction, momentum, decay):
  found = steps(make_optimizer(name, RATE, momentum=momentum, weight_decay=decay))
  expected = reference(direction, momentum or 0, decay or 0)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_adam_with_weight_decay_is_optaxs_adamw_also_under_a_schedule():
  schedule = learning_rate_schedule("linear", RATE, 4, 1)
  for rate in (RATE, schedule):
    found = steps(make_optimizer("adam", rate, weight_decay=DECAY))
    np.testing.assert_allclose(found, steps(optax.adamw(rate, weight_decay=DECAY)), rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd"])
def test_a_decay_and_a_momentum_of_zero_have_no_effect(name):
  plain = steps(make_optimizer(name, RATE))
  given = {"weight_decay": 0.0} if name == "adam" else {"weight_decay": 0.0, "momentum": 0.0}
  np.testing.assert_allclose(
    steps(make_optimizer(name, RATE, **given)), plain, rtol=1e-6, atol=1e-6
  )


def test_weight_decay_reaches_every_param_of_a_network_and_leaves_clipping_alone():
  batch, optimizer = batch_of(), make_optimizer("sgd", RATE, 0.01, weight_decay=DECAY)
  state = start(optimizer)
  new, _, metrics = updated(optimizer)(state, batch)
  loss, grads = mean_loss(state.params, batch)
  share = 0.01 / float(metrics.grad_norm)
  expected = jax.tree.map(lambda w, g: w - RATE * (share * g + DECAY * w), state.params, grads)
  assert_close(new.params, expected)
  np.testing.assert_allclose([metrics.loss, metrics.clipped_norm], [loss, 0.01], rtol=1e-4)
  assert metrics.clipped == 1


def test_one_trace_serves_all_numbers():
  chex.clear_trace_counter()

  @jax.jit
  @chex.assert_max_traces(n=1)
  def run(state, batch, momentum, decay, warmup):
    schedule = learning_rate_schedule("cosine", RATE, 5, warmup)
    optimizer = make_optimizer("sgd", schedule, momentum=momentum, weight_decay=decay)
    return update(MODEL, optimizer, squared_error, state, batch)

  def fixed(momentum, decay, warmup):
    schedule = learning_rate_schedule("cosine", RATE, 5, warmup)
    return make_optimizer("sgd", schedule, momentum=momentum, weight_decay=decay)

  state = start(fixed(0.5, 0.1, 2))
  for numbers in ((0.5, 0.1, 2), (0.9, 0.0, 0)):
    assert_close(run(state, batch_of(), *numbers), updated(fixed(*numbers))(state, batch_of()))


@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules_are_those_of_optax(warmup):
  num_steps, at = 10, jnp.arange(14)
  found = {
    name: learning_rate_schedule(name, RATE, num_steps, warmup)(at)
    for name in ("constant", "linear", "cosine")
  }
  rest = num_steps - warmup
  decays = {
    "constant": optax.constant_schedule(RATE),
    "linear": optax.linear_schedule(RATE, 0.0, rest),
    "cosine": optax.cosine_decay_schedule(RATE, rest),
  }
  for name, decay in decays.items():
    joined = optax.join_schedules(
      [optax.linear_schedule(0.0, RATE, max(warmup, 1)), decay], [warmup]
    )
    np.testing.assert_allclose(found[name] * jnp.ones(14), joined(at) * jnp.ones(14), atol=1e-7)
  cosine = optax.warmup_cosine_decay_schedule(0.0, RATE, warmup, num_steps)
  np.testing.assert_allclose(found["cosine"], cosine(at), atol=1e-7)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: make_optimizer("adam", 0.1, momentum=0.9), "momentum must be None with adam"),
    (lambda: make_optimizer("sgd", 0.1, momentum=1.0), "momentum must be below 1, got 1.0"),
    (lambda: make_optimizer("sgd", 0.1, weight_decay=-1.0), "weight_decay must be at least 0"),
    (lambda: learning_rate_schedule("step", 0.1, 5), "Unknown schedule 'step'"),
    (lambda: learning_rate_schedule("linear", 0.1, 5, 5), "warmup must be below 5, got 5"),
    (lambda: learning_rate_schedule("linear", 0.0, 5), "learning_rate must be greater than 0"),
  ],
)
def test_errors_name_the_argument(make, message):
  with pytest.raises(ValueError, match=message):
    make()
