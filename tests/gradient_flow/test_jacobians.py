"""Jacobians against closed forms and plain NumPy, within and far outside the float64 range."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_kinds import PLAIN
from networks import draw, large_carry, large_params

from rnn_jax import make_cell, step
from rnn_jax.gradient_flow import jacobian_norm, singular_values, step_jacobians
from rnn_jax.types import Cell, unprepared

pytestmark = pytest.mark.usefixtures("x64")
close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)

# Most tests use the same shapes, so that few programs are compiled.
T, B, D, H = 60, 2, 2, 3
NETWORKS = {name: make_cell(name, H) for name in PLAIN}
SIZE, DEPTH = 5, 1001
LINEAR = make_cell("elman", SIZE, activation="linear")


XS = 0.8 * np.random.default_rng(3).standard_normal((T, B, D))


def params_of(name, **changes):
  return {**large_params(NETWORKS[name], D), **changes}


def start_of(name):
  return large_carry(NETWORKS[name], B)


@functools.partial(jax.jit, static_argnums=0)
def jacobians_of(cell, params, xs, carry):
  return step_jacobians([cell], [params], xs, carries=[carry])[0]


@functools.partial(jax.jit, static_argnums=0)
def values_of(cell, params, xs, carry):
  return singular_values([cell], [params], xs, carries=[carry])[0]


@functools.partial(jax.jit, static_argnums=(0, 4))
def norm_of(cell, params, xs, key, num_probes):
  return jacobian_norm([cell], [params], xs, key=key, num_probes=num_probes)[0]


def linear(w_h, dtype=float):
  """Returns (cell, params, xs) of the linear recurrence h_t = h_{t−1} W, with W = `w_h`."""
  params = {"w_x": np.zeros((1, SIZE)), "w_h": w_h, "b": np.zeros(SIZE)}
  return LINEAR, jax.tree.map(lambda a: jnp.asarray(a, dtype), params), jnp.zeros((DEPTH, 1, 1))


def linear_values(w_h, dtype=float):
  cell, params, xs = linear(w_h, dtype)
  return values_of(cell, params, xs.astype(dtype), jnp.zeros((1, SIZE), dtype))[:, 0]


def linear_norms(w_h):
  """Returns `jacobian_norm` of the linear recurrence, estimated from the four `linear_probes`."""
  return norm_of(*linear(w_h), jax.random.key(0), 4)[:, 0]


def linear_probes():
  return np.asarray(jax.random.normal(jax.random.key(0), (4, 1, SIZE), float))[:, 0]


def orthogonal(seed):
  return np.linalg.qr(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))[0]


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


# Jacobians of single steps.


@pytest.mark.parametrize("name", PLAIN)
def test_step_jacobians_are_finite_differences_on_the_joint_carry(name):
  cell, params, start = NETWORKS[name], params_of(name), start_of(name)
  got = jacobians_of(cell, params, XS, start)
  leaves, structure = jax.tree.flatten(start)

  @jax.jit
  def moved(s, x):
    carry = structure.unflatten(jnp.split(s, len(leaves), axis=1))
    new = step(cell, params, carry, cell.project(params, x))
    return jnp.concatenate(jax.tree.leaves(new), axis=1)

  s = np.concatenate(leaves, axis=1)
  for t, x in enumerate(XS[:3]):
    for j in range(s.shape[1]):
      nudge = 1e-5 * np.eye(s.shape[1])[j][None]
      column = (moved(s + nudge, x) - moved(s - nudge, x)) / 2e-5
      np.testing.assert_allclose(got[t, :, :, j], column, rtol=0, atol=1e-9)
    s = np.asarray(moved(s, x))


def test_complex_and_integer_leaves_of_a_carry():
  # The complex recurrence z_t = a z_{t−1} rotates and scales the vector (Re z, Im z). The integer
  # counter is not part of the Jacobian.
  a = 0.9 * np.exp(0.7j)

  def initial_carry(batch_shape, dtype=float):
    return (jnp.zeros((*batch_shape, 1), complex), jnp.zeros((*batch_shape, 1), jnp.int32))

  cell = Cell(
    init=lambda key, input_size, dtype=float: (),
    initial_carry=initial_carry,
    prepare=unprepared,
    project=lambda params, xs, key=None: xs,
    recur=lambda params, carry: carry[0] * a,
    update=lambda params, carry, drive, recurrent: (
      recurrent + drive.astype(complex),
      carry[1] + 1,
    ),
    output=lambda params, carry, drive: carry[0].real,
  )
  (jacobians,) = step_jacobians([cell], [()], draw(0, 4, B, 1))
  close(jacobians, np.broadcast_to([[a.real, -a.imag], [a.imag, a.real]], (4, B, 2, 2)))


def test_lstm_at_zero_has_the_eigenvalues_of_forget_gate_and_kernel():
  params = params_of("lstm", b=jnp.zeros(4 * H).at[H : 2 * H].set(1.0))
  cell = NETWORKS["lstm"]
  jacobian = jacobians_of(cell, params, 0 * XS, cell.initial_carry((B,)))[0, 0]
  block = sigmoid(1.0) * np.eye(H) + params["w_h"][:, 2 * H : 3 * H] / 4
  close(np.poly(jacobian), np.append(np.poly(block), np.zeros(H)))


# Products of Jacobians over many steps.


@pytest.mark.parametrize("name", PLAIN)
def test_singular_values_are_those_of_the_product(name):
  cell, params, start = NETWORKS[name], params_of(name), start_of(name)
  jacobians = np.asarray(jacobians_of(cell, params, XS, start))
  values = values_of(cell, params, XS, start)
  assert values.shape == jacobians.shape[:3]
  product = np.broadcast_to(np.eye(jacobians.shape[-1]), jacobians[0].shape)
  for k in range(6):
    expected = np.linalg.svd(product, compute_uv=False)
    # The absolute tolerance allows for the rounding error of NumPy's smallest singular values.
    np.testing.assert_allclose(10 ** values[k], expected, rtol=1e-10, atol=1e-14 * expected.max())
    product = product @ jacobians[-1 - k]


@pytest.mark.parametrize("name", PLAIN)
def test_smallest_singular_values_of_a_long_product_are_as_exact_as_the_largest(name):
  cell, params, start = NETWORKS[name], params_of(name), start_of(name)
  jacobians = np.asarray(jacobians_of(cell, params, XS, start))[1:, 0]
  values = values_of(cell, params, XS, start)[-1, 0]

  def log_norm(matrices):
    total, product = 0.0, np.eye(len(values))
    for matrix in matrices:
      product = product @ matrix
      size = np.linalg.norm(product, 2)
      total, product = total + np.log10(size), product / size
    return total

  assert values[-1] < values[0] - 20
  close(values[0], log_norm(jacobians[::-1]))
  close(values[-1], -log_norm(np.linalg.inv(jacobians)))
  close(np.sum(values), np.sum(np.linalg.slogdet(jacobians)[1]) / np.log(10))


@pytest.mark.parametrize(
  ("axes", "dtype"),
  [(orthogonal(0), jnp.float32), (orthogonal(0), jnp.float64), (np.eye(SIZE)[::-1], jnp.float64)],
  ids=["float32", "float64", "reversed"],
)
def test_one_product_may_have_singular_values_from_1e_minus_900_to_1e_plus_900(axes, dtype):
  ends = np.array([900, 300, 1, -300, -900])
  values = linear_values(axes @ np.diag(10.0 ** (ends / 1000)) @ axes.T, dtype)
  assert values.dtype == dtype
  rtol = 1e-12 if dtype == jnp.float64 else 2e-6
  expected = np.outer(np.arange(DEPTH) / 1000, ends)
  np.testing.assert_allclose(values, expected, rtol=rtol, atol=1000 * rtol)


def test_linear_jacobians_are_powers_of_the_kernel():
  w = np.asarray(draw(1, SIZE, SIZE))
  values, norms, v = linear_values(w), linear_norms(w), linear_probes()
  for k in range(5):
    power = np.linalg.matrix_power(w, k)
    np.testing.assert_allclose(
      values[k], np.log10(np.linalg.svd(power, compute_uv=False)), atol=1e-8
    )
    # h is a row vector with h_T = h_{T−k} Wᵏ, so a probe v gives the cotangent v (Wᵏ)ᵀ at h_{T−k}.
    close(norms[k], np.log10(np.linalg.norm(v @ power.T) / 2))


@pytest.mark.parametrize("log_end", [-900, 900])
def test_log_norm_of_a_scaled_orthogonal_recurrence_is_linear_in_the_lag(log_end):
  w = 10 ** (log_end / 1000) * orthogonal(0)
  line = np.linspace(0, log_end, DEPTH)
  close(linear_norms(w), line + np.log10(np.linalg.norm(linear_probes()) / 2))


def test_tanh_values_are_bounded_by_powers_of_the_kernels_norm():
  params = params_of("elman")
  values = values_of(NETWORKS["elman"], params, XS, start_of("elman"))
  bound = np.arange(T) * np.log10(np.linalg.norm(params["w_h"], 2))
  assert np.all(values[1:, :, 0] < bound[1:, None])


def test_lstm_without_recurrence_multiplies_forget_gates_and_forgets_hidden():
  cell, params = NETWORKS["lstm"], params_of("lstm", w_h=jnp.zeros((H, 4 * H)))
  start = start_of("lstm")
  a = np.asarray(XS[:, 0] @ params["w_x"] + params["b"][None])
  i, f, g, o = np.split(sigmoid(a), 4, axis=1)
  g, c = np.tanh(np.split(a, 4, axis=1)[2]), np.asarray(start.cell[0])
  product = np.linalg.multi_dot(jacobians_of(cell, params, XS, start)[::-1, 0])
  np.testing.assert_allclose(np.diag(product[H:, H:]), np.prod(f, axis=0), rtol=1e-10)
  for t in range(T):
    c = f[t] * c + i[t] * g[t]
  # The last cell state c_T also affects h_T, with the derivative dh_T/dc_T = o (1 − tanh² c_T).
  through = o[-1] * (1 - np.tanh(c) ** 2)
  expected = np.sort(np.log10(np.prod(f[1:], axis=0) * np.hypot(1, through)))[::-1]
  values = values_of(cell, params, XS, start)[-1, 0]
  close(values, np.append(expected, [-np.inf] * H))


@pytest.mark.parametrize(
  ("b_z", "b_r", "expected"), [(40.0, 0.0, 0.0), (-800.0, -800.0, -np.inf)], ids=["keeps", "drops"]
)
def test_gru_keeps_everything_if_z_is_one_and_nothing_if_z_and_r_are_zero(b_z, b_r, expected):
  b = params_of("gru")["b"].at[:H].set(b_z).at[H : 2 * H].set(b_r)
  values = values_of(NETWORKS["gru"], params_of("gru", b=b), XS, start_of("gru"))
  close(values[1:], expected)


def test_directions_that_vanish_stay_at_minus_infinity():
  shift = np.diag(np.ones(SIZE - 1), -1)  # nilpotent: every step removes one direction
  alive = np.arange(SIZE) < SIZE - np.arange(DEPTH)[:, None]
  close(linear_values(shift), np.where(alive, 0, -np.inf))
  np.testing.assert_array_equal(np.isneginf(linear_norms(shift)), ~alive[:, 0])


@pytest.mark.parametrize("rank", [1, 3])
def test_rounding_errors_of_a_singular_kernel_are_not_singular_values(rank):
  # The factors are integers over 8, so the kernel has exactly this rank, without rounding.
  random = np.random.default_rng(rank)
  w = random.integers(-3, 4, (SIZE, rank)) @ random.integers(-3, 4, (rank, SIZE)) / 8.0
  finite = np.isfinite(linear_values(w)[1:])
  np.testing.assert_array_equal(finite, np.tile(np.arange(SIZE) < rank, (DEPTH - 1, 1)))


def test_probes_estimate_the_frobenius_norm_to_within_the_standard_error():
  cell, params, num_probes = NETWORKS["elman"], params_of("elman"), 200
  logs = values_of(cell, params, XS, cell.initial_carry((B,)))
  norms = norm_of(cell, params, XS, jax.random.key(1), num_probes)
  shares = 10.0 ** (2 * (logs - logs[..., :1]))
  exact = np.sum(shares, axis=-1)
  error = np.sqrt(2 * np.sum(shares**2, axis=-1) / num_probes)
  scores = (10.0 ** (2 * (norms - logs[..., 0])) - exact) / error
  assert np.all(np.abs(scores) < 4)
  assert np.sqrt(np.mean(scores**2)) < 2


def test_examples_are_independent():
  cell, params, start = NETWORKS["lstm"], params_of("lstm"), start_of("lstm")
  late = np.arange(T) >= T - 5
  xs = np.where(late[:, None, None] & (np.arange(B) == 1)[:, None], np.nan, XS)
  spoiled = values_of(cell, params, xs, start)
  np.testing.assert_array_equal(spoiled[:, 0], values_of(cell, params, XS, start)[:, 0])
  assert np.all(np.isnan(spoiled[5:, 1]))


def test_measures_compose_with_vmap_and_accept_a_single_step():
  cell, params = NETWORKS["elman"], params_of("elman")
  measures = [
    (lambda xs: step_jacobians([cell], [params], xs)[0], (7, 1, B, H, H)),
    (lambda xs: singular_values([cell], [params], xs)[0], (7, 1, B, H)),
    (lambda xs: jacobian_norm([cell], [params], xs, key=jax.random.key(0))[0], (7, 1, B)),
  ]
  for measure, shape in measures:
    assert jax.eval_shape(jax.vmap(measure), draw(3, 7, 1, B, D)).shape == shape


@pytest.mark.parametrize(
  ("num_probes", "error", "message"),
  [(0, ValueError, "must be at least 1, got 0"), (1.5, TypeError, "must be an integer, got 1.5")],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_number_of_probes_is_refused(num_probes, error, message):
  with pytest.raises(error, match=f"num_probes {message}"):
    norm_of(NETWORKS["gru"], params_of("gru"), XS, jax.random.key(0), num_probes)


def test_a_carry_of_a_wrong_shape_is_refused():
  with pytest.raises(ValueError, match=r"carry must be float64\[2, 3\], got float64\[2, 4\]"):
    values_of(NETWORKS["gru"], params_of("gru"), XS, jnp.zeros((B, H + 1)))
