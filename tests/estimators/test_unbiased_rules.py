"""Random gradient estimators: means over 10⁴ keys, variances, and shares of lags."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimated import KEY, distance, errors_of, loss, many, problem, truth

from rnn_jax import make_cell
from rnn_jax.cells import stack
from rnn_jax.estimators import artbp, h_detach, kf_rtrl, uoro

pytestmark = pytest.mark.usefixtures("x64")

NUM_KEYS = 10_000


def deviations(estimates, exact):
  """Returns (mean − exact) / standard error, of all entries that are random."""
  found = []
  for a, b in zip(jax.tree.leaves(estimates), jax.tree.leaves(exact), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    error = a.std(0) / np.sqrt(len(a))
    random = error > 1e-12 * np.abs(b)
    np.testing.assert_allclose(a.mean(0)[~random], b[~random], rtol=1e-9)
    found.append(((a.mean(0) - b)[random] / error[random]).ravel())
  return np.concatenate(found)


@pytest.mark.parametrize("name", ["elman", "gru", "lstm"])
@pytest.mark.parametrize("rule", [artbp(0.3), uoro(), kf_rtrl()], ids=["artbp", "uoro", "kf_rtrl"])
def test_the_mean_over_keys_is_the_gradient(name, rule):
  cell, params, xs = problem(name, hidden_size=2, num_steps=4, batch_size=1)
  found = deviations(many(rule, cell, params, xs, NUM_KEYS), truth(cell, params, xs))
  assert len(found) >= 8
  # Entries are correlated, so their squares may deviate more than those of independent ones.
  assert np.abs(found).max() < 4.5
  assert np.sqrt(np.mean(found**2)) < 1.8


def test_a_biased_rule_fails_the_same_test():
  cell, params, xs = problem("lstm", hidden_size=2, num_steps=4, batch_size=1)
  found = deviations(many(h_detach(0.5), cell, params, xs, NUM_KEYS), truth(cell, params, xs))
  assert np.abs(found).max() > 20


def test_uoro_is_unbiased_for_a_stack():
  cell = stack([make_cell("elman", 2), make_cell("elman", 2)])
  params = cell.init(KEY, 2)
  _, _, xs = problem("elman", num_steps=4, batch_size=1)
  found = deviations(many(uoro(), cell, params, xs, NUM_KEYS), truth(cell, params, xs))
  assert np.abs(found).max() < 4.5


def test_more_samples_divide_the_variance_and_kronecker_products_have_less():
  cell, params, xs = problem("elman", hidden_size=4, num_steps=6, batch_size=1)

  def variance(rule):
    estimates = many(rule, cell, params, xs, 4000)
    return sum(float(jnp.sum(jnp.var(a, axis=0))) for a in jax.tree.leaves(estimates))

  one = variance(uoro())
  np.testing.assert_allclose(variance(uoro(4)), one / 4, rtol=0.2)
  assert variance(kf_rtrl()) < one


def test_a_probability_of_zero_truncates_nothing_and_one_program_serves_all():
  cell, params, xs = problem("gru")

  @jax.jit
  def estimate(probability, key):
    return artbp(probability)(cell, params, xs, loss, key)[1]

  assert distance(estimate(0.0, KEY), truth(cell, params, xs)) < 1e-14
  assert distance(estimate(0.5, KEY), artbp(0.5)(cell, params, xs, loss, KEY)[1]) < 1e-14


@pytest.mark.parametrize("rule", [artbp(0.4), uoro(2), kf_rtrl(), h_detach(0.5)])
def test_shares_of_lags_add_up_to_the_estimate(rule):
  cell, params, xs = problem("gru")
  errors = errors_of(cell, params, xs)
  of_lags = jax.jit(lambda: rule.shares(cell, params, xs, errors, KEY, num_lags=4))()
  _, whole = jax.jit(lambda: rule(cell, params, xs, loss, KEY))()
  assert distance(jax.tree.map(lambda a: a.sum(0), of_lags), whole) < 1e-12


@pytest.mark.parametrize("rule", [artbp(0.3), uoro(), kf_rtrl()], ids=["artbp", "uoro", "kf_rtrl"])
def test_every_share_of_an_unbiased_rule_is_unbiased(rule):
  from rnn_jax.estimators import bptt

  cell, params, xs = problem("elman", hidden_size=2, num_steps=4, batch_size=1)
  errors = errors_of(cell, params, xs)

  def of_lags(own, key):
    return own.shares(cell, params, xs, errors, key, num_lags=4)

  keys = jax.random.split(KEY, NUM_KEYS)
  estimates = jax.jit(jax.vmap(lambda key: of_lags(rule, key)))(keys)
  found = deviations(estimates, of_lags(bptt(), KEY))
  assert np.abs(found).max() < 4.5
