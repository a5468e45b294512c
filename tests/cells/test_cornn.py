"""The coupled oscillatory network: its equation, and its gradient without damping."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from golden import H, check

from rnn_jax import make_cell, step
from rnn_jax.cells import CornnCarry


def reference(params, carry, x):
  h, z = carry
  forced = np.tanh(x @ params["w_x"] + h @ params["w_h"][:H] + z @ params["w_h"][H:] + params["b"])
  z = z + 0.2 * (forced - 1.5 * h - 0.8 * z)
  h = h + 0.2 * z
  return CornnCarry(h, z), h


def test_cell_matches_its_equation(x64):
  check(make_cell("cornn", H, delta=0.2, gamma=1.5, epsilon=0.8), reference)


def test_all_params_are_initialized_uniformly_within_one_bound():
  params = make_cell("cornn", 60).init(jax.random.key(0), 40)
  bound = 1 / np.sqrt(40 + 2 * 60)
  for values in params.values():
    assert 0.9 * bound < np.abs(values).max() <= bound
    assert values.min() < 0 < values.max()


def test_an_undamped_uncoupled_gradient_rotates_without_decay(x64):
  # The step is symplectic, so its eigenvalues e^{±iα} lie on the unit circle. α is close to Δ√γ,
  # the phase that an oscillator of frequency √γ advances in one step.
  cell = make_cell("cornn", 1, delta=0.1, gamma=4, epsilon=0)
  params = {"w_x": jnp.ones((1, 1)), "w_h": jnp.zeros((2, 1)), "b": jnp.zeros(1)}
  drive = cell.project(params, jnp.ones((1, 1)))
  jacobian = jax.jacrev(lambda c: step(cell, params, c, drive))(cell.initial_carry((1,)))
  found = np.linalg.eigvals(np.array(jacobian).reshape(2, 2))
  angle = 2 * np.arcsin(0.1 * np.sqrt(4) / 2)
  np.testing.assert_allclose(np.sort(np.angle(found)), [-angle, angle], rtol=1e-12)
  np.testing.assert_allclose(np.abs(found), 1, rtol=1e-14)
