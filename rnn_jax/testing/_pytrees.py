"""Pytrees of arrays: paths, structures, dtypes, equality, and random values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def paths_and_leaves(tree: PyTree) -> Iterator[tuple[str, Any]]:
  """Yields (path, leaf) for each leaf of a pytree; the path is text like ['cell'][0]."""
  for path, leaf in jax.tree.leaves_with_path(tree):
    yield jax.tree_util.keystr(path), leaf


def structure(tree: PyTree) -> object:
  return jax.tree.structure(tree)


def is_float(leaf: Any) -> bool:
  """Returns whether an array holds real or complex numbers."""
  return jnp.issubdtype(leaf.dtype, jnp.inexact)


def precision_of(leaf: Any) -> np.dtype:
  """Returns the dtype of an array's real part."""
  return jnp.finfo(leaf.dtype).dtype


def are_equal(a: PyTree, b: PyTree) -> bool:
  """Returns whether two pytrees of one structure hold equal arrays."""
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(
    a is b or (jnp.shape(a) == jnp.shape(b) and np.array_equal(np.asarray(a), np.asarray(b)))
    for a, b in leaves
  )


def are_close(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
  """Returns whether two arrays differ by rounding, relative to their largest value."""
  a, b = np.asarray(a), np.asarray(b)
  if a.dtype == bool or not a.size:
    return np.array_equal(a, b)
  return np.allclose(a, b, rtol=tolerance, atol=tolerance * max(1e-3, float(np.max(np.abs(b)))))


def draw(like: PyTree, seed: int) -> PyTree:
  """Returns random values for the real and complex leaves of a pytree, and ones elsewhere."""
  random = np.random.default_rng(seed)

  def leaf(a: Any) -> jax.Array:
    if not is_float(a):
      return jnp.ones(a.shape, a.dtype)
    values = random.standard_normal((2, *a.shape))
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
      return jnp.asarray(values[0] + 1j * values[1], a.dtype)
    return jnp.asarray(values[0], a.dtype)

  return jax.tree.map(leaf, like)
