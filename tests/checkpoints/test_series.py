"""Tests that the newest intact checkpoint of a series is found after crashes and disk errors."""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.checkpoints import Saved, Series, checkpoint, difference, newest

CONFIGURATION = {"cell": "lstm", "layers": {"hidden_size": 32, "widths": (1, 2)}, "rate": math.nan}


def tree(step):
  return {"step": np.int64(step), "params": {"w": np.full((3, 4), step, np.float32)}}


def fill(folder, *steps, **options):
  """Saves checkpoints of the given steps, and returns the steps that the series leaves on disk."""
  series = Series(folder, **options)
  for step in steps:
    series.save(step, tree(step), CONFIGURATION)
  series.close()
  return {int(path.name) for path in folder.iterdir()}


def find(folder) -> Saved | None:
  found = newest(folder, CONFIGURATION, tree)
  if found is not None and found.step is not None:
    jax.tree.map(np.testing.assert_array_equal, found.tree, tree(found.step))
  return found


def harm(folder, name="checkpoint.json"):
  (folder / name).write_bytes((folder / name).read_bytes()[:-9])


# Tests of which checkpoints are kept and deleted.


def test_a_folder_without_checkpoints_gives_none(tmp_path):
  assert find(tmp_path) is None and find(tmp_path / "nowhere") is None
  Series(tmp_path / "nowhere").close()
  assert not (tmp_path / "nowhere").exists()


def test_the_last_checkpoints_are_kept(tmp_path):
  assert fill(tmp_path, 1, 2, 10, 11, keep=3) == {2, 10, 11}
  found = find(tmp_path)
  assert (found.step, found.damaged) == (11, [])


def test_later_steps_are_deleted_after_resuming_at_an_earlier_one(tmp_path):
  fill(tmp_path, 10, 20, 30)
  assert fill(tmp_path, 21) == {20, 21}
  assert find(tmp_path).step == 21


def test_an_existing_step_is_replaced(tmp_path):
  series = Series(tmp_path, keep=1)
  for value in (1, 2):
    series.save(7, tree(value), CONFIGURATION)
  series.close()
  assert newest(tmp_path, CONFIGURATION, tree).tree["step"] == 2
  assert [path.name for path in tmp_path.iterdir()] == ["7"]


def test_arrays_may_change_once_save_returns(tmp_path):
  series = Series(tmp_path)
  host, device = np.arange(100_000), jnp.arange(100_000)
  series.save(0, {"host": host, "device": device}, {})
  host[:] = -1
  jax.jit(lambda a: a * 0 - 1, donate_argnums=0)(device).block_until_ready()
  series.close()
  like = {"host": host, "device": jax.eval_shape(lambda: jnp.arange(100_000))}
  found = newest(tmp_path, {}, lambda step: like)
  for leaf in found.tree.values():
    np.testing.assert_array_equal(leaf, np.arange(100_000))


# Tests of damaged or unsuitable checkpoints.


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(tmp_path):
  fill(tmp_path, 1, 2, 3, keep=3)
  harm(tmp_path / "3")
  data = max((tmp_path / "2").rglob("d/*"), key=lambda path: path.stat().st_size)
  data.unlink()
  found = find(tmp_path)
  assert found.step == 1
  assert found.damaged == [
    f"{tmp_path / '3'} is damaged: checkpoint.json differs from what was written.",
    f"{tmp_path / '2'} is damaged: {data.relative_to(tmp_path / '2')}: No such file or directory.",
  ]
  harm(tmp_path / "1")
  found = find(tmp_path)
  assert (found.step, found.tree) == (None, None) and len(found.damaged) == 3
  assert fill(tmp_path, 1) == {1} and find(tmp_path).damaged == []


@pytest.mark.parametrize(
  ("change", "expected"),
  [
    ({"cell": "gru"}, "its cell is 'lstm', not 'gru'."),
    ({"layers": {"hidden_size": 64, "widths": [1, 2]}}, "its layers.hidden_size is 32, not 64."),
    ({"layers": {"hidden_size": 32, "widths": [1]}}, "its layers.widths is [1, 2], not [1]."),
    ({"layers": None}, "its layers is {'hidden_size': 32, 'widths': [1, 2]}, not None."),
    ({"seed": 1}, "its seed is absent, not 1."),
    ({"rate": True}, "its rate is nan, not True."),
  ],
)
def test_another_configuration_is_refused_with_the_first_difference(tmp_path, change, expected):
  fill(tmp_path, 1)
  message = f"{tmp_path / '1'} is a checkpoint of another configuration: {expected}"
  with pytest.raises(ValueError, match=re.escape(message)):
    newest(tmp_path, CONFIGURATION | change, tree)


def test_a_flipped_bit_in_the_configuration_is_damage_rather_than_a_difference(tmp_path):
  fill(tmp_path, 1, 2)
  about = tmp_path / "2" / "checkpoint.json"
  about.write_text(about.read_text().replace('"hidden_size": 32', '"hidden_size": 33'))
  found = find(tmp_path)
  assert found.step == 1 and "2 is damaged: checkpoint.json differs" in found.damaged[0]


def test_another_tree_is_refused_by_leaf_name(tmp_path):
  fill(tmp_path, 1)
  with pytest.raises(ValueError, match=re.escape("with params.w absent, got float32[3, 4] in ")):
    newest(tmp_path, CONFIGURATION, lambda step: {"step": np.int64(step)})


@pytest.mark.parametrize(
  ("arguments", "error", "message"),
  [
    ((-1, {}, {}), ValueError, "step must be at least 0, got -1."),
    ((1.0, {}, {}), TypeError, "step must be an integer, got 1.0."),
    ((1, {}, {"a": {1, 2}}), TypeError, "configuration must be JSON data, got "),
    ((1, {"a": "b"}, {}), TypeError, "tree must hold arrays of numbers, got <U1 in a."),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_arguments_of_save_are_refused_at_once(tmp_path, arguments, error, message):
  series = Series(tmp_path)
  with pytest.raises(error, match=re.escape(message)):
    series.save(*arguments)
  series.close()
  with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
    Series(tmp_path, keep=0)


# Tests of disk errors and of killed processes.


@pytest.mark.parametrize("call", ["save", "wait", "close"])
def test_a_background_error_is_raised_by_the_next_call(tmp_path, call):
  folder = tmp_path / "series"
  series = Series(folder)
  series.save(1, tree(1), CONFIGURATION)
  series.wait()
  shutil.rmtree(folder)
  folder.write_text("in the way")
  series.save(2, tree(2), CONFIGURATION)
  with pytest.raises(NotADirectoryError):
    series.save(3, tree(3), CONFIGURATION) if call == "save" else getattr(series, call)()
  if call != "close":  # the error is raised only once, and the series still works
    series.wait()
    folder.unlink()
    series.save(4, tree(4), CONFIGURATION)
    series.close()
    assert find(folder).step == 4


class Killed(BaseException):
  """Simulates SIGKILL; it is a BaseException, so that no `except Exception` clause cleans up."""


@pytest.mark.parametrize("again", [True, False], ids=["replaced", "next"])
def test_the_newest_checkpoint_is_intact_wherever_the_process_was_killed(
  tmp_path, monkeypatch, again
):
  """Kills a save at each of its disk operations in turn; a killed deletion deletes one file."""
  fill(tmp_path / "0", 6, 7)
  changes = itertools.count()
  at = 0

  def dying(function):
    def change(path, *args, **options):
      if next(changes) < at:
        return function(path, *args, **options)
      if function is shutil.rmtree:
        next(p for p in sorted(Path(path).rglob("*")) if p.is_file()).unlink()
      raise Killed

    return change

  steps = []
  for at in itertools.count():
    folder = tmp_path / str(at + 1)
    shutil.copytree(tmp_path / "0", folder)
    (folder / "notes.draft").mkdir()  # a user's folder, which must be left alone
    changes = itertools.count()
    with monkeypatch.context() as patch:
      for module, name in ((Path, "mkdir"), (Path, "rename"), (shutil, "rmtree"), (os, "fsync")):
        patch.setattr(module, name, dying(getattr(module, name)))
      series = Series(folder, keep=1)
      series.save(7 if again else 8, tree(8), CONFIGURATION)
      try:
        series.wait()
        done = True
      except Killed:
        done = False
    found = newest(folder, CONFIGURATION, tree)
    steps.append(int(found.tree["step"]))
    assert found.damaged == []
    Series(folder).close()
    assert {path.name for path in folder.iterdir()} <= {"notes.draft", "6", "7", "8"}
    assert newest(folder, CONFIGURATION, tree).tree["step"] == steps[-1]
    shutil.rmtree(folder)
    if done:
      break
  # `steps` need not be sorted, because orbax also writes from threads, whose timing varies.
  assert len(steps) > 10 and steps[0] == 7 and steps[-1] == 8


PROGRAM = """
import itertools, os, pathlib, random, signal, sys, time
import numpy as np
from rnn_jax.checkpoints import Series

folder, random = pathlib.Path(sys.argv[1]), random.Random(0)

def train(place):
  series = Series(place, keep=1)
  for step in itertools.count():
    series.save(step, {"a": np.full(20_000, step)}, {})
    series.wait()
    (place / "sure").write_text(str(step))

for number in range(int(sys.argv[2])):
  place = folder / str(number)
  child = os.fork()
  if child == 0:
    train(place)
  while not (place / "1").exists():
    time.sleep(0.001)
  time.sleep(random.uniform(0, 0.15))
  os.kill(child, signal.SIGKILL)
  os.waitpid(child, 0)
"""


def test_a_process_killed_at_any_moment_leaves_its_last_checkpoint_intact(tmp_path):
  subprocess.run(
    (sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path), "6"),
    check=True,
    cwd=Path(checkpoint.__file__).parents[2],
    timeout=100,
  )
  for number in range(6):
    place = tmp_path / str(number)
    Series(place).close()
    found = newest(place, {}, lambda step: {"a": np.zeros(20_000, np.int64)})
    sure = (place / "sure").read_text()
    assert found.step >= int(sure or 0) and found.damaged == []
    np.testing.assert_array_equal(found.tree["a"], found.step)
    assert {path.name for path in place.iterdir()} <= {"sure", *map(str, range(found.step + 1))}


@pytest.mark.parametrize(
  ("found", "expected"),
  [
    ({"cell": ["gru"]}, None),
    ({"cell": ["gru"], "retired": 1}, None),
    ({"cell": ["gru"], "penalty": 0.5}, "penalty is 0.5, not None"),
    ({"cell": ["lstm"]}, "cell is ['lstm'], not ['gru']"),
    ({}, "cell is None, not ['gru']"),
  ],
)
def test_a_configuration_of_an_older_version_may_lack_entries_that_are_none(found, expected):
  wanted = {"cell": ("gru",), "penalty": None}
  assert difference(found, wanted, older=True) == expected
  assert difference(found, wanted) is not None
