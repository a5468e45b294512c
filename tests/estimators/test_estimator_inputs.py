"""Estimators: names, dtypes, cells whose params never reach the carry, and rejected arguments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimated import KEY, draw, errors_of, loss, problem

from rnn_jax import make_cell
from rnn_jax.estimators import (
  artbp,
  bptt,
  estimator_bias,
  estimator_name,
  fptt,
  h_detach,
  kf_rtrl,
  make_estimator,
  rflo,
  rtrl,
  snap,
  tbptt,
  uoro,
)
from rnn_jax.estimators.uoro import balance


@pytest.mark.parametrize(
  ("name", "full"),
  [
    ("bptt", "bptt"),
    ("snap", "snap1"),
    ("uoro1000000", "uoro1000000"),
    ("artbp0.00001", "artbp0.00001"),
    ("artbp.12345678", "artbp0.12345678"),
    ("h_detach", "h_detach0.25"),
  ],
)
def test_full_names_are_parsed_to_the_same_estimator(name, full):
  assert estimator_name(name) == full
  assert estimator_name(full) == full
  assert make_estimator(full) is make_estimator(name)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("rtrl3", "estimator rtrl takes no number"),
    ("artbp1.2.3", "must be followed by a number"),
    ("h_detach2", "probability must be at most 1"),
    ("snap0", "num_steps must be at least 1"),
    ("nothing", "Unknown estimator"),
  ],
)
def test_other_names_are_rejected(name, message):
  with pytest.raises(ValueError, match=message):
    make_estimator(name)


@pytest.mark.parametrize(
  "rule", [tbptt(2), artbp(0.3), h_detach(0.5), uoro(), snap(1), rflo(), kf_rtrl()]
)
def test_params_of_another_precision_than_the_default_keep_it(rule, x64):
  cell, params, xs = problem("gru")
  given = params, xs, draw(5, 5, 2, 3)
  params, xs, errors = jax.tree.map(lambda a: a.astype(jnp.float32), given)
  shares = rule.shares(cell, params, xs, errors, KEY, num_lags=3)
  assert {leaf.dtype for leaf in jax.tree.leaves(shares)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("rule", [bptt(), h_detach(0.0), rtrl(), fptt()])
def test_half_precision_adds_up_the_steps_in_float32(rule):
  """In bfloat16, a sum of equal numbers stops at 256 times the number."""
  cell, params, xs = problem("elman", num_steps=1500)
  errors = jnp.ones((1500, 2, 3))

  def estimate(dtype):
    return rule.shares(cell, *jax.tree.map(lambda a: a.astype(dtype), (params, xs, errors)), KEY)

  wide, half = estimate(jnp.float32), estimate(jnp.bfloat16)
  assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(jnp.bfloat16)}
  np.testing.assert_allclose(half["b"].astype(float), wide["b"], rtol=0.03)


def test_estimator_bias_compares_layers_far_below_the_others(x64):
  cells = [make_cell("elman", 3), make_cell("elman", 2)]
  xs, key, params = draw(0, 4, 2, 2), KEY, []
  for cell, size in zip(cells, (2, 3), strict=True):
    params.append(cell.init(key, size))
  # A tiny input kernel makes the gradient of the layer below tiny.
  params[1] = {**params[1], "w_x": 1e-200 * params[1]["w_x"]}
  found = jax.jit(
    lambda: estimator_bias(cells, params, xs, loss, estimator=tbptt(2), key=key, num_lags=3)
  )()
  lower = found.layers[0]
  assert 0 < lower.cosine < 1 and 0 < lower.relative_error < 2
  for leaf in found.leaves[0].values():
    assert np.isfinite([leaf.cosine, leaf.bias]).all()


def test_params_that_only_the_output_reads_have_a_share_of_lag_0(x64):
  cell = make_cell("elman", 2)

  def project(params, xs, key=None):
    del params, key
    return xs

  own = cell._replace(
    init=lambda key, input_size, dtype=float: {"w_y": jnp.ones(2, dtype)},
    project=project,
    recur=lambda params, h: 0.5 * h,
    output=lambda params, h, drive: h * params["w_y"].reshape((1,) * (h.ndim - 1) + (2,)),
    recurrent_kernel=None,
    output_is_carry=False,
  )
  params, xs = {"w_y": jnp.array([0.5, 2.0])}, draw(1, 5, 2, 2)
  errors = errors_of(own, params, xs)
  for rule in (bptt(), rtrl(), snap(1)):
    of_lags = rule.shares(own, params, xs, errors, KEY, num_lags=3)["w_y"]
    _, whole = rule(own, params, xs, loss, KEY)
    np.testing.assert_allclose(of_lags[0], whole["w_y"], rtol=1e-12)
    np.testing.assert_array_equal(of_lags[1:], 0)


def test_balance_does_not_square_norms_out_of_range():
  a, b = jnp.full(4, 1e-25, jnp.float32), jnp.full(4, 1e-23, jnp.float32)
  np.testing.assert_allclose(balance(a, b), 0.1, rtol=1e-5)
  assert balance(jnp.zeros(4), b) == 1


def test_arguments_that_forward_estimators_do_not_have_are_named(unchecked_types):
  cell, params, xs = problem("gru")

  def run(rule, **time):
    return rule.unroll(cell, params, xs, estimator_key=KEY, **time)

  for time in ({"truncation": 0}, {"clip_carry": 0.0}, {"gradient_scale": np.ones(5)}):
    (name,) = time
    with pytest.raises(ValueError, match=f"{name} must be left out with a forward estimator"):
      run(rtrl(), **time)
  with pytest.raises(ValueError, match="estimator_key must be a random key"):
    uoro().unroll(cell, params, xs, estimator_key=None)
  for time in ({"lengths": np.array([3, 5])}, {"mask": np.ones((5, 2), bool)}):
    (name,) = time
    with pytest.raises(ValueError, match=f"{name} must be None with fptt, got (int|bool)"):
      run(fptt(), **time)
  other, own, inputs = problem("peephole_lstm")
  with pytest.raises(ValueError, match="cell must have a plain recurrent kernel w_h"):
    kf_rtrl()(other, own, inputs, loss, KEY)
