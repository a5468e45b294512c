"""`scan_gradients` of models of Flax, Equinox and Haiku against `unroll` with the same weights."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import draw

from rnn_jax import gradient_probe, make_cell, unroll
from rnn_jax.cells import LSTMCarry
from rnn_jax.gradient_flow import scan_gradients
from rnn_jax.interop import params_from_linen, params_from_nnx

T, B, D, H = 6, 3, 2, 4
XS = draw(80, T, B, D)
LENGTHS = np.array([6, 4, 1])
MASK = np.arange(T)[:, None] < LENGTHS
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


def expected_norms(name, params, loss, options=(), **time):
  """Returns the norms from `gradient_probe` for `loss(ys)`, a function of our cell's outputs."""
  cell = make_cell(name, H, **dict(options))
  probe = gradient_probe(cell, T, B)
  run = jax.jit(jax.grad(lambda probe: loss(unroll(cell, params, XS, probe=probe, **time)[1])))
  return run(probe)


def mean_square(ys, mask=None):
  squares = jnp.sum((ys - draw(81, *ys.shape)) ** 2, axis=-1)
  return (
    jnp.mean(squares)
    if mask is None
    else jnp.sum(squares * mask.astype(float)) / float(np.sum(mask))
  )


# Flax Linen


class Core(nn.Module):
  """The core of a recurrent PPO agent: a GRU whose carry is zero where an episode starts."""

  @functools.partial(
    nn.scan, variable_broadcast="params", in_axes=0, out_axes=0, split_rngs={"params": False}
  )
  @nn.compact
  def __call__(self, carry, inputs):
    x, reset = inputs
    carry = jnp.where(reset[:, None], jnp.zeros_like(carry), carry)
    return nn.GRUCell(H)(carry, x)


class Agent(nn.Module):
  """Policy and value of an agent with an LSTM-like core between two feed-forward layers."""

  @nn.compact
  def __call__(self, xs, resets):
    _, hs = Core()(jnp.zeros((xs.shape[1], H)), (xs, resets))
    return nn.log_softmax(nn.Dense(3, name="policy")(hs)), nn.Dense(1, name="value")(hs)[..., 0]


RESETS = np.arange(T)[:, None] == np.array([0, 2, 4])
ACTIONS = np.arange(T * B).reshape(T, B) % 3
ADVANTAGES, RETURNS, OLD = draw(1, T, B), draw(2, T, B), draw(3, T, B) - 1


def ppo_loss(log_probs, values):
  chosen = jnp.take_along_axis(log_probs, ACTIONS[..., None], axis=-1)[..., 0]
  ratio = jnp.exp(chosen - OLD)
  clipped = jnp.clip(ratio, 0.8, 1.2)
  policy = -jnp.mean(jnp.minimum(ratio * ADVANTAGES, clipped * ADVANTAGES))
  entropy = -jnp.mean(jnp.sum(jnp.exp(log_probs) * log_probs, -1))
  value = jnp.mean((values - RETURNS) ** 2)
  return policy + 0.5 * value - 0.01 * entropy, {"entropy": entropy}


def test_an_agent_of_linen_with_resets():
  agent = Agent()
  variables = agent.init(jax.random.key(0), XS, RESETS)

  def loss(variables, xs):
    return ppo_loss(*agent.apply(variables, xs, RESETS))

  found = jax.jit(scan_gradients(loss, argnums=0, has_aux=True))(variables, XS)
  params = variables["params"]
  (name,) = params["Core_0"]

  def our_loss(ys):
    policy = nn.Dense(3).apply({"params": params["policy"]}, ys)
    values = nn.Dense(1).apply({"params": params["value"]}, ys)[..., 0]
    return ppo_loss(nn.log_softmax(policy), values)[0]

  ours = params_from_linen("gru", params["Core_0"][name], inner_bias=True)
  expected = expected_norms("gru", ours, our_loss, {"inner_bias": True}, resets=RESETS)
  (scan,) = found.scans
  np.testing.assert_allclose(scan.gradients[0], expected, **CLOSE)
  assert scan.scope == "Agent"
  assert np.all(expected > 0) and found.aux["entropy"] > 0
  grads = jax.jit(jax.grad(loss, has_aux=True))(variables, XS)[0]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), found.grads, grads)


class Encoder(nn.Module):
  """An LSTM with attention over its outputs."""

  @nn.compact
  def __call__(self, xs, lengths):
    hs = nn.RNN(nn.OptimizedLSTMCell(H), time_major=True, name="lstm")(xs, seq_lengths=lengths)
    return Readout(name="readout")(hs)


class Readout(nn.Module):
  """Attention over time, from the outputs [T, B, H] of a recurrent layer."""

  @nn.compact
  def __call__(self, hs):
    hs = jnp.swapaxes(hs, 0, 1)
    mixed = nn.MultiHeadDotProductAttention(2)(hs, mask=MASK.T[:, None, None])
    return jnp.swapaxes(nn.Dense(2)(mixed), 0, 1)


def test_an_encoder_of_linen_with_attention_and_lengths():
  model = Encoder()
  variables = model.init(jax.random.key(0), XS, LENGTHS)

  def loss(variables):
    return mean_square(model.apply(variables, XS, LENGTHS), MASK)

  (scan,) = jax.jit(scan_gradients(loss))(variables).scans
  params = variables["params"]
  (name,) = params.keys() - {"readout"}
  ours = params_from_linen("lstm", params[name])

  def our_loss(ys):
    return mean_square(Readout().apply({"params": params["readout"]}, ys), MASK)

  expected = expected_norms("lstm", ours, our_loss)
  # The carry is (c, h) in Flax.
  np.testing.assert_allclose(scan.gradients[0], expected.cell, **CLOSE)
  np.testing.assert_allclose(scan.gradients[1], expected.hidden, **CLOSE)
  assert scan.scope == "Encoder/lstm"


# Flax NNX


@pytest.mark.parametrize("split", [False, True])
def test_a_model_of_nnx(split):
  class Model(nnx.Module):
    def __init__(self, rngs):
      self.rnn = nnx.RNN(nnx.GRUCell(D, H, rngs=rngs), time_major=True)
      self.out = nnx.Linear(H, 2, rngs=rngs)

    def __call__(self, xs):
      return self.out(self.rnn(xs))

  model = Model(nnx.Rngs(0))
  ours = params_from_nnx("gru", nnx.to_pure_dict(nnx.state(model.rnn.cell, nnx.Param)))
  kernel, bias = model.out.kernel[...], model.out.bias[...]
  expected = expected_norms("gru", ours, lambda ys: mean_square(ys @ kernel + bias[None, None]))

  def loss(model, xs):
    return mean_square(model(xs))

  if split:
    definition, params, rest = nnx.split(model, nnx.Param, ...)

    def split_loss(params, rest, xs):
      return loss(nnx.merge(definition, params, rest), xs)

    measure = jax.jit(scan_gradients(split_loss, argnums=0))
    found = measure(params, rest, XS)
    grads = nnx.grad(loss)(model, XS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), found.grads, grads)
  else:
    found = scan_gradients(loss)(model, XS)
  np.testing.assert_allclose(found.scans[0].gradients[0], expected, **CLOSE)


# Equinox


def test_a_model_of_equinox_with_a_mapped_example_loss():
  eqx = pytest.importorskip("equinox")

  class Model(eqx.Module):
    cell: eqx.nn.LSTMCell
    out: eqx.nn.MLP

    def __call__(self, xs):
      def body(state, x):
        state = self.cell(x, state)
        return state, self.out(state[0])

      return jax.lax.scan(body, (jnp.zeros(H), jnp.zeros(H)), xs)[1]

  keys = jax.random.split(jax.random.key(0))
  model = Model(eqx.nn.LSTMCell(D, H, key=keys[0]), eqx.nn.MLP(H, 2, 5, 1, jnp.tanh, key=keys[1]))

  @eqx.filter_jit
  def loss(model, xs):
    return mean_square(jax.vmap(model, 1, 1)(xs))

  found = scan_gradients(loss, argnums=0)(model, XS)
  cell = model.cell
  ours = {"w_x": cell.weight_ih.T, "w_h": cell.weight_hh.T, "b": cell.bias}
  expected = expected_norms("lstm", ours, lambda ys: mean_square(jax.vmap(jax.vmap(model.out))(ys)))
  (scan,) = found.scans
  assert scan.names == ("state[0]", "state[1]")
  np.testing.assert_allclose(scan.gradients[0], expected.hidden, **CLOSE)
  np.testing.assert_allclose(scan.gradients[1], expected.cell, **CLOSE)
  grads = eqx.filter_grad(loss)(model, XS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), found.grads, grads)


# Haiku


def test_a_model_of_haiku():
  hk = pytest.importorskip("haiku")

  def forward(xs):
    core = hk.LSTM(H)
    return hk.dynamic_unroll(core, xs, core.initial_state(B))[0]

  model = hk.without_apply_rng(hk.transform(forward))
  params = model.init(jax.random.key(0), XS)

  def loss(params, xs):
    return mean_square(model.apply(params, xs))

  (scan,) = jax.jit(scan_gradients(loss))(params, XS).scans
  kernel, bias = params["lstm/linear"]["w"], params["lstm/linear"]["b"]
  # Haiku's gates are i, g, f, o, and it adds 1 to f.
  i, g, f, o = jnp.split(kernel, 4, axis=1)
  bi, bg, bf, bo = jnp.split(bias, 4)
  kernel, bias = jnp.concatenate([i, f, g, o], 1), jnp.concatenate([bi, bf + 1, bg, bo])
  ours = {"w_x": kernel[:D], "w_h": kernel[D:], "b": bias}
  expected = expected_norms("lstm", ours, mean_square)
  assert isinstance(expected, LSTMCarry)
  np.testing.assert_allclose(scan.gradients[0], expected.hidden, **CLOSE)
  np.testing.assert_allclose(scan.gradients[1], expected.cell, **CLOSE)
