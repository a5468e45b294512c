"""Adaptive truncation, on lag profiles whose best truncation k can be computed by hand."""

from __future__ import annotations

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import make_cell
from rnn_jax.gradient_flow import choose_truncation, lag_profile

T = 60
LAGS = np.arange(T)
choose = jax.jit(choose_truncation)


def by_hand(phi, beta, end, tolerance):
  """Returns the best truncation k, found by its definition in a loop.

  Args:
    phi: gradient norms φ_k at the measured lags, [T].
    beta: ratio of successive φ in the geometric tail that continues φ beyond the measured lags.
    end: φ at lag T, the first value of that tail.
    tolerance: the largest acceptable ratio of the part that is cut off to the part that is kept.
  """
  for k in range(1, len(phi)):
    lacking = phi[k:].sum() + end / (1 - beta)
    if lacking <= tolerance * phi[:k].sum():
      return k
  return len(phi)


@pytest.mark.parametrize("beta", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("tolerance", [0.5, 0.1, 0.01])
def test_geometric_decay_has_a_closed_form(x64, beta, tolerance):
  # φ_k = c β^k has the bias δ(k) = β^k / (1 − β^k) for every c, even if c is far outside the float
  # range. k is the smallest integer with δ(k) ≤ tolerance.
  k = math.ceil(math.log(tolerance / (1 + tolerance)) / math.log(beta))
  for height in (-900.0, 0.0, 900.0):
    profile = height + np.log10(beta) * LAGS
    assert choose(profile, tolerance) == k
    assert choose(jnp.asarray(profile, jnp.float32), jnp.float32(tolerance)) == k


def test_the_line_is_fitted_to_later_lags_but_all_measured_lags_are_summed(x64):
  # The profile is flat up to lag 20, then decays geometrically. The fit starts at lag 30.
  phi = np.where(LAGS < 20, 1.0, 0.8 ** (LAGS - 20.0))
  for tolerance in (0.5, 0.1, 0.01):
    expected = by_hand(phi, 0.8, 0.8 ** (T - 20.0), tolerance)
    assert choose(np.log10(phi), tolerance) == expected
  assert 20 < by_hand(phi, 0.8, 0.8**40.0, 0.1) < 40


@pytest.mark.parametrize(
  "profile",
  [
    np.zeros(T),
    0.01 * LAGS,
    np.where(LAGS == 3, np.nan, -0.1 * LAGS),
    np.where(LAGS == 3, np.inf, -0.1 * LAGS),
    np.full(T, -np.inf),
    -1e-4 * LAGS,  # decays, but too slowly for any k < T
  ],
  ids=["flat", "growing", "nan", "inf", "zero", "slow"],
)
def test_k_is_the_number_of_lags_if_no_shorter_truncation_suffices(x64, profile):
  assert choose(profile, 0.1) == T


def test_lags_with_a_norm_of_zero_are_left_out(x64):
  # The gradient is zero from lag 5 on, as it is after a reset of the carry.
  profile = np.where(LAGS < 5, -0.01 * LAGS, -np.inf)
  assert [int(choose(profile, tolerance)) for tolerance in (1e-9, 0.4)] == [5, 4]
  holes = np.where(LAGS % 2 == 1, -np.inf, -0.1 * LAGS)
  phi = 10.0**holes
  assert choose(holes, 0.1) == by_hand(phi, 10**-0.1, 10 ** (-0.1 * T), 0.1)


def test_leaves_form_one_vector_and_examples_are_averaged(x64):
  random = np.random.default_rng(0)
  layers = [
    random.standard_normal((2, T, 3)) * 0.1 - np.array(rate) * LAGS[:, None]
    for rate in ([[[0.2]], [[0.1]]], [[[0.05]], [[0.15]]])
  ]
  squares = sum(10 ** (2 * leaf) for layer in layers for leaf in layer)
  phi = np.log10(np.sqrt(squares).mean(axis=-1))
  profile = [tuple(layer) for layer in layers]
  got = [int(choose(profile, tolerance)) for tolerance in (0.3, 0.03)]
  assert got == [int(choose(phi, tolerance)) for tolerance in (0.3, 0.03)]
  assert got[0] < got[1] < T


def test_a_contracting_network_has_the_k_of_its_eigenvalue(x64):
  # h_t = ½ h_{t−1} + x_t w_x, so φ_k = 2^-k exactly.
  cell = make_cell("elman", 3, activation="linear")
  params = {"w_x": jnp.ones((2, 3)), "w_h": 0.5 * jnp.eye(3), "b": jnp.zeros(3)}

  @jax.jit
  def chosen(xs, tolerance):
    return choose_truncation(lag_profile([cell], [params], xs, lambda y: y[:, 0]), tolerance)

  # The bias δ(k) = 2^-k / (1 − 2^-k) is 1/15 at k = 4 and 1/31 at k = 5.
  for tolerance, k in ((0.1, 4), (0.05, 5), (0.03, 6)):
    assert chosen(jnp.ones((12, 2, 2)), tolerance) == k


def test_one_program_serves_every_tolerance_and_can_be_vmapped(x64):
  profiles = -np.array([[0.1], [0.2], [0.0]]) * LAGS

  @jax.jit
  @chex.assert_max_traces(n=1)
  def run(profiles, tolerance):
    return jax.vmap(choose_truncation, (0, None))(profiles, tolerance)

  for tolerance in (0.1, 0.2):
    np.testing.assert_array_equal(
      run(profiles, tolerance), [int(choose(profile, tolerance)) for profile in profiles]
    )


@pytest.mark.parametrize(
  ("profile", "tolerance", "error", "message"),
  [
    (LAGS, 0, ValueError, "tolerance must be greater than 0, got 0"),
    (LAGS, 1.0, ValueError, "tolerance must be below 1, got 1.0"),
    (LAGS, math.nan, ValueError, "tolerance must be finite, got nan"),
    (LAGS, "0.1", TypeError, "tolerance must be a number, got '0.1'"),
    (np.zeros((1, 3)), 0.1, ValueError, "profile must have at least two lags, got 1"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_arguments_are_named(profile, tolerance, error, message):
  with pytest.raises(error, match=message):
    functools.partial(choose_truncation, profile, tolerance)()
