"""The leaves of a pytree by name, as copies in the host's memory and as descriptions."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, Shaped

Leaf = jax.Array | np.ndarray | np.number | np.bool_ | jax.ShapeDtypeStruct


class Copy(NamedTuple):
  """A copy of a pytree's leaf in the host's memory.

  Attributes:
    description: the leaf's dtype and shape, e.g. `float32[3, 4]`.
    key: for a typed PRNG key, the name of its implementation; None for an array.
    data: the array; for a typed key, its `jax.random.key_data`.
  """

  description: str
  key: str | None
  data: Shaped[np.ndarray, "*shape"]


def copies(tree: PyTree) -> dict[str, Copy]:
  """Copies a pytree's leaves to the host's memory, and returns the copies by leaf name.

  Raises:
    TypeError: if a leaf is not an array of numbers.
    ValueError: if two leaves have the same name, or a name contains '/'.
  """
  found = {}
  for name, leaf in named(tree).items():
    if isinstance(leaf, jax.ShapeDtypeStruct):
      raise TypeError(f"tree must hold arrays of numbers, got the shape {leaf} in {name}.")
    key = _is_key(leaf)
    if not (key or jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == np.bool_):
      raise TypeError(f"tree must hold arrays of numbers, got {leaf.dtype} in {name}.")
    data = jax.random.key_data(leaf) if key else leaf
    # Not `np.asarray`, because it would return a view of an array on a CPU device, and the caller
    # may donate that array before it is written to disk.
    data = np.array(data, data.dtype.newbyteorder("="), order="C")
    found[name] = Copy(describe(leaf), str(jax.random.key_impl(leaf)) if key else None, data)
  return found


def named(tree: PyTree) -> dict[str, Leaf]:
  """Returns a pytree's leaves by name; a name is the leaf's path of keys, joined by dots.

  Raises:
    ValueError: if two leaves have the same name, or a name contains '/'.
  """
  named: dict[str, Leaf] = {}
  for path, leaf in jax.tree.leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if name in named:
      raise ValueError(f"tree must have a name for each leaf, got '{name}' twice.")
    if "/" in name:  # orbax would turn it into nested folders
      raise ValueError(f"tree must have names without '/', got '{name}'.")
    named[name] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
  return named


def _is_key(leaf: Leaf) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def stored_shape(leaf: Leaf) -> jax.ShapeDtypeStruct:
  """Returns shape and dtype of the array that is saved for a leaf."""
  shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
  return jax.eval_shape(jax.random.key_data, shape) if _is_key(leaf) else shape


def describe(leaf: Leaf) -> str:
  """Returns a leaf's dtype and shape, e.g. `float32[3, 4]`."""
  return f"{leaf.dtype.name}{list(leaf.shape)}"
