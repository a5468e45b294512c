"""The output folder of a sweep: its layout, the check before it is used, and `sweep.json`.

sweep.json        resolved configuration, versions, devices, git commit, source files, corpus, data
sweep.flags       the flags that reproduce the sweep
summary.csv       one line for each run; see gathered.py
gradients.nc      norms and measures with axes (run, step, layer, time, lag, …); see gathered.py
figures/          figures
ablation/         tables and figure of experiments.ablation
report.html       page of experiments.report
runs/<run id>/    config.json, status.json, metrics.jsonl, gradients.nc; error.txt if the run
                  failed; see run_files.py. replay.npz if the run diverged; see
                  ../training/replay_file.py
selection/        with --select, the sweep by which values were chosen
tensorboard/      event files of the tracker TensorBoard; see ../trackers/tensorboard.py
checkpoints/      progress of unfinished runs; see round_checkpoints.py
slurm_logs/       logs of SLURM jobs
.lock             locked by the processes that write here; see locking.py
.lock-prepare     locked while one of several processes prepares the folder
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from experiments.cli import plugins
from experiments.runtime import files, locks
from experiments.sweep.config.grid import AXES
from experiments.sweep.config.sweep import SELECTION
from rnn_jax.checkpoints import difference

# The files and folders that --overwrite deletes, in this order. sweep.json is last, so that an
# interrupted deletion leaves a folder that is still recognized as a sweep's.
_OURS = (
  "summary.csv",
  "gradients.nc",
  "figures",
  "ablation",
  "report.html",
  "tensorboard",
  "checkpoints",
  "slurm_logs",
  "runs",
  "sweep.flags",
  "sweep.json",
)
# The entries of sweep.json by which two environments differ.
_ENVIRONMENT = ("versions", "devices", "git", "code", "environment")
PREPARE_LOCK = ".lock-prepare"
# The folder in which `run_files.write_all` collects a run's files before they replace the run's
# folder.
ARRIVING = "arriving.tmp"


def check_folder(
  folder: Path, configuration: Mapping[str, object], overwrite: bool, *, extend: bool = True
) -> None:
  """Checks that a folder can be the sweep's output folder; changes nothing.

  The folder must be writable, and must be new, be empty, or hold a sweep. That sweep must have the
  same shared settings, unless `overwrite` is True. Its files and folders must not be symbolic
  links.

  Args:
    folder: the folder.
    configuration: the sweep's configuration.
    overwrite: whether a sweep with other shared settings is going to be replaced.
    extend: whether the sweep in the folder may have other runs.
  Raises:
    ValueError: if the folder cannot be used. If it holds another sweep, the message names the first
      difference between the configurations.
  """
  try:
    _check_folder(folder, configuration, overwrite, extend)
  except OSError as error:
    raise ValueError(
      f"--output_dir must be a writable folder, got {folder} ({error.strerror})."
    ) from None


def _check_folder(
  folder: Path, configuration: Mapping[str, object], overwrite: bool, extend: bool
) -> None:
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"--output_dir must be a folder, got the file {folder}.")
  existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
  with tempfile.TemporaryFile(dir=existing):
    pass  # creating the temporary file raises OSError if the folder is not writable
  if not folder.exists():
    return
  # Checked before anything is written or deleted, so that --overwrite does not stop halfway.
  files.check_no_links(*(folder / name for name in (*_OURS, locks.LOCK, PREPARE_LOCK, ARRIVING)))
  if not (folder / "sweep.json").exists():
    # A sweep that was killed right after its start, or while it selected, leaves only these.
    first = {locks.LOCK, PREPARE_LOCK, "sweep.flags", SELECTION}
    rest = sorted(p.name for p in folder.iterdir() if p.suffix != ".tmp" and p.name not in first)
    if rest:
      raise ValueError(
        f"--output_dir must be new, empty, or hold a sweep, got {folder}, which holds '{rest[0]}'."
      )
  elif not overwrite:
    before = read_sweep(folder)["configuration"]
    found = shared_difference(before, configuration)
    if found is not None:
      raise ValueError(
        f"--output_dir holds another sweep (its {found}), got {folder}. Runs of one folder must "
        "share this setting; choose another folder, or pass --overwrite to replace the sweep."
      )
    found = None if extend else difference(before, configuration)
    if found is not None:
      raise ValueError(
        f"--output_dir holds a sweep of other runs (its {found}), got {folder}. A shard cannot "
        "change which runs a folder holds; run the sweep without --num_shards, or choose another "
        "folder and combine the two by experiments.merge."
      )


def shared(configuration: Mapping[str, object]) -> dict[str, object]:
  """Returns the part of a configuration that all sweeps in one folder must agree in."""
  own = {*AXES, "cell_option", "design", "select", "select_seed", "import"}
  return {name: value for name, value in configuration.items() if name not in own}


def shared_difference(found: Mapping[str, object], wanted: Mapping[str, object]) -> str | None:
  """Returns the first difference between the shared settings of two configurations; None if equal.

  A configuration of a version up to 0.2.0, whose run ids have another form, differs from all
  others.
  """
  if "design" not in found:
    return "version of rnn_jax is 0.2.0 or earlier"
  return difference(shared(found), shared(wanted))


def prepare_folder(
  folder: Path,
  configuration: Mapping[str, object],
  about: Mapping[str, object],
  flags: str,
  overwrite: bool,
) -> None:
  """Creates the folder of a sweep, or prepares an existing one to resume the sweep.

  Args:
    folder: the output folder.
    configuration: the sweep's configuration.
    about: the other entries of `sweep.json`. If the folder holds a sweep with other runs, they
      replace its configuration, runs and tasks. If the sweep resumes with different versions,
      devices or git commit, the new ones are appended to the file's list `continued`.
    flags: contents of `sweep.flags`.
    overwrite: whether to delete another sweep if the folder holds one.
  """
  if overwrite and (folder / "sweep.json").exists() and _is_another(folder, configuration):
    files.remove(*(folder / name for name in _OURS))
  if not (folder / "sweep.json").exists():
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "sweep.flags", flags)
    write_new(folder, {"configuration": configuration, **about})
    return
  files.write_text(folder / "sweep.flags", flags)  # rewritten in case the old file is damaged
  names = ("runs", "tasks", "no_effect", "selected", "corpus", "data_file")
  changed = {name: about[name] for name in names if name in about}
  replace_runs(folder, {"configuration": configuration, **changed})
  note_environment(folder, about)


def write_new(folder: Path, about: Mapping[str, object]) -> None:
  """Writes `sweep.json` with a checksum."""
  files.write_json(folder / "sweep.json", {**about, "sha256": _sweep_sha256(about)})


def replace_runs(folder: Path, changed: Mapping[str, Any]) -> None:
  """Replaces entries of `sweep.json` that describe the sweep's runs, if its configuration changes.

  Args:
    folder: the sweep's folder.
    changed: the entries, among them `configuration`.
  """
  before = read_sweep(folder)
  if difference(before["configuration"], changed["configuration"]) is not None:
    write_new(folder, {**before, **changed})


def changed_runs(folder: Path, ids: Collection[str]) -> str | None:
  """Returns how a sweep with the runs `ids` changes that in the folder; None if it does not."""
  try:
    before = set(read_sweep(folder)["runs"])
  except FileNotFoundError:
    return None
  added, removed = len(set(ids) - before), len(before - set(ids))
  if not added and not removed:
    return None
  text = f"{folder} holds a sweep of {len(before)} runs; this one adds {added}"
  if removed:
    text += f" and leaves out {removed}, whose records stay in the folder"
  return f"{text}."


def note_environment(folder: Path, *abouts: Mapping[str, object]) -> None:
  """Appends the environments in `abouts`, which are contents of sweep.json, to its `continued`.

  An environment is the versions, devices, git commit, source files and variables of a start. Those
  that equal the one of the sweep's first start or of an entry in the list are left out.
  """
  before = read_sweep(folder)
  continued = before.get("continued", [])
  # Compare with all earlier entries, so that machines that alternate are recorded only once each.
  known = {_environment(about) for about in (before, *continued)}
  added = []
  for about in abouts:
    if (environment := _environment(about)) not in known:
      known.add(environment)
      added.append({name: about.get(name) for name in ("started", *_ENVIRONMENT)})
  if added:
    files.write_json(folder / "sweep.json", {**before, "continued": [*continued, *added]})


def _environment(about: Mapping[str, object]) -> str:
  """Returns the entries by which environments differ, as text."""
  return json.dumps([about.get(name) for name in _ENVIRONMENT], sort_keys=True)


def _is_another(folder: Path, configuration: Mapping[str, object]) -> bool:
  try:
    return shared_difference(read_sweep(folder)["configuration"], configuration) is not None
  except ValueError:  # sweep.json is damaged
    return True


def read_sweep(folder: Path) -> dict[str, Any]:
  """Returns the contents of `sweep.json`: the sweep's configuration, run ids and environment.

  Raises:
    ValueError: if the file is damaged, lacks an entry, or a run id is not a file name.
  """
  path = folder / "sweep.json"
  about = files.read_json(path)
  runs, continued = about.get("runs"), about.get("continued", [])
  if not (
    isinstance(about.get("configuration"), dict)
    and _are_modules(about["configuration"].get("import", []))
    and _are_tasks(about)
    and (isinstance(runs, list) and all(_is_file_name(name) for name in runs))
    and (isinstance(continued, list) and all(isinstance(part, dict) for part in continued))
  ):
    raise ValueError(f"{path} is damaged: it must hold configuration, tasks and runs.")
  # Files of older versions have no checksum.
  if about.get("sha256", _sweep_sha256(about)) != _sweep_sha256(about):
    raise ValueError(
      f"{path} is damaged: configuration, tasks or runs do not match their checksum."
    )
  return about


def sweep_tasks(about: Mapping[str, Any]) -> dict[tuple[str, int], tuple[str, float]]:
  """Returns {(task, sequence length): (unit of its loss, baseline)} of the runs of a sweep.

  Args:
    about: the contents of `sweep.json`. Versions up to 0.2.0 recorded a single task.
  """
  if "task" in about:
    configuration = about["configuration"]
    parts = [{name: configuration.get(name) for name in ("task", "sequence_length")}]
    parts[0] |= about["task"]
  else:
    parts = about["tasks"]
  return {
    (part["task"], part["sequence_length"]): (part["loss_unit"], part["baseline"]) for part in parts
  }


def _are_modules(names: object) -> bool:
  return isinstance(names, list) and all(map(plugins.is_module, names))


def _are_tasks(about: Mapping[str, Any]) -> bool:
  try:
    found = sweep_tasks(about)
    return bool(found) and all(
      is_text(task)
      and (isinstance(length, int | None) and is_text(unit) and isinstance(baseline, int | float))
      for (task, length), (unit, baseline) in found.items()
    )
  except (KeyError, TypeError, AttributeError):
    return False


def is_text(value: object) -> bool:
  """Returns whether a value from a record is text without control characters.

  matplotlib prints names in its warnings, and a terminal would obey control characters in them.
  """
  return isinstance(value, str) and value.isprintable()


def _is_file_name(name: object) -> bool:
  """Returns whether `name` is the name of a file in a folder, rather than a path out of it."""
  return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _sweep_sha256(about: Mapping[str, object]) -> str:
  """Hashes configuration, task and run ids, the entries of sweep.json that never change."""
  task = about["task" if "task" in about else "tasks"]
  return json_sha256([about["configuration"], task, about["runs"]])


def json_sha256(data: object) -> str:
  """Returns the SHA-256 hash of JSON data; it does not depend on the order of keys."""
  return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
