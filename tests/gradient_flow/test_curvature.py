"""Extreme eigenvalues of Hessians, against closed forms and the dense Hessian, in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from networks import draw, mean_loss, network

from rnn_jax import make_cell, step, unroll
from rnn_jax.gradient_flow import curvature

T, B, D, H = 4, 2, 2, 3
EXACT = 200  # more products than any network here has params


def measured(loss, params, **options):
  return jax.jit(functools.partial(curvature, loss, **options))(params)


def through_unroll(cells, params, xs, forward_mode):
  ys = xs
  for cell, cell_params in zip(cells, params, strict=True):
    _, ys = unroll(cell, cell_params, ys, forward_mode=forward_mode)
  return mean_loss(ys)


def through_plain_steps(cells, params, xs):
  ys = xs
  for cell, cell_params in zip(cells, params, strict=True):
    carry, outputs = cell.initial_carry((B,)), []
    for x in ys:
      drive = cell.project(cell_params, x)
      carry = step(cell, cell_params, carry, drive)
      outputs.append(cell.output(cell_params, carry, drive))
    ys = jnp.stack(outputs)
  return mean_loss(ys)


@pytest.mark.parametrize("names", [["elman"], ["gru"], ["lstm"], ["elman", "elman"]])
def test_eigenvalues_are_those_of_the_dense_hessian_of_a_plain_loop(x64, names):
  cells, params = network(names, H)
  xs = draw(80, T, B, D)
  point, unravel = ravel_pytree(params)
  num_products = 8 if names == ["elman"] else EXACT

  @jax.jit
  def both(params, xs):
    loss = functools.partial(through_unroll, cells, xs=xs, forward_mode=names != ["gru"])
    dense = jax.hessian(lambda p: through_plain_steps(cells, unravel(p), xs))(point)
    return dense, curvature(loss, params, num_products=num_products)

  dense, found = both(params, xs)
  values = np.linalg.eigvalsh(dense)
  leading = values[np.argmax(np.abs(values))]
  if num_products == EXACT:
    np.testing.assert_allclose([found.largest, found.leading], [values[-1], leading], rtol=1e-9)
    assert max(found.largest_error, found.leading_error) < 1e-9
  else:  # the errors bound the distance from the closest eigenvalue
    assert 0 < found.largest_error < 0.2 * values[-1]
    for value, error in (found[:2], found[2:]):
      assert np.min(np.abs(values - value)) <= error
    assert found.largest <= values[-1]


def test_curvature_of_a_power_in_closed_form(x64):
  cell, w = make_cell("elman", 1, activation="linear"), 1.1

  def loss(w):
    params = {"w_x": jnp.ones((1, 1)), "w_h": w, "b": jnp.zeros(1)}
    _, ys = unroll(cell, params, jnp.zeros((T, 1, 1)), jnp.ones((1, 1)))
    return ys[-1, 0, 0]

  found = measured(loss, jnp.full((1, 1), w))
  expected = T * (T - 1) * w ** (T - 2)
  np.testing.assert_allclose([found.largest, found.leading], expected, rtol=1e-12)
  assert found.leading_error < 1e-12 * expected


def quadratic(eigenvalues):
  axes = np.linalg.qr(np.random.default_rng(0).standard_normal((len(eigenvalues),) * 2))[0]
  hessian = jnp.asarray(axes @ np.diag(eigenvalues) @ axes.T)
  return lambda params: ravel_pytree(params)[0] @ hessian @ ravel_pytree(params)[0] / 2


def test_the_leading_eigenvalue_keeps_its_sign_and_may_not_be_the_largest(x64):
  params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(3)}
  found = measured(quadratic([2.0, 1.0, 0.5, 0.0, -1.0, -2.0, -5.0]), params)
  np.testing.assert_allclose([found.largest, found.leading], [2, -5], rtol=1e-12)
  negative = measured(quadratic([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]), params)
  np.testing.assert_allclose([negative.largest, negative.leading], [-1, -7], rtol=1e-12)


def test_a_large_space_needs_few_products_if_an_eigenvalue_stands_out(x64):
  eigenvalues = np.concatenate([[100.0], np.linspace(-1, 1, 199)])
  found = measured(quadratic(eigenvalues), jnp.zeros(200), num_products=8)
  np.testing.assert_allclose(found.largest, 100, rtol=1e-8)
  assert found.largest == found.leading
  assert abs(found.largest - 100) <= found.largest_error + 1e-12


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 0.0), (-3.0, -3.0), (2.0, 2.0)])
def test_an_invariant_space_of_one_dimension_ends_the_iteration(x64, scale, expected):
  found = measured(lambda p: scale * jnp.sum(p**2) / 2, jnp.ones(9))
  np.testing.assert_allclose(found, [expected, 0, expected, 0], atol=1e-12)


def test_integer_params_are_constants_and_half_precision_becomes_float32():
  params = {"w": jnp.asarray([1.5, 0.25], jnp.bfloat16), "power": jnp.int32(3)}
  found = measured(lambda p: jnp.sum(p["w"] ** p["power"].astype(p["w"].dtype)), params)
  assert found.largest.dtype == jnp.float32
  np.testing.assert_allclose(found.largest, 6 * 1.5, rtol=1e-5)


def test_a_loss_that_is_not_finite_has_no_finite_curvature():
  found = measured(lambda p: jnp.sum(jnp.log(p) ** 2), -jnp.ones(4))
  assert np.isnan(found).all()


@pytest.mark.parametrize(
  ("arguments", "error", "message"),
  [
    ({"num_products": 0}, ValueError, "num_products must be at least 1, got 0"),
    ({"loss": None}, TypeError, "loss must be a function, got None"),
    ({"loss": lambda p: p}, ValueError, r"loss must return a scalar, got \[2\]"),
    ({"params": jnp.ones(2, complex)}, TypeError, "params must be a pytree of real arrays"),
    ({"params": ()}, TypeError, r"params must be a pytree of real arrays, got \(\)"),
    ({"params": jnp.ones(2, int)}, TypeError, "params must be a pytree of real arrays"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_arguments_are_named(arguments, error, message):
  with pytest.raises(error, match=message):
    curvature(**{"loss": lambda p: jnp.float32(1), "params": jnp.ones(2), **arguments})
