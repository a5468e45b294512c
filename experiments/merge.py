"""Unites the runs of several folders: the shards of one sweep, or sweeps that share their settings.

  python -m experiments.merge FOLDER...

A shard is the part of a sweep's runs that one call of `experiments.sweep` trains (`--num_shards`).
Several shards may have written to the same folder. The merged folder equals that of a sweep trained
without shards. Sweeps whose axes have different values, such as other seeds or cells, are united if
they agree in all that the runs of one folder share. The exit status is 0 if all runs finished or
diverged, and 2 otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.cli import command_line, flag_table, paths, plugins
from experiments.cli.flag_table import Flag
from experiments.networks import cell_options
from experiments.runtime import exits, files, locks
from experiments.sweep.config import grid
from experiments.sweep.config.flags import as_flagfile
from experiments.sweep.config.runs import Settings, run_id
from experiments.sweep.records import origins, run_files, sweep_folder
from rnn_jax.checkpoints import difference

TABLE = (
  Flag("output_dir", None, str, "Folder for the whole sweep; if not given, the first FOLDER."),
  Flag("keep_stale", "false", None, "Merge runs that were made by different code, too."),
  *plugins.TABLE,
)
# The design of a sweep whose runs are no grid, since they are those of several sweeps.
UNITED = "united"
_OF_RUNS = ("configuration", "runs", "tasks", "task", "no_effect", "selected")
_INPUTS = ("corpus", "data_file")


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)


def main(arguments: list[str]) -> None:
  """Merges the folders that the arguments name."""
  with command_line.errors_in_one_line("a folder could not be read or written"):
    failed = _merge(*_resolve(arguments))
  if failed:
    sys.exit(exits.FAILED)


def _resolve(arguments: Sequence[str]) -> tuple[Path, list[Path]]:
  """Returns the folder to write, and the folders to read."""
  if not arguments:
    raise ValueError("Name at least one FOLDER: python -m experiments.merge FOLDER...")
  folders = list(dict.fromkeys(paths.path("FOLDER", text) for text in arguments))
  for folder in folders:
    if not (folder / "sweep.json").is_file():
      raise ValueError(f"FOLDER must hold a sweep or a shard of one, got {folder}, which does not.")
  name = flags.FLAGS.output_dir
  if name == "":
    raise ValueError("--output_dir must name a folder, got ''.")
  return folders[0] if name is None else paths.path("--output_dir", name), folders


def _merge(target: Path, folders: Sequence[Path]) -> bool:
  """Copies the runs of all folders into `target`, and finishes the sweep there.

  Returns:
    Whether any run has failed.
  Raises:
    ValueError: if the folders belong to different sweeps, list other runs than their configuration
      gives, hold different records of one run, are in use, lack runs or, without --keep_stale, hold
      runs of different code.
  """
  sweeps = [sweep_folder.read_sweep(folder) for folder in folders]
  first = sweeps[0]
  for folder, about in zip(folders, sweeps, strict=True):
    plugins.check_imported(str(folder), about["configuration"])
  for folder, about in zip(folders, sweeps, strict=True):
    found = _difference(about["configuration"], first["configuration"])
    if found is not None:
      raise ValueError(
        f"All FOLDERs must hold sweeps that share their settings, but {folder} differs from "
        f"{folders[0]}: its {found}."
      )
    _check_ids(folder, about)
  united = unite(sweeps)
  sweep_folder.check_folder(target, united["configuration"], overwrite=False)
  sources = [folder for folder in folders if folder.resolve() != target.resolve()]
  with contextlib.ExitStack() as stack:
    for folder in (target, *sources):
      stack.enter_context(locks.folder_lock(folder))
    ids = united["runs"]
    states = {folder: run_files.statuses(folder, ids) for folder in (target, *sources)}
    where = {name: _find(name, states) for name in ids}
    if not flags.FLAGS.keep_stale:
      _check_code(
        {name: (source, states[source][name]) for name, source in where.items() if source}
      )
    _prepare(target, folders[0], sweeps, united)
    for name, source in where.items():
      if source is not None and source != target:
        run_files.write_all(target, name, run_files.read_all(source, name), durable=False)
    os.sync()  # waits for the disk once, not once for each file
    missing = [name for name, source in where.items() if source is None]
    if missing:
      raise ValueError(
        f"{len(missing)} of {len(ids)} runs are missing, the first is {missing[0]}; the others are "
        f"safe in {target}. Finish the missing shards, then merge again."
      )
    # Imported here because loading matplotlib takes a second, which would delay error messages.
    from experiments.sweep import finish

    return finish.finish(target, ids)


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
  """Returns the first difference that keeps two sweeps from being united; None if there is none."""
  if "design" in found and "design" in wanted:
    return sweep_folder.shared_difference(found, wanted)
  return difference(found, wanted, older=True)


def _check_ids(folder: Path, about: Mapping[str, Any]) -> None:
  """Checks that the run ids in `sweep.json` are those that its configuration gives.

  A configuration of an older version, and those of united sweeps and of sweeps with `select`, do
  not give the ids.

  Raises:
    ValueError: if the ids or the configuration are wrong.
  """
  configuration, found = about["configuration"], about["runs"]
  if configuration.get("design", UNITED) == UNITED or configuration.get("select"):
    return
  try:
    ids = _expanded(configuration, found)
  except (ValueError, TypeError, KeyError, AttributeError):  # wrong types raise several errors
    ids = []
  if found != ids:
    raise ValueError(
      f"{folder / 'sweep.json'} is damaged, or from another version: its runs are not those that "
      "its configuration gives."
    )


def _expanded(configuration: Mapping[str, Any], found: Sequence[str]) -> list[str]:
  """Returns the run ids that a configuration gives; `found` are the recorded ids."""
  names = [field.name for field in dataclasses.fields(Settings)]
  settings = Settings(**{name: configuration[name] for name in names if name in configuration})
  options = cell_options.by_cell(
    [cell_options.parse(text) for text in configuration["cell_option"]],
    configuration["cell"],
    grid.AXES,
  )
  axes = {**grid.ADDED, **configuration}
  runs = grid.expand(axes, options, configuration["design"]).runs
  if settings.match_params is not None:
    # The hidden sizes follow from the task's text, so they are taken from the ids.
    widths = [re.search(r"-h([0-9]{1,9})-", name) for name in found]
    runs = [
      dataclasses.replace(run, hidden_size=int(width[1]) if width else None)
      for run, width in zip(runs, widths, strict=True)
    ]
  return [run_id(run, settings, configuration["corpus_sha256"]) for run in runs]


def unite(sweeps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the entries of `sweep.json` that describe the runs of several sweeps.

  Args:
    sweeps: contents of the `sweep.json` of each sweep; they must share their settings.
  Returns:
    {"configuration", "runs", "tasks", "no_effect", "selected"}, and the input files. The axes have
    the values of all sweeps. If the runs are not those of a grid over these axes, `design` is
    `united`.
  """
  first = sweeps[0]
  configurations = [about["configuration"] for about in sweeps]
  if all(difference(found, configurations[0], older=True) is None for found in configurations):
    return {name: first[name] for name in (*_OF_RUNS, *_INPUTS) if name in first}
  ids = list(dict.fromkeys(name for about in sweeps for name in about["runs"]))
  axes = {
    name: list(dict.fromkeys(v for found in configurations for v in {**grid.ADDED, **found}[name]))
    for name in (*grid.AXES, "cell_option")
  }
  axes = {name: values for name, values in axes.items() if values != grid.ADDED.get(name)}
  shared = sweep_folder.shared(configurations[0])
  modules = list(dict.fromkeys(n for found in configurations for n in found.get("import", [])))
  configuration = {**axes, "design": "grid", **shared}
  if modules:
    configuration = {"import": modules, **configuration}
  tasks = {json.dumps(part): part for about in sweeps for part in about["tasks"]}
  no_effect = dict.fromkeys(text for about in sweeps for text in about["no_effect"])
  try:
    expanded = _expanded(configuration, ids)
  except ValueError:  # such as two different values of one cell option, or of match_params
    expanded = []
  if set(expanded) == set(ids):
    ids = expanded
  else:
    configuration["design"] = UNITED
  return {
    "configuration": configuration,
    "runs": ids,
    "tasks": list(tasks.values()),
    "no_effect": list(no_effect),
    "selected": [choice for about in sweeps for choice in about["selected"]],
    **{name: first[name] for name in _INPUTS if name in first},
  }


def _find(name: str, states: Mapping[Path, Mapping[str, run_files.Status]]) -> Path | None:
  """Returns the first folder where the run is done, else the first where it failed, else None.

  Args:
    name: id of the run.
    states: {folder: {run id: status}}.
  Raises:
    ValueError: if two folders hold different records of the run.
  """

  def where(*wanted: str) -> list[Path]:
    return [folder for folder, found in states.items() if found[name].get("status") in wanted]

  done = where(*run_files.DONE)
  for folder in done[1:]:
    ours, theirs = (run_files.read_all(path, name) for path in (done[0], folder))
    for record in run_files.RECORDS:
      if ours[record] != theirs[record]:
        raise ValueError(
          f"Two FOLDERs hold different records of run {name}: its {record} in {folder} differs "
          f"from that in {done[0]}. Nothing was merged; leave one of the two out."
        )
  return next(iter(done + where("failed")), None)


def _check_code(where: Mapping[str, tuple[Path, run_files.Status]]) -> None:
  """Checks that the same code made the runs; `where` is {run id: (its folder, its status)}.

  Raises:
    ValueError: if files that two runs use differ; the message names them and the commits.
  """
  sweeps = {
    folder: sweep_folder.read_sweep(folder) for folder in {folder for folder, _ in where.values()}
  }
  text = origins.mixture(
    (name, sweeps[folder], state.get("code")) for name, (folder, state) in where.items()
  )
  if text is not None:
    raise ValueError(
      f"All FOLDERs must hold runs of the same code, but {text}. Nothing was merged; pass "
      "--keep_stale to merge them anyway."
    )


def _prepare(
  target: Path, first: Path, sweeps: Sequence[Mapping[str, Any]], united: Mapping[str, Any]
) -> None:
  """Writes `sweep.json` and `sweep.flags` to `target`, and records all sweeps' environments.

  Args:
    target: folder of the united sweep; the environments in its `sweep.json`, if any, are kept.
    first: folder from which `sweep.flags` is copied if all sweeps are equal.
    sweeps: contents of each folder's `sweep.json`, those of `first` first.
    united: the result of `unite`.
  """
  if all(about["runs"] == united["runs"] for about in sweeps):
    flags_text = files.read_bytes(first / "sweep.flags", files.LARGEST_JSON).decode()
  else:
    flags_text = _flagfile(united)
  if (target / "sweep.json").exists():
    sweep_folder.replace_runs(target, united)
  else:
    sweep_folder.write_new(target, {**sweeps[0], **united})
  files.write_text(target / "sweep.flags", flags_text)
  environments = (part for about in sweeps for part in (about, *about.get("continued", [])))
  sweep_folder.note_environment(target, *environments)


def _flagfile(united: Mapping[str, Any]) -> str:
  """Returns a flagfile for all combinations of a united sweep's values."""
  configuration = united["configuration"]
  inputs = {name: united[name]["name"] for name in _INPUTS if united.get(name)}
  lines = as_flagfile({**configuration, "design": "grid"}, inputs)
  if configuration["design"] != UNITED:
    return lines
  return (
    f"# Several sweeps were united. These flags train all combinations of their values.\n{lines}"
  )


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
