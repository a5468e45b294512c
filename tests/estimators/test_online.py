"""Tests of online training: the sum of its gradients, its updates by hand, and its errors."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from estimated import KEY, distance, draw

from rnn_jax import DeepRNN, make_cell
from rnn_jax.estimators import bptt, rflo, rtrl, snap, uoro
from rnn_jax.losses import masked_mean, squared_error
from rnn_jax.online import train_online
from rnn_jax.optimizers import make_optimizer
from rnn_jax.tasks import Batch
from rnn_jax.training import init_state

pytestmark = pytest.mark.usefixtures("x64")

N, B, D, OUT = 7, 2, 2, 2
RESETS = np.zeros((N, B), bool)
RESETS[[3, 5], [0, 1]] = True
MASK = np.ones((N, B), bool)
MASK[2, 1] = MASK[4] = False

# An optimizer that changes no params and adds up the gradients.
adding = optax.GradientTransformation(
  lambda params: jax.tree.map(jnp.zeros_like, params),
  lambda grads, state, params=None: (
    jax.tree.map(jnp.zeros_like, grads),
    jax.tree.map(jnp.add, state, grads),
  ),
)


def stream_of(seed=0, mask=MASK):
  return Batch(draw(seed, N, B, D, scale=1), draw(seed + 1, N, B, OUT), jnp.asarray(mask))


@pytest.mark.parametrize("names", [["lstm"], ["elman", "gru"]], ids="-".join)
def test_gradients_of_fixed_params_add_up_to_that_of_bptt(names):
  model, stream = DeepRNN([make_cell(name, 3) for name in names], OUT), stream_of()
  state = init_state(model, adding, KEY, stream.xs)

  def whole(params):
    _, outputs = model.apply({"params": params}, stream.xs, resets=RESETS)
    losses = squared_error(outputs, stream.targets)
    return sum(masked_mean(losses[t : t + 1], stream.mask[t : t + 1]) for t in range(N))

  for rule in (rtrl(), snap(3)):
    run = jax.jit(functools.partial(train_online, model, adding, squared_error, estimator=rule))
    end, _, metrics = run(state, stream, key=KEY, resets=RESETS)
    assert distance(end.opt_state, jax.jit(jax.grad(whole))(state.params)) < 1e-12
    np.testing.assert_allclose(jnp.sum(metrics.loss), whole(state.params), rtol=1e-12)


def test_updates_by_hand():
  # A scalar linear network, h' = w h + v x + b, whose derivatives by w, v and b are kept by hand.
  model = DeepRNN([make_cell("elman", 1, activation="linear")], output_size=1)
  stream = Batch(draw(0, N, 1, 1, scale=1), draw(1, N, 1, 1), jnp.ones((N, 1), bool))
  optimizer, rate = make_optimizer("sgd", 0.1), 0.1
  state = init_state(model, optimizer, KEY, stream.xs)
  end, _, metrics = jax.jit(
    lambda state: train_online(model, optimizer, squared_error, state, stream, rtrl(), KEY)
  )(state)

  cell, head = state.params["layers_0"]["cell"], state.params["head"]
  w, v, b = (float(np.ravel(cell[name])[0]) for name in ("w_h", "w_x", "b"))
  k, c = (float(np.ravel(head[name])[0]) for name in ("kernel", "bias"))
  h, influence, losses = 0.0, np.zeros(3), []
  for x, target in zip(np.ravel(stream.xs), np.ravel(stream.targets), strict=True):
    influence = w * influence + np.array([h, x, 1])
    h = w * h + v * x + b
    error = k * h + c - target
    losses.append(error**2)
    slope = 2 * error
    step = rate * slope * k * influence
    (w, v, b), k, c = np.array([w, v, b]) - step, k - rate * slope * h, c - rate * slope
  got = end.params["layers_0"]["cell"]
  np.testing.assert_allclose([np.ravel(got[n])[0] for n in ("w_h", "w_x", "b")], [w, v, b])
  np.testing.assert_allclose(np.ravel(end.params["head"]["kernel"]), k)
  np.testing.assert_allclose(metrics.loss, losses)


@pytest.mark.parametrize("rule", [uoro(), rflo()], ids=["uoro", "rflo"])
def test_a_stream_continues_where_an_earlier_call_stopped(rule):
  model, stream = DeepRNN([make_cell("gru", 3)], OUT), stream_of()
  optimizer = make_optimizer("sgd", 0.05, 1.0)
  state = init_state(model, optimizer, KEY, stream.xs)
  run = functools.partial(train_online, model, optimizer, squared_error)
  whole = jax.jit(lambda: run(state, stream, rule, KEY))()
  first, second = (jax.tree.map(lambda a, s=s: a[s], stream) for s in (slice(4), slice(4, N)))
  state, continued, _ = jax.jit(lambda: run(state, first, rule, KEY))()
  state, continued, metrics = jax.jit(lambda: run(state, second, rule, KEY, continued))()
  assert distance((state, continued), whole[:2]) < 1e-13
  np.testing.assert_allclose(metrics.loss, whole[2].loss[4:])


def test_errors(unchecked_types):
  model, stream = DeepRNN([make_cell("gru", 3)], OUT), stream_of()
  optimizer = make_optimizer("sgd", 0.05)
  state = init_state(model, optimizer, KEY, stream.xs)
  with pytest.raises(ValueError, match="estimator must run forward in time, step by step"):
    train_online(model, optimizer, squared_error, state, stream, bptt(), KEY)
  with pytest.raises(ValueError, match="resets must be"):
    train_online(
      model, optimizer, squared_error, state, stream, rtrl(), KEY, resets=np.zeros((2, B), bool)
    )
  with pytest.raises(TypeError, match="estimator must be an Estimator"):
    train_online(model, optimizer, squared_error, state, stream, "rtrl", KEY)
  other = DeepRNN([make_cell("gru", 3)], OUT, dropout=0.5)
  with pytest.raises(ValueError, match="model must have dropout 0"):
    train_online(other, optimizer, squared_error, state, stream, rtrl(), KEY)
