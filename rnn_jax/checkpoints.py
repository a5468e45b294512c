"""Params on disk: the only place that uses orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp


def save(path: Path, tree: Any) -> None:
  """Writes nested dicts of arrays into a new folder, which is there whole or not at all.

  Args:
    path: the folder; must not exist.
    tree: the dicts, arrays on any device; they are kept as NumPy arrays, for any device to read.
  Raises:
    ValueError: the folder exists.
    OSError: it cannot be written.
  """
  if path.exists():
    raise ValueError(f"path must be a new folder, got {path}.")
  ocp.save(path.absolute(), jax.tree.map(np.asarray, jax.device_get(tree)))


def restore(path: Path, like: Any) -> Any:
  """Reads what `save` wrote.

  Args:
    path: the folder.
    like: a pytree of arrays or shapes, as it must be.
  Returns:
    A pytree of NumPy arrays in the structure, shapes and dtypes of `like`.
  Raises:
    ValueError: there is no checkpoint, it cannot be read, or it is of something else; with the
      first leaf that differs.
  """
  try:
    found = ocp.load(path.absolute())
  except Exception as error:
    reason = str(error).strip().split("\n")[0]
    raise ValueError(f"path must hold a checkpoint, got {path} ({reason})") from None
  wanted, given = (
    {jax.tree_util.keystr(k, simple=True, separator="."): leaf for k, leaf in leaves}
    for leaves in (jax.tree.leaves_with_path(tree) for tree in (like, found))
  )
  for name in sorted(wanted.keys() | given.keys()):
    want, have = (_words(tree.get(name)) for tree in (wanted, given))
    if want != have:
      raise ValueError(f"path must hold a checkpoint with {name} {want}, got {have} in {path}.")
  return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(found))


def _words(leaf: Any) -> str:
  return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
