"""Tests of the penalties: gradient flossing and the spectral radius, against closed forms."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import BidirectionalRNN, DeepRNN, make_cell
from rnn_jax.gradient_flow import flossing, lyapunov_spectrum
from rnn_jax.losses import squared_error
from rnn_jax.optimizers import make_optimizer
from rnn_jax.penalties import flossing_penalty, minimize, spectral_penalty, spectral_radius
from rnn_jax.tasks import Batch
from rnn_jax.training import TrainState, update

T, B, D, H = 40, 3, 2, 4


def draw(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def network(name, size=H, **options):
  """Returns (cell, random params) of one layer."""
  cell = make_cell(name, size, **options)
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  leaves, structure = jax.tree.flatten(shapes)
  return cell, structure.unflatten([0.6 * draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def batch_of(seed, num_steps=T, batch_size=B):
  xs, mask = draw(seed, num_steps, batch_size, D), jnp.ones((num_steps, batch_size), bool)
  return Batch(xs, draw(seed + 1, num_steps, batch_size, 1), mask)


# Gradient flossing.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("m", [1, 3, 4])
def test_value_and_gradient_of_flossing_for_a_scaled_orthogonal_recurrence(m):
  cell, params = network("elman", activation="linear")
  orthogonal, scale = np.linalg.qr(np.asarray(draw(9, H, H)))[0], 0.8

  @jax.value_and_grad
  def value(s):
    own = {**params, "w_h": s * orthogonal}
    return flossing([cell], [own], draw(0, T, B, D), num_exponents=m)[0]

  found, slope = jax.jit(value)(scale)
  # Every exponent is ln s, so F = m (ln s)².
  np.testing.assert_allclose(found, m * np.log(scale) ** 2, rtol=1e-10)
  np.testing.assert_allclose(slope, 2 * m * np.log(scale) / scale, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["elman", "gru", "lstm"])
def test_the_gradient_of_flossing_is_that_of_finite_differences(name):
  cell, params = network(name)
  xs, direction = draw(0, 10, B, D), jax.tree.map(lambda a: draw(a.size, *a.shape), params)

  @jax.jit
  def value(step):
    moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
    return flossing([cell], [moved], xs, num_exponents=2, skip=1)[0]

  size = 1e-5
  expected = (value(size) - value(-size)) / (2 * size)
  np.testing.assert_allclose(jax.grad(value)(0.0), expected, rtol=1e-6)


def test_flossing_averages_examples_and_has_one_value_a_layer():
  cell, params = network("elman")
  layers = [cell, cell], [params, {**params, "w_x": draw(5, H, H).astype(jnp.float32)}]
  params32 = jax.tree.map(lambda a: a.astype(jnp.float32), layers[1])
  xs = draw(0, T, B, D).astype(jnp.float32)
  values = flossing(layers[0], params32, xs, num_exponents=2)
  spectra = lyapunov_spectrum(layers[0], params32, xs, num_exponents=2)
  for value, exponents in zip(values, spectra, strict=True):
    np.testing.assert_allclose(value, np.mean(np.sum(np.square(exponents), axis=1)), rtol=1e-5)


@pytest.mark.usefixtures("optax_promotion")
def test_flossing_before_training_brings_exponents_to_zero():
  size, m = 16, 4
  model = DeepRNN([make_cell("elman", size, recurrent_gain=0.7)], output_size=1)
  params = jax.jit(model.init)(jax.random.key(0), batch_of(0).xs)["params"]

  @jax.jit
  def spectrum(params):
    trunk = model.trunk({"params": params}, draw(100, T, B, D).astype(jnp.float32))
    return jnp.mean(lyapunov_spectrum(*trunk, num_exponents=m)[0], axis=0)

  @jax.jit
  def floss(params, num_steps):
    def batch_at(i):
      key = jax.random.fold_in(jax.random.key(1), i)
      return batch_of(0)._replace(xs=jax.random.normal(key, (T, B, D)))

    penalty = flossing_penalty(model, 1.0, m)
    return minimize(penalty, make_optimizer("adam", 0.01), params, batch_at, num_steps)

  before, after = spectrum(params), spectrum(floss(params, 100))
  assert (before < -0.5).all() and (jnp.abs(after) < 0.12).all()
  jax.tree.map(np.testing.assert_array_equal, floss(params, 0), params)


# The spectral radius.


@pytest.mark.parametrize("size", [16, 64])
def test_the_spectral_radius_is_that_of_the_eigenvalues(size):
  for seed in range(3):
    kernel = draw(seed, size, size) / np.sqrt(size)
    expected = np.abs(np.linalg.eigvals(np.asarray(kernel, np.float64))).max()
    assert float(spectral_radius(kernel)) == pytest.approx(expected, abs=0.003)


@pytest.mark.usefixtures("x64")
def test_value_and_gradient_of_the_spectral_radius_with_a_dominant_eigenvalue():
  values, axes = np.array([-1.3, 0.9, 0.5, 0.2]), np.asarray(draw(3, 4, 4))
  kernel = axes @ np.diag(values) @ np.linalg.inv(axes)
  found, grad = jax.jit(jax.value_and_grad(spectral_radius))(jnp.asarray(kernel))
  np.testing.assert_allclose(found, 1.3, rtol=1e-10)
  # dλ = y dW x for the right and left eigenvectors x and y with y x = 1, and d|λ| = −dλ here.
  x, y = axes[:, 0], np.linalg.inv(axes)[0]
  np.testing.assert_allclose(grad, -np.outer(y, x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("angle", [0.1, 1.0, np.pi / 2])
def test_the_spectral_radius_of_a_complex_pair(angle):
  turn = 0.7 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  assert float(spectral_radius(jnp.asarray(turn))) == pytest.approx(0.7, rel=1e-5)


def test_the_spectral_radius_of_nothing_is_zero_with_a_finite_derivative():
  for kernel in (jnp.zeros((3, 3)), jnp.eye(3, k=1)):
    value, grad = jax.value_and_grad(spectral_radius)(kernel)
    assert 0 <= value < 1e-6
    assert np.isfinite(grad).all()


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("name", ["elman", "lstm"])
def test_training_with_the_spectral_penalty_brings_every_gates_radius_to_one(name):
  model = DeepRNN([make_cell(name, 8, recurrent_gain=0.4)] * 2, output_size=1)
  batch, optimizer = batch_of(0, 10), make_optimizer("sgd", 0.1)
  batch = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype != bool else a, batch)
  params = jax.jit(model.init)(jax.random.key(0), batch.xs)["params"]
  state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  @jax.jit
  def train(state, weight):
    penalty = spectral_penalty(model, weight)

    def body(state, _):
      state, _, metrics = update(model, optimizer, squared_error, state, batch, penalty=penalty)
      return state, metrics.loss

    return jax.lax.scan(body, state, None, length=60)

  def radii(params):
    kernels = [np.asarray(params[f"layers_{i}"]["cell"]["w_h"], np.float64) for i in (0, 1)]
    blocks = [block for w in kernels for block in np.split(w, w.shape[1] // 8, axis=1)]
    return np.array([np.abs(np.linalg.eigvals(block)).max() for block in blocks])

  value = float(spectral_penalty(model, 3.0)(params, batch))
  assert value == pytest.approx(3 * np.sum((radii(params) - 1) ** 2), rel=1e-3)
  (pulled, losses), (free, plain) = train(state, 1.0), train(state, 0.0)
  np.testing.assert_allclose(losses[0], plain[0], rtol=1e-6)
  np.testing.assert_allclose(radii(pulled.params), 1, atol=0.05)
  assert (radii(free.params) < 0.8).all()


# Errors.

MODEL = DeepRNN([make_cell("elman", H)], output_size=1)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("make", "error", "message"),
  [
    (lambda: flossing_penalty(MODEL, -1.0), ValueError, "weight must be at least 0, got -1.0"),
    (lambda: flossing_penalty(MODEL, 1.0, 0), ValueError, "num_exponents must be at least 1"),
    (lambda: flossing_penalty("x", 1.0), TypeError, "model must have the methods trunk"),
    (
      lambda: flossing_penalty(BidirectionalRNN([make_cell("gru", H)]), 1.0),
      TypeError,
      "model must have the methods trunk",
    ),
    (lambda: spectral_penalty(MODEL, np.nan), ValueError, "weight must be finite, got nan"),
    (lambda: spectral_radius(jnp.zeros((2, 3))), ValueError, r"kernel must be \[H, H\], got"),
    (
      lambda: minimize(None, make_optimizer("sgd", 0.1), {}, batch_of, 1),
      TypeError,
      "penalty must be a function",
    ),
    (
      lambda: minimize(lambda p, b: 0.0, make_optimizer("sgd", 0.1), {}, batch_of, -1),
      ValueError,
      "num_steps must be at least 0, got -1",
    ),
  ],
)
def test_errors_name_the_argument(make, error, message):
  with pytest.raises(error, match=message):
    make()


def test_penalties_refuse_batches_and_cells_that_they_do_not_fit():
  xs = jnp.zeros((T, B, D))
  batch = Batch(xs, jnp.zeros((T, B, 1)), jnp.ones((T, B), bool))
  model = DeepRNN([make_cell("mingru", H)], output_size=1)
  init = functools.partial(jax.eval_shape, model.init, jax.random.key(0), xs)
  with pytest.raises(ValueError, match="plain recurrent kernel, got none in cell 0"):
    jax.eval_shape(spectral_penalty(model, 1.0), init()["params"], batch)
  ragged = batch._replace(lengths=jnp.full(B, 2, jnp.int32))
  with pytest.raises(ValueError, match="batch must have no lengths"):
    jax.eval_shape(flossing_penalty(model, 1.0), init()["params"], ragged)
