"""One-sided Jacobi on A: the new rows are orthogonal, AᵀA is kept, and tiny rows stay accurate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.gradient_flow.orthogonal_rows import orthogonalize
from rnn_jax.gradient_flow.reverse_sweep import Scaled, log10_norms

pytestmark = pytest.mark.usefixtures("x64")


@jax.jit
def turned(a, exponent):
  return orthogonalize(Scaled(a, exponent), jnp.abs(a))


def problem(num_rows, size):
  return np.random.default_rng(num_rows).standard_normal((num_rows, size))


@pytest.mark.parametrize("shape", [(5, 5), (2, 3)])
def test_rows_are_orthogonal_and_their_lengths_are_the_singular_values(shape):
  a = problem(*shape)
  rows = turned(a, jnp.zeros(shape[0], jnp.int32))
  value = np.ldexp(rows.value, np.asarray(rows.exponent)[:, None])
  np.testing.assert_allclose(value.T @ value, a.T @ a, rtol=1e-12, atol=1e-13)
  gram = value @ value.T
  np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-13)
  lengths = np.sort(np.linalg.norm(value, axis=1))[::-1]
  np.testing.assert_allclose(lengths, np.linalg.svd(a, compute_uv=False), rtol=1e-12)


@pytest.mark.parametrize("order", ["descending", "ascending", "mixed"])
def test_rows_of_very_different_norms_are_orthogonalized_as_by_gram_schmidt(order):
  # From the largest row down, each row is about 2^-200 times the one before. Rotations therefore do
  # not change the larger row of a pair.
  a = problem(5, 5)
  place = {"descending": np.arange(5), "ascending": np.arange(5)[::-1]}.get(
    order, np.array([3, 0, 1, 4, 2])
  )
  exponent = (-200 * place).astype(np.int32)
  found = -np.sort(-log10_norms(turned(a, exponent)))
  largest_first = a[np.argsort(place)]
  r = np.linalg.qr(largest_first.T)[1]
  expected = np.log10(np.abs(np.diag(r))) - 200 * np.arange(5) * np.log10(2)
  np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


def test_linearly_dependent_rows_become_zero():
  a = np.arange(25.0).reshape(5, 5)  # a matrix of rank 2
  for exponent in ([0, 0, 0, 0, 0], [0, -60, -3000, 10, -100]):
    logs = np.sort(log10_norms(turned(a, np.array(exponent, np.int32))))
    np.testing.assert_array_equal(np.isneginf(logs), [True, True, True, False, False])
