"""The antisymmetric network: its equation, its kernel, and its Jacobian at h = x = 0."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import D, H, check, sigmoid

from rnn_jax import make_cell, step


def reference(gated, params, h, x):
  kernel = params["u"] - params["u"].T - 0.2 * np.eye(H)
  drive = x @ params["w_x"] + params["b"]
  n, z = drive[:, :H] + h @ kernel, drive[:, -H:] + h @ kernel
  h = h + 0.3 * np.tanh(n) * (sigmoid(z) if gated else 1)
  return h, h


@pytest.mark.parametrize("gated", [False, True])
def test_cell_matches_its_equation(x64, gated):
  cell = make_cell("antisymmetric", H, gated=gated, epsilon=0.3, gamma=0.2)
  check(cell, lambda *given: reference(gated, *given))


def test_kernel_is_skew_symmetric_up_to_diffusion(x64):
  cell = make_cell("antisymmetric", 200, gamma=0.05, recurrent_gain=0.7)
  params = cell.init(jax.random.key(0), D)
  w_h = cell.prepare(params)["w_h"]
  np.testing.assert_allclose(w_h + w_h.T, -0.1 * np.eye(200), atol=1e-15)
  np.testing.assert_allclose(np.std(params["u"]), 0.7 / np.sqrt(200), rtol=0.02)
  assert not params["b"].any()


def test_eigenvalues_of_a_step_from_zero_share_their_real_part(x64):
  cell = make_cell("antisymmetric", H, epsilon=0.1, gamma=0.05)
  params = cell.prepare(cell.init(jax.random.key(0), D))
  drive = cell.project(params, jnp.zeros((1, D)))
  jacobian = jax.jacrev(lambda h: step(cell, params, h, drive)[0])(jnp.zeros((1, H)))[:, 0]
  np.testing.assert_allclose(np.linalg.eigvals(jacobian).real, 1 - 0.1 * 0.05, rtol=1e-12)
