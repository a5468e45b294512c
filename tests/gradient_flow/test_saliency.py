"""Saliency, against a closed form and against gradients over the whole text up to each step."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw

from rnn_jax import DeepRNN, make_cell, unroll
from rnn_jax.gradient_flow import saliency
from rnn_jax.losses import cross_entropy

V, H = 5, 3
TOKENS = np.random.default_rng(0).integers(0, V, 10)
NUM_STEPS = len(TOKENS) - 1
LINEAR = DeepRNN([make_cell("elman", H, activation="linear")], V, V)


def drawn(model, scale=0.6):
  """Returns random variables for a model."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))
  leaves, structure = jax.tree.flatten(shapes)
  return structure.unflatten([draw(i, *a.shape, scale=scale) for i, a in enumerate(leaves)])


def run(model, variables, reach, tokens=TOKENS):
  return jax.jit(functools.partial(saliency, model, reach=reach))(variables, tokens=tokens)


def test_linear_network_has_its_closed_form(x64):
  # With row vectors h_t = x_t W_x + h_{t−1} W_h + b, logits h_t W + b' and p_t = softmax(logits),
  # dL_t/dx_{t−k} = W_x W_hᵏ W (p_t − e), where e is the one-hot vector of the next token.
  variables = drawn(LINEAR)
  cell = jax.tree.map(np.asarray, variables["params"]["layers_0"]["cell"])
  head = jax.tree.map(np.asarray, variables["params"]["head"])
  reach, h = 4, np.zeros(H)
  expected = np.full((NUM_STEPS, reach), np.nan)
  for t in range(NUM_STEPS):
    h = cell["w_x"][TOKENS[t]] + h @ cell["w_h"] + cell["b"]
    logits = h @ head["kernel"] + head["bias"]
    error = np.exp(logits) / np.exp(logits).sum() - np.eye(V)[TOKENS[t + 1]]
    for k in range(min(reach, t + 1)):
      way = cell["w_x"] @ np.linalg.matrix_power(cell["w_h"], k) @ head["kernel"]
      expected[t, k] = np.linalg.norm(way @ error)
  np.testing.assert_allclose(run(LINEAR, variables, reach), expected, rtol=1e-12)


@pytest.mark.parametrize(("embedding_size", "reach"), [(None, NUM_STEPS + 2), (2, 3)])
def test_saliency_is_the_gradient_over_all_of_the_text_before(x64, embedding_size, reach):
  cells = [make_cell("lstm", H), make_cell("elman", H)]
  model = DeepRNN(cells, V, V, embedding_size, hidden_sizes=(4,))
  variables = drawn(model, scale=0.9)

  @jax.jit
  def gradients(variables):
    _, params, xs = model.trunk(variables, jnp.asarray(TOKENS[:-1, None]))

    def losses(xs):
      ys = xs
      for cell, cell_params in zip(cells, params, strict=True):
        _, ys = unroll(cell, cell_params, ys)
      logits = model.apply(variables, ys, method="readout")[:, 0]
      return cross_entropy(logits, jnp.asarray(TOKENS[1:]))

    return jax.jacobian(losses)(xs if embedding_size else jax.nn.one_hot(xs, V, dtype=float))

  norms = np.linalg.norm(gradients(variables)[:, :, 0], axis=-1)
  got = np.asarray(run(model, variables, reach))
  assert got.shape == (NUM_STEPS, reach)
  for t in range(NUM_STEPS):
    lags = np.arange(min(reach, t + 1))
    np.testing.assert_allclose(got[t, lags], norms[t, t - lags], rtol=1e-9)
    assert np.isnan(got[t, t + 1 :]).all()


def test_a_text_may_have_more_windows_than_are_computed_in_parallel():
  tokens = np.random.default_rng(1).integers(0, V, 140)
  variables = drawn(LINEAR)
  short, long = (run(LINEAR, variables, 2, t) for t in (tokens[:40], tokens))
  np.testing.assert_allclose(long[:39], short, rtol=1e-5)
  assert np.isfinite(long[1:]).all()


@pytest.mark.parametrize(
  ("model", "tokens", "reach", "error", "text"),
  [
    (LINEAR, TOKENS, 0, ValueError, "reach must be at least 1, got 0."),
    (LINEAR, TOKENS[:1], 2, ValueError, "tokens must be [T + 1] with T at least 1, got [1]."),
    (LINEAR, TOKENS / 2, 2, TypeError, "tokens must be an array of integers, got float"),
    (DeepRNN(LINEAR.cells, V), TOKENS, 2, ValueError, "model must read tokens and predict"),
    (LINEAR.clone(pooled=True), TOKENS, 2, ValueError, "model must read tokens and predict"),
    (LINEAR.clone(learned_carry=True), TOKENS, 2, ValueError, "learned_carry must be False"),
  ],
)
def test_wrong_arguments_are_named(model, tokens, reach, error, text):
  with pytest.raises(error) as caught:
    saliency(model, drawn(model if model.vocabulary_size else LINEAR), tokens, reach=reach)
  assert str(caught.value).startswith(text)


def test_half_precision_saliency_equals_that_of_the_same_params_in_float32():
  model = DeepRNN([make_cell("lstm", H)], V, V, 2)
  half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), drawn(model))
  found = run(model, half, 3)
  assert found.dtype == jnp.float32
  expected = run(model, jax.tree.map(lambda a: a.astype(float), half), 3)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
