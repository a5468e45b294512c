"""The Legendre memory unit: its equation, the polynomials in its memory, and its Jacobian."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import D, H, check, draw
from scipy import signal, special

from rnn_jax import make_cell, step
from rnn_jax.cells import LMUCarry
from rnn_jax.cells.lmu import legendre_memory

ORDER, THETA = 5, 12.0


def discretized(order, theta):
  """Returns the discretized A and B, written by loops and discretized by SciPy."""
  a, b = np.zeros((order, order)), np.zeros((order, 1))
  for i in range(order):
    b[i] = (2 * i + 1) * (-1) ** i
    for j in range(order):
      a[i, j] = (2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1))
  system = (a / theta, b / theta, np.ones((1, order)), np.zeros((1, 1)))
  return signal.cont2discrete(system, 1.0)[:2]


def lmu(params, carry, x):
  h, m = carry
  a, b = discretized(ORDER, THETA)
  u = x @ params["w_x"][:, :1] + h @ params["w_h"][:, :1] + m @ params["e_m"][:, None]
  m = m @ a.T + u @ b.T
  h = np.tanh(x @ params["w_x"][:, 1:] + h @ params["w_h"][:, 1:] + m @ params["w_m"])
  return LMUCarry(h, m), h


def test_cell_matches_its_equation(x64):
  check(make_cell("lmu", H, order=ORDER, theta=THETA), lmu)


def remembered(inputs, order, theta):
  """Returns the memory after inputs that the memory alone reads."""
  a, b = legendre_memory(order, theta)
  m = np.zeros(order)
  for u in inputs:
    m = m @ a + u * b
  return m


def test_the_memory_of_a_constant_is_the_first_polynomial():
  np.testing.assert_allclose(remembered(np.full(500, 3.0), 6, 20.0), [3, 0, 0, 0, 0, 0], atol=1e-8)


def test_the_memory_of_a_ramp_is_the_ramp():
  # On the window, t − r θ = (t − θ/2) L_0 − θ/2 L_1(2 r − 1). An input that is held for a step lags
  # half a step behind the ramp.
  m = remembered(np.arange(600.0), 6, 50.0)
  np.testing.assert_allclose(m, [599.5 - 25, -25, 0, 0, 0, 0], atol=0.05)


def test_the_memory_decodes_the_window_by_legendre_polynomials():
  def u(time):
    return np.sin(time / 17) + 0.3 * np.cos(time / 29)

  m = remembered(u(np.arange(400.0)), 12, 100.0)
  r = np.linspace(0, 1, 21)
  decoded = sum(m[i] * special.eval_legendre(i, 2 * r - 1) for i in range(12))
  np.testing.assert_allclose(decoded, u(399.5 - 100 * r), atol=2e-3)


@pytest.mark.parametrize(("order", "theta"), [(1, 1.0), (16, 100.0), (64, 200.0)])
def test_eigenvalues_of_the_memory_are_inside_the_unit_circle(order, theta):
  assert np.abs(np.linalg.eigvals(legendre_memory(order, theta)[0])).max() < 1


def test_the_step_jacobian_has_the_blocks_of_the_docstring(x64):
  cell = make_cell("lmu", H, order=ORDER, theta=THETA)
  random = np.random.default_rng(0)
  params = draw(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D, jnp.float64)), 0.7)
  carry = draw(random, cell.initial_carry((), jnp.float64), 1)
  prepared = cell.prepare(params)
  drive = cell.project(prepared, random.standard_normal(D))

  @jax.jit
  def run(carry):
    return step(cell, prepared, carry, drive), jax.jacrev(
      lambda carry: step(cell, prepared, carry, drive)
    )(carry)

  new, rows = run(carry)
  a, b = discretized(ORDER, THETA)
  e_h, w_h = params["w_h"][:, :1], params["w_h"][:, 1:]
  memory = a.T + params["e_m"][:, None] @ b.T
  slope = np.diag(1 - new.hidden**2)
  blocks = (
    (rows.memory.memory, memory),
    (rows.memory.hidden, e_h @ b.T),
    (rows.hidden.memory, memory @ params["w_m"] @ slope),
    (rows.hidden.hidden, (w_h + e_h @ b.T @ params["w_m"]) @ slope),
  )
  for ours, expected in blocks:
    np.testing.assert_allclose(ours.T, expected, atol=1e-13)


def test_initial_params_are_those_of_the_paper():
  params = make_cell("lmu", 300, order=100).init(jax.random.key(0), 50)
  for name, size in (("w_x", 50), ("w_h", 300)):
    assert 0.8 < np.abs(params[name][:, 0]).max() / np.sqrt(3 / size) <= 1
    np.testing.assert_allclose(np.var(params[name][:, 1:]), 2 / (size + 300), rtol=0.05)
  np.testing.assert_allclose(np.var(params["w_m"]), 2 / 400, rtol=0.05)
  np.testing.assert_array_equal(params["e_m"], np.zeros(100))


def test_invalid_options_are_refused():
  with pytest.raises(ValueError, match="order must be at least 1, got 0"):
    make_cell("lmu", 4, order=0)
  with pytest.raises(ValueError, match="theta must be greater than 0, got -1"):
    make_cell("lmu", 4, theta=-1)
