"""Tests that a checkpoint restores what was saved, and that errors name a damaged file or leaf."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import types
from pathlib import Path
from typing import NamedTuple

import flax.struct
import hypothesis
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint
import pytest
import tensorstore
from hypothesis import strategies
from hypothesis.extra import numpy as arrays_of

from rnn_jax.checkpoints import Series, checkpoint, difference, newest, restore, save


class Pair(NamedTuple):
  hidden: object
  cell: object


@flax.struct.dataclass
class Struct:
  step: object
  params: object


def tree():
  return {"a": jnp.arange(5.0), "b": {"c": jnp.ones((3, 2), jnp.int32), "d": jnp.zeros(())}}


def every_kind():
  """Returns a pytree with leaves of every kind that a checkpoint can hold."""
  bits = np.array([0x7FC00001, 0xFF800001, 0x80000000, 1], np.uint32)
  return Struct(
    step=np.int64(2**40),
    params=[
      Pair({"w": bits.view(np.float32)}, (np.arange(3) / 3, None)),
      np.array(True),
      np.array([7, 8], np.uint32),
      np.array([1, 2, 3], ml_dtypes.bfloat16),
      jnp.ones(3, jnp.int4),
      jnp.float16(0.1),
      np.zeros((2, 0, 3), np.float64),
      np.asfortranarray(np.arange(6.0).reshape(2, 3)),
      np.arange(12)[::-2],
      np.array([1j, 2], np.complex64),
      3,
      jax.random.split(jax.random.key(1), 2),
      jax.random.key(2, impl="rbg"),
      jax.random.split(jax.random.key(1), 2)[:0],
      optax.adam(0.1).init({"w": jnp.ones((2, 3))}),
    ],
  )


def assert_the_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    want = want if hasattr(want, "dtype") else np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if jnp.issubdtype(want.dtype, jax.dtypes.prng_key):
      got, want = jax.random.key_data(got), jax.random.key_data(want)
    assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def test_restored_leaves_equal_the_saved_ones_bit_for_bit(tmp_path):
  save(tmp_path / "0", every_kind())
  assert_the_same(restore(tmp_path / "0", every_kind()), every_kind())


def test_restoring_needs_only_shapes(tmp_path):
  def make():
    return tree(), jax.random.key(3)

  save(tmp_path / "0", make())
  assert_the_same(restore(tmp_path / "0", jax.eval_shape(make)), make())


@pytest.mark.parametrize("tree", [{}, np.ones(3), {"": np.ones(2)}], ids=["none", "array", "name"])
def test_trees_with_at_most_one_leaf(tmp_path, tree):
  save(tmp_path / "0", tree)
  assert_the_same(restore(tmp_path / "0", tree), tree)


DTYPES = strategies.sampled_from([np.bool_, np.int8, np.uint32, np.int64, np.float32, np.float64])
ARRAYS = DTYPES.flatmap(
  lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=3))
)
TREES = strategies.recursive(
  ARRAYS,
  lambda inner: (
    strategies.lists(inner, max_size=3)
    | strategies.dictionaries(strategies.text(max_size=3), inner, max_size=3)
  ),
  max_leaves=5,
)


@hypothesis.settings(max_examples=15, deadline=None, database=None, derandomize=True)
@hypothesis.given(TREES)
def test_any_tree_is_restored_unchanged_or_refused(tmp_path_factory, tree):
  path = tmp_path_factory.mktemp("tree") / "0"
  try:
    save(path, tree)
  except ValueError as error:
    assert re.match("tree must have (a name for each leaf|names without '/'), got", str(error))
    return
  assert_the_same(restore(path, tree), tree)


@pytest.mark.parametrize(
  ("other", "message"),
  [
    ({"a": jnp.arange(6.0), "b": tree()["b"]}, "a float32[6], got float32[5]"),
    ({"a": jnp.arange(5), "b": tree()["b"]}, "a int32[5], got float32[5]"),
    ({"a": jnp.arange(5.0)}, "b.c absent, got int32[3, 2]"),
    ({**tree(), "e": jnp.zeros(2)}, "e float32[2], got absent"),
    ({**tree(), "a": jax.random.split(jax.random.key(0), 5)}, "a key<fry>[5], got float32[5]"),
  ],
)
def test_a_checkpoint_of_another_tree_is_refused_by_leaf_name(tmp_path, other, message):
  save(tmp_path / "0", tree())
  with pytest.raises(ValueError, match=re.escape(message)):
    restore(tmp_path / "0", other)


@pytest.mark.parametrize(
  ("tree", "error", "message"),
  [
    ({"a": {"b": "text"}}, TypeError, "tree must hold arrays of numbers, got <U4 in a.b."),
    ([np.array([None])], TypeError, "tree must hold arrays of numbers, got object in 0."),
    ({"a": jax.ShapeDtypeStruct((2,), int)}, TypeError, "arrays of numbers, got the shape"),
    ({"a": {"b": 1}, "a.b": 2}, ValueError, "must have a name for each leaf, got 'a.b' twice."),
    ({"a": [{"/": 1}]}, ValueError, "tree must have names without '/', got 'a.0./'."),
  ],
)
def test_unsupported_leaves_are_refused_by_name_and_nothing_is_written(
  tmp_path, tree, error, message
):
  with pytest.raises(error, match=re.escape(message)):
    save(tmp_path / "0", tree)
  assert not list(tmp_path.iterdir())


def test_save_does_not_overwrite(tmp_path):
  save(tmp_path / "0", tree())
  with pytest.raises(ValueError, match="path must be a new folder"):
    save(tmp_path / "0", tree())


# Tests of damaged checkpoints.


def damages(path):
  """Yields (description, the file's damaged bytes or None if deleted) for each kind of damage."""
  whole = path.read_bytes()
  size = len(whole)
  yield "deleted", None
  for left in {0, size // 2, size - 1} - {size, -1}:
    yield f"cut after {left}", whole[:left]
  yield "longer", whole + b"\0"
  for index in sorted({round(i * (size - 1) / 15) for i in range(16)} if size else ()):
    for bit in (0, 7):
      flipped = bytearray(whole)
      flipped[index] ^= 1 << bit
      yield f"bit {bit} of byte {index} flipped", bytes(flipped)


def test_every_damaged_byte_is_detected(tmp_path):
  path = tmp_path / "0"
  save(path, tree())
  files = [file for file in path.rglob("*") if file.is_file()]
  assert len(files) > 5
  unharmed = []
  for file in files:
    whole, name = file.read_bytes(), str(file.relative_to(path))
    for description, data in damages(file):
      file.unlink() if data is None else file.write_bytes(data)
      try:
        assert_the_same(restore(path, tree()), tree())
        unharmed.append((name, description))
      except ValueError as error:
        assert f"{path} is damaged: {name}" in str(error), description
      file.write_bytes(whole)
  # The only undetected changes are to white space in checkpoint.json, which no hash covers.
  assert {name for name, _ in unharmed} <= {"checkpoint.json"} and len(unharmed) < 12


def change_contents(path, **changes):
  """Changes the contents of checkpoint.json together with their hash, as an attacker would."""
  contents = json.loads((path / "checkpoint.json").read_text())["contents"] | changes
  digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
  (path / "checkpoint.json").write_text(json.dumps({"sha256": digest, "contents": contents}))


def test_only_regular_files_of_the_checkpoint_are_read(tmp_path):
  path, tree = tmp_path / "1", {"a": np.ones(3)}
  save(path, tree)
  (tmp_path / "outside").write_bytes(b"x")
  for name in ("../outside", "/dev/zero"):
    change_contents(path, files={name: hashlib.sha256(b"x").hexdigest()})
    with pytest.raises(ValueError, match=f"1 is damaged: {name}: No such file"):
      restore(path, tree)
  other = path / "arrays/other"  # has no hash, but orbax could read it
  other.symlink_to("/dev/zero")
  with pytest.raises(ValueError, match="1 is damaged: arrays/other is not a regular file"):
    restore(path, tree)
  other.unlink()
  os.mkfifo(other)
  with pytest.raises(ValueError, match="1 is damaged: arrays/other is not a regular file"):
    restore(path, tree)
  (path / "checkpoint.json").unlink()
  os.mkfifo(path / "checkpoint.json")
  with pytest.raises(ValueError, match=r"checkpoint.json is not a regular file"):
    restore(path, tree)


@pytest.mark.parametrize("name", ["checkpoint.json", "arrays/_METADATA", "arrays/other"])
def test_files_far_larger_than_those_of_save_are_not_read(tmp_path, name):
  save(tmp_path / "0", tree())
  with (tmp_path / "0" / name).open("ab") as file:
    file.truncate(2**35)  # 32 GiB, of which hardly anything is on disk
  with pytest.raises(ValueError, match=f"0 is damaged: {name.split('/')[0]} has more than"):
    restore(tmp_path / "0", tree())


@pytest.mark.parametrize(
  ("name", "shape", "chunks", "dtype", "message"),
  [
    ("a", 2**40, 2**20, "<f4", "a must be float32[3], got float32[1099511627776]"),
    ("a", 3, 2**40, "<f4", "a must not have larger chunks than itself"),
    ("a", 3, 3, "<f8", "a must be float32[3], got float64[3]"),
    ("b", 3, 3, "<f4", "_METADATA must have 1 entries, got 2"),
  ],
)
def test_the_arrays_that_orbax_would_read_are_checked_first(
  tmp_path, name, shape, chunks, dtype, message
):
  path, saved = tmp_path / "0", {"a": np.ones(3, np.float32)}
  save(path, {name: np.ones(3, np.float32), **saved})
  data = {"driver": "file", "path": str(path / "arrays")}
  about = {"shape": [shape], "chunks": [chunks], "dtype": dtype, "filters": None, "order": "C"}
  about |= {"zarr_format": 2, "fill_value": None, "compressor": None}
  tensorstore.KvStore.open({"driver": "ocdbt", "base": data}).result().write(
    f"{name}/.zarray", json.dumps(about)
  ).result()
  paths = [file for file in path.rglob("arrays/**/*") if file.is_file()]
  leaves = {"a": checkpoint.read_about(path)["leaves"]["a"]}
  change_contents(
    path,
    leaves=leaves,
    files={str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths},
  )
  with pytest.raises(ValueError, match=re.escape(f"0 is damaged: arrays: {message}")):
    restore(path, saved)


@pytest.mark.parametrize(
  "changes",
  [
    {"leaves": ["a"]},
    {"leaves": {"a": "float32[3]"}},
    {"leaves": {"a": {"is": "float32[3]"}}},
    {"files": ["arrays/_METADATA"]},
    {"configuration": 1},
    {"files": {}},
  ],
)
def test_wrong_types_and_missing_entries_are_damage(tmp_path, changes):
  save(tmp_path / "0", {"a": np.ones(3, np.float32)})
  change_contents(tmp_path / "0", **changes)
  with pytest.raises(ValueError, match=r"0 is damaged: \S+ differs from what was written"):
    restore(tmp_path / "0", {"a": np.ones(3, np.float32)})


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
  with pytest.raises(ValueError, match=re.escape("path must hold a checkpoint, got ")):
    restore(tmp_path / "0", tree())
  (tmp_path / "0").mkdir()
  with pytest.raises(ValueError, match=re.escape("is damaged: checkpoint.json: No such file")):
    restore(tmp_path / "0", tree())


def flip(arrays):
  arrays["b.c"] = arrays["b.c"].copy()
  arrays["b.c"].view(np.uint8)[1, 3] ^= 4


@pytest.mark.parametrize(
  "change",
  [
    flip,
    lambda arrays: arrays.update({"b.c": arrays["b.c"].astype(np.int64)}),
    lambda arrays: arrays.update({"b.c": arrays["b.c"].T}),
    lambda arrays: arrays.pop("b.c"),
  ],
  ids=["bit", "dtype", "shape", "none"],
)
def test_a_leaf_that_orbax_reads_wrongly_is_refused_by_name(tmp_path, monkeypatch, change):
  load = checkpoint.load_arrays

  def wrongly(path, stored):
    arrays = load(path, stored)
    change(arrays)
    return arrays

  save(tmp_path / "0", tree())
  monkeypatch.setattr(checkpoint, "load_arrays", wrongly)
  with pytest.raises(
    ValueError, match=re.escape("0 is damaged: b.c differs from what was written")
  ):
    restore(tmp_path / "0", tree())


def test_a_failing_disk_is_reported_as_an_oserror_without_a_traceback(tmp_path, monkeypatch, capfd):
  """On a full disk, orbax alone would raise a ValueError and print a thread's traceback."""

  def fail(*_):
    raise ValueError("RESOURCE_EXHAUSTED: failed to write [os_error_code='28']")

  monkeypatch.setattr(orbax.checkpoint.Checkpointer, "save", fail)
  with pytest.raises(OSError, match="No space left on device"):
    save(tmp_path / "0", tree())
  assert not list(tmp_path.iterdir())
  monkeypatch.undo()
  with monkeypatch.context() as patch:
    patch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2**16))
    with pytest.raises(OSError, match=r"No space left on device: '.*0'"):
      save(tmp_path / "0", tree())
  assert not list(tmp_path.iterdir())
  shutil.rmtree(tmp_path)
  tmp_path.write_text("")
  with pytest.raises(NotADirectoryError):
    save(tmp_path / "0", tree())
  assert not capfd.readouterr().err


def test_paths_may_be_strings(tmp_path):
  save(str(tmp_path / "0"), {"a": np.ones(2)})
  assert restore(str(tmp_path / "0"), {"a": np.ones(2)})["a"].tolist() == [1, 1]
  Series(str(tmp_path)).close()
  with pytest.raises(ValueError, match="another configuration"):
    newest(str(tmp_path), {"b": 1}, dict)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("call", "arguments", "message"),
  [
    (save, (1, {}), "path must be a path, got 1."),
    (restore, (1, {}), "path must be a path, got 1."),
    (Series, (1,), "folder must be a path, got 1."),
    (Series, (Path("a"), 1.5), "keep must be an integer, got 1.5."),
    (newest, (1, {}, dict), "folder must be a path, got 1."),
    (newest, (Path("a"), {"a": {1}}, dict), "configuration must be JSON data, got"),
    (newest, (Path("a"), {}, {}), "like must be a function, got {}."),
    (newest, (Path("a"), None, dict), "configuration must be a Mapping, got None."),
    (difference, ({}, {"a": {1}}), "configuration must be JSON data, got"),
    (difference, ([], {}), "configuration must be a Mapping, got []."),
  ],
)
def test_wrong_arguments_are_named(call, arguments, message):
  with pytest.raises(TypeError, match=re.escape(message)):
    call(*arguments)
