"""Damaged records are never accepted: they are recomputed, or rejected with a one-line error."""

from __future__ import annotations

import json
import os
import shutil

import hypothesis
import jax
import pytest
from absl.testing import flagsaver
from called import called
from hypothesis import strategies as st
from train_all import compile_once

from experiments import plot
from experiments.cli import flag_table
from experiments.sweep import __main__ as sweep_program
from experiments.sweep.config.flags import TABLE
from experiments.sweep.config.resolve import resolve
from experiments.sweep.figures import gradients as figures
from experiments.sweep.records import gathered, locking, run_files
from experiments.sweep.training import divergence, rounds, train

# The number of random examples. If MALFORMED_EXAMPLES is unset, a few fixed examples are tested.
EXAMPLES = os.environ.get("MALFORMED_EXAMPLES")

# Four runs, trained one after the other; every second run diverges.
FLAGS = (
  *("--task=adding", "--cell=elman", "--seed=0,1", "--learning_rate=0.01,1e30", "--hidden_size=2"),
  *("--sequence_length=4", "--batch_size=2", "--steps=120", "--log_every=30", "--measures=none"),
  *("--checkpoint_every=50", "--devices=1", "--compilation_cache=none"),
)


@pytest.fixture(scope="module", autouse=True)
def quick(sweep_flags):
  """Speeds up sweeps: they share compiled programs and recomputed steps, and draw no figures."""
  find, draw = divergence.locate, rounds._draw
  places, batches = {}, {}

  def found(bad):
    if bad.run not in places:
      places[bad.run] = find(bad)
    return places[bad.run]

  def drawn(run, step, task):
    if (run, step) not in batches:
      batches[run, step] = draw(run, step, task)
    return batches[run, step]

  # Set the option globally, because a context manager would not affect the thread in which the
  # sweep compiles.
  jax.config.update("jax_numpy_dtype_promotion", "standard")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "compile_group", compile_once)
    patch.setattr(rounds, "_draw", drawn)
    patch.setattr(divergence, "locate", found)
    patch.setattr(figures, "save_all", lambda *_: ["no picture"])
    yield
  jax.config.update("jax_numpy_dtype_promotion", "strict")


def sweep(folder):
  return called(sweep_program.main, *FLAGS, f"--output_dir={folder}")


@pytest.fixture
def plotted(flags_of):
  """Returns `(folder) -> (exit status, standard error)`, which draws a sweep's figures."""

  def run(folder):
    with flags_of(plot):
      return called(plot.main, folder)

  return run


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory):
  folder = tmp_path_factory.mktemp("finished") / "sweep"
  assert sweep(folder) == (0, "")
  return folder


@pytest.fixture(scope="module")
def interrupted(quick, sweep_flags, tmp_path_factory):
  """The folder of a stopped sweep: two runs are done, one has a checkpoint, one has not started."""
  folder = tmp_path_factory.mktemp("interrupted") / "sweep"
  with flagsaver.flagsaver():
    sweep_flags(["sweep", *FLAGS, f"--output_dir={folder}"])
    found = resolve(flag_table.given(TABLE))
    locking.prepare(found)
  begins = iter([False])

  def stop():
    ended = sum(run_files.is_done(folder, name) for name in found.ids)
    return ended == 2 and next(begins, True)

  with pytest.raises(train.Stopped):
    train.train_runs(found, list(found.ids), stop, lambda *_: None)
  assert len(list(folder.glob("checkpoints/*/50"))) == 1
  return folder


def contents(folder):
  """Returns a sweep's files by path, without the entries that differ between equal sweeps."""
  found = {}
  for path in (p for p in folder.glob("**/*.*") if p.is_file() and "other name" not in p.parts):
    data = path.read_bytes()
    if path.name == "status.json":
      data = {**json.loads(data), "seconds": None}
    if path.name == "sweep.json":
      data = {name: json.loads(data)[name] for name in ("configuration", "runs", "tasks")}
    # Leave out replay files, because a sweep does not recompute a damaged one. The damage is
    # detected when the file is loaded.
    if path.suffix != ".npz":
      found[path.relative_to(folder)] = data
  return found


JSON = st.recursive(
  st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    st.sampled_from(["finished", "diverged", "failed", "running", "..", "/", "\0", 0, 120, 10**30]),
  ),
  lambda inner: (
    st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
  ),
  max_leaves=3,
)


def edited(draw, text):
  """Returns the JSON text with one random value or key changed, or one random entry removed."""
  data = [json.loads(text)]
  inside, key = data, 0
  while isinstance(inside[key], dict | list) and inside[key] and draw(st.integers(0, 4)):
    inside = inside[key]
    keys = list(inside) if isinstance(inside, dict) else range(len(inside))
    key = draw(st.sampled_from(keys))
  what = draw(st.sampled_from(["value", "value", "name", "nothing"]))
  if what == "nothing" and inside is not data:
    del inside[key]
  elif what == "name" and isinstance(inside, dict):
    inside[draw(st.text(max_size=3))] = inside.pop(key)
  else:
    inside[key] = draw(JSON)
  return json.dumps(data[0])


def damaged(draw, path, others):
  """Returns a file's bytes with random damage, or the bytes of a random file from `others`."""
  data = path.read_bytes()
  at = draw(st.integers(0, len(data) - 1))
  what = draw(st.sampled_from(["bit", "cut", "bytes", "other's", "json", "json"]))
  if what == "bit":
    return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
  if what == "cut":
    return data[:at]
  if what == "other's":
    return draw(st.sampled_from(others)).read_bytes()
  if what == "json" and path.suffix in (".json", ".jsonl"):
    # Each line of a .jsonl file is a JSON text of its own.
    lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
    i = draw(st.integers(0, len(lines) - 1))
    lines[i] = edited(draw, lines[i])
    return "\n".join(lines).encode()
  return data[:at] + draw(st.binary(max_size=9)) + data[at + draw(st.integers(0, 9)) :]


def damage(draw, folder):
  """Damages a random file or folder below `folder`; returns a description of the damage."""
  paths = sorted(path for path in folder.rglob("*") if path.name != ".lock")
  path = draw(st.sampled_from(paths))
  whats = ["nothing", "file", "folder", "loop", "other name"]
  if path.is_file() and path.stat().st_size:
    whats += ["bytes"] * 10
  what = draw(st.sampled_from(whats))
  if what == "bytes":
    others = [p for p in paths if p.suffix == path.suffix and p.is_file()]
    path.write_bytes(damaged(draw, path, others))
  elif what == "other name":
    path.rename(path.with_name("other name"))
  else:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if what == "file":
      path.write_bytes(b"{}")
    elif what == "folder":
      (path / "inside").mkdir(parents=True)
    elif what == "loop":
      path.symlink_to(path.name)
  return f"{path.relative_to(folder)}: {what}"


def is_one_error(err):
  *before, last = err.splitlines()
  return last.startswith("error: ") and are_warnings(before)


def are_warnings(lines):
  return all(line.startswith("warning: ") for line in lines)


@pytest.mark.parametrize("whose", ["finished", "interrupted"])
def test_a_sweep_recovers_from_any_damage_or_refuses_it(
  whose, request, finished, plotted, tmp_path
):
  source, whole = request.getfixturevalue(whose), contents(finished)
  expected = gathered.read(finished)[:2]
  folder = tmp_path / "sweep"

  @hypothesis.settings(
    max_examples=int(EXAMPLES or 10),
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(st.data())
  def check(data):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    for _ in range(data.draw(st.sampled_from([1, 1, 2]))):
      hypothesis.note(damage(data.draw, folder))
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(figures, "save_all", lambda *data: drawn.extend(data[:2]) or ["no picture"])
      status, err = plotted(folder)
    if status:
      assert status == 2 and is_one_error(err) and len(err.splitlines()) == 1
    else:
      assert not err
      assert all(ours.identical(right) for ours, right in zip(drawn, expected, strict=True))
    status, err = sweep(folder)
    if status:
      assert status == 2 and is_one_error(err)
    else:
      assert are_warnings(err.splitlines())
      found = contents(folder)
      assert {name: found.get(name) for name in whole} == whole

  check()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "gradients.nc", "status.json"])
def test_a_flipped_bit_in_a_run_is_detected(name, finished, tmp_path):
  folder = tmp_path / "sweep"
  shutil.copytree(finished, folder)
  run = sorted(path.name for path in (folder / "runs").iterdir())[0]
  path, before = folder / "runs" / run / name, run_files.status(folder, run)
  data = path.read_bytes()
  for at in range(0, len(data), 1 + len(data) // 50):
    path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
    state = run_files.status(folder, run)
    assert state == {} or (
      name == "status.json" and {**state, "seconds": before["seconds"]} == before
    )
  path.write_bytes(data)
  assert run_files.status(folder, run) == before and before["status"] in ("finished", "diverged")


def test_a_changed_number_in_sweep_json_is_detected(finished, plotted, tmp_path):
  folder = tmp_path / "sweep"
  shutil.copytree(finished, folder)
  text = (folder / "sweep.json").read_text()
  baseline = json.loads(text)["tasks"][0]["baseline"]
  (folder / "sweep.json").write_text(text.replace(str(baseline), str(2 * baseline)))
  for status, err in (plotted(folder), sweep(folder)):
    assert status == 2
    assert err.startswith(
      f"error: {folder / 'sweep.json'} is damaged: configuration, tasks or runs "
    )


@pytest.mark.parametrize("entry", ["configuration", "tasks", "runs"])
def test_a_sweep_json_without_required_entries_prints_a_one_line_error(
  entry, finished, plotted, tmp_path
):
  folder = tmp_path / "sweep"
  shutil.copytree(finished, folder)
  about = json.loads((folder / "sweep.json").read_text())
  del about["sha256"]
  about[entry] = None
  (folder / "sweep.json").write_text(json.dumps(about))
  assert plotted(folder) == (
    2,
    f"error: {folder / 'sweep.json'} is damaged: it must hold configuration, tasks and runs.\n",
  )


def test_a_failed_run_without_a_reason_is_trained_again(finished, tmp_path):
  folder = tmp_path / "sweep"
  shutil.copytree(finished, folder)
  for path in folder.glob("runs/*/status.json"):
    path.write_text('{"status": "failed"}')
  assert sweep(folder) == (0, "")
  assert contents(folder) == contents(finished)
