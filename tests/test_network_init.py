"""Tests of critical gains, orthogonal kernels and unit variance, on real networks."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import DeepRNN, make_cell
from rnn_jax.gradient_flow import step_jacobians
from rnn_jax.network_init import critical_gain, orthogonal_inputs, unit_variance

T, B, D, H = 20, 8, 3, 6


def radius_at_zero(name, size, kernel, seed=0, **options):
  """Returns the spectral radius of a cell's step Jacobian at carry and input zero."""
  cell = make_cell(name, size, recurrent_kernel=kernel, **options)

  @jax.jit
  def jacobian(key):
    params = cell.init(key, 1)
    return step_jacobians([cell], [params], jnp.zeros((1, 1, 1)))[0][0, 0]

  return np.abs(np.linalg.eigvals(np.asarray(jacobian(jax.random.key(seed)), np.float64))).max()


@pytest.mark.parametrize(
  ("name", "options", "forget_bias"),
  [
    ("elman", {}, None),
    ("elman", {"activation": "linear"}, None),
    ("gru", {}, None),
    ("gru", {"reset": "before"}, None),
    ("lstm", {}, 0.0),
    ("lstm", {}, 2.0),
    ("mgu", {}, 1.0),
    ("peephole_lstm", {}, 1.0),
    ("ugrnn", {}, 1.0),
  ],
)
def test_at_the_critical_gain_the_zero_state_is_at_the_edge_of_stability(
  name, options, forget_bias
):
  bias = {} if forget_bias is None else {"forget_bias": forget_bias}
  gain = float(critical_gain(name, **bias, **options))
  given = {**options, **bias}
  # The eigenvalues of an orthogonal kernel lie on the circle, one of them near 1.
  near = [
    radius_at_zero(name, 24, "orthogonal", recurrent_gain=gain * share, **given)
    for share in (0.9, 1.0, 1.1)
  ]
  assert near[1] == pytest.approx(1, abs=0.005) and near[0] < 0.99 < 1.01 < near[2]


def test_gaussian_kernels_are_near_the_edge():
  # At finite H, the spectral radius of an Elman network is above 1: 1.042 on average at H = 256.
  found = [radius_at_zero("elman", 256, "gaussian", seed=seed) for seed in range(3)]
  assert np.mean(found) == pytest.approx(1.042, abs=0.04)


def test_the_critical_gain_may_be_traced():
  gains = jax.jit(lambda b: critical_gain("lstm", forget_bias=b))(2.0)
  assert float(gains) == pytest.approx(4 / (1 + np.exp(2.0)), rel=1e-6)


def trunk(cell, depth=3, vocabulary_size=None):
  model = DeepRNN([make_cell(cell, H)] * depth, output_size=1, vocabulary_size=vocabulary_size)
  key = jax.random.key(3)
  if vocabulary_size is None:
    xs = 5 * jax.random.normal(key, (T, B, D)) + 1
  else:
    xs = jax.random.randint(key, (T, B), 0, vocabulary_size)
  return model.trunk(jax.jit(model.init)(key, xs), xs)


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_input_kernels_of_every_gate_are_orthogonal(cell):
  cells, params, _ = trunk(cell)
  new = jax.jit(functools.partial(orthogonal_inputs, cells))(params, jax.random.key(0))
  kernels = []
  for own, before in zip(new, params, strict=True):
    assert {name: a.shape for name, a in own.items()} == {n: a.shape for n, a in before.items()}
    np.testing.assert_array_equal(own["w_h"], before["w_h"])
    kernels += np.split(np.asarray(own["w_x"]), own["w_x"].shape[1] // H, axis=1)
  for kernel in kernels:
    rows = kernel if len(kernel) <= H else kernel.T
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-5)
  assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)  # all drawn alone


@pytest.mark.parametrize(("cell", "vocabulary_size"), [("elman", None), ("gru", None), ("lstm", 7)])
def test_pre_activations_have_unit_variance_in_every_layer(cell, vocabulary_size):
  cells, params, xs = trunk(cell, vocabulary_size=vocabulary_size)
  new = jax.jit(functools.partial(unit_variance, cells))(params, xs)
  ys = np.asarray(xs)
  if vocabulary_size is not None:
    ys = np.eye(vocabulary_size)[ys]
  for layer, before in zip(new, params, strict=True):
    assert np.var(ys @ np.asarray(layer["w_x"], float)) == pytest.approx(1, rel=1e-4)
    ratio = np.asarray(layer["w_x"]) / np.asarray(before["w_x"])
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
    # The plain loop over time, for the inputs of the next layer.
    model, carry, outputs = cells[0], cells[0].initial_carry((B,)), []
    for x in jnp.asarray(ys, float):
      drive = model.project(layer, x)
      carry = model.update(layer, carry, drive, model.recur(layer, carry))
      outputs.append(model.output(layer, carry, drive))
    ys = np.stack(outputs)


def test_a_layer_without_input_keeps_its_kernel():
  cells, params, xs = trunk("elman", 1)
  (new,) = unit_variance(cells, params, 0 * xs)
  np.testing.assert_array_equal(new["w_x"], params[0]["w_x"])


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda: critical_gain("minimalrnn"), ValueError, "Unknown cell with a critical gain"),
    (
      lambda: critical_gain("elman", activation="relu"),
      ValueError,
      "activation of elman must be tanh or linear for a critical gain, got relu",
    ),
    (
      lambda: critical_gain("mgu", reset="before"),
      ValueError,
      "reset of mgu must be after for a critical gain, got before",
    ),
    (
      lambda: critical_gain("lstm", chrono=10),
      ValueError,
      "chrono of lstm must be none for a critical gain, got 10",
    ),
    (lambda: critical_gain("lstm", forget_bias=np.nan), ValueError, "forget_bias must be finite"),
    (
      lambda: unit_variance([make_cell("elman", 2)], [{"w_h": jnp.eye(2)}], jnp.ones((1, 1, 2))),
      ValueError,
      r"params\[0\] must have an input kernel w_x, got \{'w_h'",
    ),
    (lambda: orthogonal_inputs([], [], jax.random.key(0)), ValueError, "at least one cell"),
    (
      lambda: orthogonal_inputs([make_cell("elman", 2)], [{"w_x": jnp.eye(2)}], 3),
      TypeError,
      "key must be a random key",
    ),
  ],
)
def test_errors_name_the_argument(call, error, message):
  with pytest.raises(error, match=message):
    call()
