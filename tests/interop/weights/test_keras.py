"""Conversion of Keras's weights, against its documented equations and against Keras itself."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn, params_of

from rnn_jax import make_cell, step, unroll
from rnn_jax.cells import LSTMCarry
from rnn_jax.interop import params_from_keras, params_to_keras

T, B, D, H = 4, 2, 3, 5
CLOSE = {"rtol": 1e-10, "atol": 1e-12}

# For each Keras layer: (our cell's name, our cell's options, number of gates, shape of the bias).
CASES = {
  "SimpleRNN": ("elman", {}, 1, (H,)),
  "GRU": ("gru", {"inner_bias": True}, 3, (2, 3 * H)),
  "GRU reset_after=False": ("gru", {"reset": "before"}, 3, (3 * H,)),
  "LSTM": ("lstm", {}, 4, (4 * H,)),
}
# Zeros are cheap to compile, and every test replaces the initial weights.
ZEROS = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
every_case = pytest.mark.parametrize("which", CASES)


@pytest.fixture
def keras(monkeypatch):
  """The module `keras` with its JAX backend; skips the test if Keras is not installed."""
  monkeypatch.setenv("KERAS_BACKEND", "jax")  # Keras reads the variable when it is imported
  reason = "Keras is a baseline of the benchmark, not a dependency"
  keras = pytest.importorskip("keras", reason=reason)
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield keras


def weights_of(which):
  *_, gates, bias = CASES[which]
  shapes = [jnp.zeros((D, gates * H)), jnp.zeros((H, gates * H)), jnp.zeros(bias)]
  return drawn(shapes, seed=8)


def ours(which, weights, xs):
  name, options, *_ = CASES[which]
  return unroll(make_cell(name, H, **options), params_from_keras(name, weights, **options), xs)[1]


def keras_equations(which, weights, xs):
  """Returns a Keras layer's outputs [T, B, H], by the equations in Keras's documentation."""
  (w, u, b), gates = map(np.asarray, weights), CASES[which][2]
  from_x, from_h = (b[0], b[1]) if b.ndim == 2 else (b, np.zeros_like(b))
  h = c = np.zeros((B, H))
  ys = []
  for x in xs:
    px = np.split(x @ w + from_x, gates, axis=1)
    ph = np.split(h @ u + from_h, gates, axis=1)
    if which == "SimpleRNN":
      h = np.tanh(px[0] + ph[0])
    elif which == "LSTM":
      i, f, a, o = (p + q for p, q in zip(px, ph, strict=True))
      c = sigmoid(f) * c + sigmoid(i) * np.tanh(a)
      h = sigmoid(o) * np.tanh(c)
    else:
      z, r = sigmoid(px[0] + ph[0]), sigmoid(px[1] + ph[1])
      inner = r * ph[2] if which == "GRU" else (r * h) @ u[:, 2 * H :]
      h = z * h + (1 - z) * np.tanh(px[2] + inner)
    ys.append(h)
  return np.stack(ys)


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


@every_case
def test_weights_compute_the_equations_of_keras(x64, which):
  weights, xs = weights_of(which), drawn(jnp.zeros((T, B, D)), seed=5)
  found = jax.jit(functools.partial(ours, which))(weights, xs)
  np.testing.assert_allclose(found, keras_equations(which, weights, np.asarray(xs)), **CLOSE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras itself causes this warning
@every_case
def test_keras_itself_computes_the_same(keras, which):
  """Compares one step of Keras's cell with one step of our cell.

  For the case "GRU" the gradients are compared, for all other cases the new carries.
  """
  name, options, *_ = CASES[which]
  layer = getattr(keras.layers, f"{which.split(' ')[0]}Cell")
  layer = layer(H, **ZEROS, **({"reset_after": False} if "before" in options.values() else {}))
  layer.build((None, D))
  assert [w.shape for w in layer.get_weights()] == [w.shape for w in weights_of(which)]
  constants = [variable.value for variable in layer.non_trainable_variables]
  cell = make_cell(name, H, **options)
  carry, x = drawn((cell.initial_carry((B,)), jnp.zeros((B, D))), seed=5)

  def ours(weights, carry, x):
    params = params_from_keras(name, weights, **options)
    return step(cell, cell.prepare(params), carry, cell.project(params, x))

  def theirs(weights, carry, x):
    states = list(carry) if name == "lstm" else [carry]
    (_, new), _ = layer.stateless_call(weights, constants, x, states)
    return LSTMCarry(*new) if name == "lstm" else new[0]

  def measured(run):
    if which != "GRU":
      return run
    return jax.jit(jax.grad(lambda *given: jnp.sum(jnp.cos(run(*given))), argnums=(0, 1, 2)))

  given = weights_of(which), carry, x
  chex.assert_trees_all_close(measured(ours)(*given), measured(theirs)(*given), atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras itself causes this warning
def test_the_weights_of_both_directions_are_one_list(keras):
  layer = keras.layers.Bidirectional(keras.layers.LSTM(H, return_sequences=True, **ZEROS))
  layer.build((None, None, D))
  both = [params_of("lstm", D, H, seed) for seed in (1, 2)]
  layer.set_weights([array for params in both for array in params_to_keras("lstm", params)])
  for params, direction in zip(both, (layer.forward_layer, layer.backward_layer), strict=True):
    chex.assert_trees_all_equal(params_from_keras("lstm", direction.get_weights()), params)


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("elman", {}),
    *(("gru", o) for o in ({}, {"inner_bias": True}, {"reset": "before"})),
    ("lstm", {}),
  ],
)
def test_the_round_trip_is_the_identity(name, options):
  params = params_of(name, D, H, **options)
  there = params_to_keras(name, params, **options)
  chex.assert_trees_all_equal(params_from_keras(name, there, **options), params)
  no_bias = {k: v if k.startswith("w") else 0 * v for k, v in params.items()}
  chex.assert_trees_all_equal(params_from_keras(name, there[:2], **options), no_bias)


@pytest.mark.parametrize(
  ("which", "change", "options", "message"),
  [
    ("GRU", lambda w: w, {}, r"^bias\[1\] must be zero where r scales it"),
    ("GRU", lambda w: w, {"reset": "before"}, r"^bias must be \[3·H\] .* got \[2, 15\]; .*'after'"),
    (
      "GRU reset_after=False",
      lambda w: w,
      {},
      r"^bias must be \[2, 3·H\] .* got \[15\]; .*'before'",
    ),
    ("GRU", lambda w: w, {"reset": "none"}, "^Unknown cell of keras.layers 'gru reset=none'"),
    ("LSTM", lambda w: w[:1], {}, r"^weights must be \[kernel, recurrent_kernel, bias\].* got 1"),
    ("LSTM", lambda w: dict(enumerate(w)), {}, "^weights must be .* got a dict"),
    ("LSTM", lambda w: w[1::-1], {}, r"^kernel must be \[D, 4·H\]|^recurrent_kernel must be"),
    ("LSTM", lambda w: [*w[:2], w[2][:5]], {}, r"^bias must be \[4·H\] = \[20\], got \[5\]"),
    ("SimpleRNN", lambda w: [w[0], w[1][:, :4], w[2]], {}, r"^recurrent_kernel must be \[H, H\]"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_weights_that_do_not_fit_are_named(which, change, options, message):
  with pytest.raises(ValueError, match=message) as error:
    params_from_keras(CASES[which][0], change(weights_of(which)), **options)
  assert "\n" not in str(error.value)
