"""What was saved is what is read, and whatever else is there says what is wrong with it."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.checkpoints import restore, save


def tree():
  return {"a": jnp.arange(5.0), "b": {"c": jnp.ones((3, 2), jnp.int32), "d": jnp.zeros(())}}


def test_what_is_read_is_what_was_saved(tmp_path):
  save(tmp_path / "0", tree())
  found = restore(tmp_path / "0", jax.eval_shape(tree))
  assert jax.tree.structure(found) == jax.tree.structure(tree())
  for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(tree()), strict=True):
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
  ("other", "message"),
  [
    ({"a": jnp.arange(6.0), "b": tree()["b"]}, "a float32[6], got float32[5]"),
    ({"a": jnp.arange(5), "b": tree()["b"]}, "a int32[5], got float32[5]"),
    ({"a": jnp.arange(5.0)}, "b.c absent, got int32[3, 2]"),
    ({**tree(), "e": jnp.zeros(2)}, "e float32[2], got absent"),
  ],
)
def test_a_checkpoint_of_something_else_is_refused_by_name(tmp_path, other, message):
  save(tmp_path / "0", tree())
  with pytest.raises(ValueError, match=re.escape(message)):
    restore(tmp_path / "0", other)


def test_nothing_is_overwritten(tmp_path):
  save(tmp_path / "0", tree())
  with pytest.raises(ValueError, match="path must be a new folder"):
    save(tmp_path / "0", tree())


@pytest.mark.filterwarnings(
  "ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
  path = tmp_path / "0"
  if damage == "empty":
    path.mkdir()
  if damage == "truncated":
    save(path, tree())
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:10])
  with pytest.raises(ValueError, match="path must hold a checkpoint, got|is damaged: "):
    restore(path, jax.eval_shape(tree))
