"""Gradient estimators against NumPy, written from the papers for an Elman network.

h_t = tanh(x_t W_x + h_{t−1} W_h + b)        J_t = diag(1 − h_t²) W_hᵀ        L = Σ_t ⟨e_t, h_t⟩
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
from estimated import KEY, distance, draw

from rnn_jax import make_cell
from rnn_jax.estimators import artbp, rtrl, snap, uoro

pytestmark = pytest.mark.usefixtures("x64")

T, B, D, H = 9, 3, 4, 5


class Elman:
  """The network, its trajectory and its step derivatives, for one example."""

  def __init__(self, params, xs):
    self.w_x, self.w_h, self.b = (np.asarray(params[name]) for name in ("w_x", "w_h", "b"))
    self.xs, self.hs = np.asarray(xs), [np.zeros(H)]
    for x in self.xs:
      self.hs.append(np.tanh(x @ self.w_x + self.hs[-1] @ self.w_h + self.b))

  def jacobian(self, t):
    return (1 - self.hs[t + 1] ** 2)[:, None] * self.w_h.T

  def immediate(self, t):
    """Returns I_t [H, P], the params in the order b, w_h, w_x, each in row-major order."""
    gain, i_b = 1 - self.hs[t + 1] ** 2, np.zeros((H, H))
    i_h, i_x = np.zeros((H, H, H)), np.zeros((H, D, H))
    for unit in range(H):
      i_b[unit, unit] = gain[unit]
      i_h[unit, :, unit] = gain[unit] * self.hs[t]
      i_x[unit, :, unit] = gain[unit] * self.xs[t]
    return np.concatenate([i_b, i_h.reshape(H, -1), i_x.reshape(H, -1)], axis=1)


def vector(grads):
  return np.concatenate([np.ravel(grads[name]) for name in ("b", "w_h", "w_x")])


@pytest.fixture
def task():
  cell = make_cell("elman", H)
  params = {"w_x": draw(0, D, H), "w_h": draw(1, H, H), "b": draw(2, H)}
  return cell, params, draw(3, T, B, D, scale=1), draw(4, T, B, H, scale=1)


def estimate(rule, task, key=KEY, num_lags=1):
  cell, params, xs, errors = task
  run = jax.jit(lambda key: rule.shares(cell, params, xs, errors, key, num_lags=num_lags))
  return jax.vmap(vector_of)(run(key))


def vector_of(grads):
  return jax.numpy.concatenate([grads[name].ravel() for name in ("b", "w_h", "w_x")])


def by_example(task, gradient):
  """Returns Σ_b gradient(network of example b, its errors, b)."""
  _, params, xs, errors = task
  errors = np.asarray(errors)
  return sum(gradient(Elman(params, xs[:, b]), errors[:, b], b) for b in range(B))


@pytest.mark.parametrize("steps", [None, 1, 2])
def test_rtrl_and_snap(task, steps):
  def gradient(network, errors, b):
    # Which unit each param acts on: with n = 1 only this unit's row of M is kept.
    pattern = network.immediate(T - 1) != 0 if steps == 1 else 1
    influence, total = 0, 0
    for t in range(T):
      influence = network.jacobian(t) @ influence if t else 0
      influence = pattern * (influence + network.immediate(t))
      total = total + errors[t] @ influence
    return total

  rule = rtrl() if steps is None else snap(steps)
  assert distance(estimate(rule, task)[0], by_example(task, gradient)) < 1e-13


def test_uoro(task):
  keys = jax.random.split(KEY, (T, B))
  signs = np.array(
    [[np.asarray(jax.random.rademacher(key, (1, H), float))[0] for key in row] for row in keys]
  )

  def gradient(network, errors, b):
    s, theta, total = np.zeros(H), np.zeros(H + H * H + D * H), 0
    for t in range(T):
      nu, moved = signs[t, b], network.jacobian(t) @ s
      applied = nu @ network.immediate(t)
      norms = [np.linalg.norm(a) for a in (theta, moved, applied, nu)]
      rho_0 = np.sqrt(norms[0] / norms[1]) if t else 1
      rho_1 = np.sqrt(norms[2] / norms[3])
      s, theta = rho_0 * moved + rho_1 * nu, theta / rho_0 + applied / rho_1
      total = total + errors[t] @ s * theta
    return total

  assert distance(estimate(uoro(), task)[0], by_example(task, gradient)) < 1e-12


def test_artbp(task):
  passes = np.asarray(jax.random.bernoulli(KEY, 1 - 0.3, (T, B)))

  def gradient(network, errors, b):
    later, total = np.zeros(H), 0
    for t in reversed(range(T)):
      later = later + errors[t]
      total = total + later @ network.immediate(t)
      later = passes[t, b] / (1 - 0.3) * (later @ network.jacobian(t))
    return total

  assert not passes.all()
  assert distance(estimate(artbp(0.3), task)[0], by_example(task, gradient)) < 1e-13


@pytest.mark.parametrize("name", ["rtrl", "bptt"])
def test_shares_of_lags_are_the_products_of_jacobians(task, name):
  from rnn_jax.estimators import make_estimator

  def gradient(network, errors, b):
    found = []
    for lag in range(T):
      share = 0
      for s in range(lag, T):
        error = errors[s]
        for t in range(s, s - lag, -1):
          error = error @ network.jacobian(t)
        share = share + error @ network.immediate(s - lag)
      found.append(share)
    return np.array(found)

  wanted = by_example(task, gradient)
  got = estimate(make_estimator(name), task, num_lags=T)
  for lag in range(T):
    assert distance(got[lag], wanted[lag]) < 1e-12
  # The last of fewer shares holds all further lags.
  few = estimate(make_estimator(name), task, num_lags=4)
  assert distance(few[:3], wanted[:3]) < 1e-12
  assert distance(few[3], wanted[3:].sum(0)) < 1e-12
