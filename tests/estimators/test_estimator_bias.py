"""Tests of `estimator_bias`: closed forms, and its own definition evaluated by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimated import KEY, draw, gradient, loss, problem, shares, truth

from rnn_jax import make_cell
from rnn_jax.cells import stack
from rnn_jax.estimators import artbp, bptt, estimator_bias, h_detach, rflo, rtrl, tbptt, uoro

pytestmark = pytest.mark.usefixtures("x64")


def vector(tree):
  return np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])


def compare(cells, params, xs, estimator, **options):
  return jax.jit(
    lambda params: estimator_bias(cells, params, xs, loss, estimator=estimator, key=KEY, **options)
  )(params)


@pytest.mark.parametrize("rule", [bptt(), rtrl()], ids=["bptt", "rtrl"])
def test_exact_rules_have_cosine_1_and_keep_every_share(rule):
  cell, params, xs = problem("gru")
  found = compare([cell], [params], xs, rule, num_lags=5)
  for one in (found.total, found.layers[0], *found.leaves[0].values()):
    np.testing.assert_allclose(one.cosine, 1, rtol=1e-12)
    np.testing.assert_allclose([one.relative_error, one.bias], 0, atol=1e-12)
    assert one.standard_deviation == 0
  np.testing.assert_allclose(found.lags[0].kept, 1, rtol=1e-10)
  true = shares(bptt(), cell, params, xs, 5)
  norms = [np.linalg.norm(vector(jax.tree.map(lambda a, k=k: a[k], true))) for k in range(5)]
  np.testing.assert_allclose(found.lags[0].log10_norm, np.log10(norms), rtol=1e-10)


def test_truncation_keeps_the_lags_below_k_in_the_share_of_steps_that_see_them():
  # A scalar linear network with inputs and errors of 1: each step's share of a lag is the same.
  # Step t reaches back t mod k steps. Of the T − j steps that have lag j, those with t mod k ≥ j
  # keep it.
  cell = make_cell("elman", 1, activation="linear")
  params = {"w_x": jnp.ones((1, 1)), "w_h": jnp.full((1, 1), 0.5), "b": jnp.zeros(1)}
  num_steps, k = 12, 4
  # Only the shares of b do not depend on the time step; w_x has inputs 1, so the same; w_h is off.
  fixed = cell._replace(
    recur=lambda p, h: (
      jax.lax.stop_gradient(p["w_h"][0, 0]) * h + jnp.expand_dims(p["b"], range(h.ndim - 1))
    )
  )
  found = jax.jit(
    lambda: estimator_bias(
      [fixed],
      [params],
      jnp.ones((num_steps, 1, 1)),
      jnp.sum,
      estimator=tbptt(k),
      key=KEY,
      num_lags=num_steps,
    )
  )()
  steps = np.arange(num_steps)
  kept = [np.sum((steps >= j) & (steps % k >= j)) / (num_steps - j) for j in range(num_steps)]
  np.testing.assert_allclose(found.lags[0].kept, kept, atol=1e-12)


def test_h_detach_keeps_a_lag_with_the_probability_that_no_step_detached_it():
  cell, params, xs = problem("elman", num_steps=4, batch_size=8)
  found = compare([cell], [params], xs, h_detach(0.4), num_lags=4, num_keys=2000)
  np.testing.assert_allclose(found.lags[0].kept, 0.6 ** np.arange(4), atol=0.03)
  local = compare([cell], [params], xs, rflo(), num_lags=4)
  np.testing.assert_allclose(local.lags[0].kept, [1, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize("rule", [uoro(), artbp(0.3)], ids=["uoro", "artbp"])
def test_the_comparison_is_that_of_its_definition(rule):
  cell, params, xs = problem("elman")
  n = 60
  found = compare([cell], [params], xs, rule, num_keys=n, num_lags=3)
  keys = jax.random.split(KEY, n)
  own = jax.vmap(lambda key: rule(cell, params, xs, loss, jax.random.fold_in(key, 0))[1])(keys)
  for name, one in (*found.leaves[0].items(), ("total", found.total)):
    pick = (lambda tree: tree) if name == "total" else (lambda tree, name=name: tree[name])
    true = vector(pick(truth(cell, params, xs)))
    each = np.stack([vector(pick(jax.tree.map(lambda a, i=i: a[i], own))) for i in range(n)])
    scale = np.linalg.norm(true)
    cosines = each @ true / np.linalg.norm(each, axis=1) / scale
    np.testing.assert_allclose(one.cosine, cosines.mean(), rtol=1e-10)
    error = np.sqrt(np.mean(np.sum((each - true) ** 2, axis=1))) / scale
    np.testing.assert_allclose(one.relative_error, error, rtol=1e-10)
    np.testing.assert_allclose(one.bias, np.linalg.norm(each.mean(0) - true) / scale, rtol=1e-10)
    spread = np.sqrt(each.var(axis=0, ddof=1).sum()) / scale
    np.testing.assert_allclose(one.standard_deviation, spread, rtol=1e-10)
  assert np.isnan(compare([cell], [params], xs, rule).total.standard_deviation)


def test_layers_follow_the_rule_by_themselves_and_a_stack_as_a_whole():
  cells = [make_cell("elman", 3), make_cell("gru", 2)]
  xs = draw(0, 5, 2, 2)
  params = stack(cells).init(KEY, 2)
  found = compare(cells, params, xs, tbptt(2), num_lags=5)
  # The gradient is that of `unroll(truncation=2)` in both layers.
  whole, cut = (vector(gradient(rule, stack(cells), params, xs)) for rule in (bptt(), tbptt(2)))
  cosine = whole @ cut / np.linalg.norm(whole) / np.linalg.norm(cut)
  np.testing.assert_allclose(found.total.cosine, cosine, rtol=1e-10)
  assert len(found.layers) == len(found.leaves) == len(found.lags) == 2
  as_one = compare([stack(cells)], [params], xs, tbptt(2), num_lags=5)
  np.testing.assert_allclose(as_one.total.cosine, cosine, rtol=1e-10)
  exact = compare(cells, params, xs, rtrl(), num_lags=5)
  np.testing.assert_allclose([lags.kept for lags in exact.lags], 1, rtol=1e-8)


def test_errors(unchecked_types):
  cell, params, xs = problem("elman")
  for options, error, match in (
    ({"estimator": "uoro"}, TypeError, "estimator must be an Estimator"),
    ({"estimator": uoro(), "num_keys": 0}, ValueError, "num_keys must be at least 1"),
    ({"estimator": uoro(), "num_lags": 1.5}, TypeError, "num_lags must be an integer"),
  ):
    with pytest.raises(error, match=match):
      estimator_bias([cell], [params], xs, loss, key=KEY, **options)
