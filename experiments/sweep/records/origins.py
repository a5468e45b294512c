"""Compares the code and the versions that made a sweep's records with those of this process.

`sweep.json` holds the code, versions and environment of each start. The status of a run holds the
key of the start that made its record. Version 0.1.0 recorded neither.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.runtime import backend, exits, files, provenance
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records.sweep_folder import json_sha256, read_sweep, sweep_tasks
from rnn_jax import registry

_ROOT = "experiments.sweep.training.rounds"
# A difference in these is reported. The version of rnn_jax is not: its files are compared.
_VERSIONS = ("python", "jax", "jaxlib", "flax", "optax", "numpy")
_KEY = ("code", "versions", "environment")


def here() -> dict[str, Any]:
  """Returns the entries of `sweep.json` for this process's code, versions and environment."""
  return _here(registry.count())


@functools.cache
def _here(registrations: int) -> dict[str, Any]:
  """Returns the result of `here`, which depends on what has been registered so far."""
  return {
    "versions": provenance.versions((*provenance.PACKAGES, "xarray", *provenance.plugins())),
    "git": provenance.git(),
    "environment": backend.environment(),
    "code": provenance.code(_ROOT),
  }


def key_of(about: Mapping[str, Any]) -> str | None:
  """Returns the key of a start in `sweep.json`; None if its code is not recorded."""
  if not isinstance(about.get("code"), dict) or not isinstance(about.get("versions"), dict):
    return None
  return json_sha256([about[name] for name in _KEY if name in about])[:16]


def key() -> str:
  """Returns the key of this process, which the records that it makes hold."""
  return _key(registry.count())


@functools.cache
def _key(registrations: int) -> str:
  """Returns the result of `key`, which depends on what has been registered so far."""
  return str(key_of(here()))


def starts(about: Mapping[str, Any]) -> dict[object, Mapping[str, Any]]:
  """Returns the starts whose code is in `sweep.json`, by key."""
  found = {key_of(entry): entry for entry in (*about.get("continued", []), about)}
  return {name: entry for name, entry in found.items() if name is not None}


class Origins(NamedTuple):
  """Records, by how the code that made them compares with this process's.

  Attributes:
    stale: {id of a run whose record was made by other code: how the code differs}.
    versions: {id of a run made with other versions or another environment: which}.
    unknown: ids of runs whose code is not recorded.
  """

  stale: dict[str, str]
  versions: dict[str, str]
  unknown: list[str]


def compare(sweep: Sweep, keys: Mapping[str, object]) -> Origins:
  """Compares the origin of a sweep's records with this process; equal keys are compared once.

  Args:
    sweep: the sweep, whose folder is prepared.
    keys: {run id: key in the status of its record, or None}.
  """
  found = Origins({}, {}, [])
  if all(name == key() for name in keys.values()):
    return found
  entries, measures = starts(read_sweep(sweep.folder)), sweep.settings.measure_names

  @functools.cache
  def differences(name: object, cell: str, task: str) -> tuple[str | None, str]:
    entry = entries[name]
    code = provenance.code(_ROOT, cell, task, measures)
    return provenance.difference(entry, code), _versions(entry)

  for run, name in keys.items():
    if not isinstance(name, str) or name not in entries:
      found.unknown.append(run)
    elif name != key():
      code, versions = differences(name, sweep.ids[run].cell, sweep.ids[run].task)
      if code is not None:
        found.stale[run] = code
      if versions:
        found.versions[run] = versions
  return found


def _versions(entry: Mapping[str, Any]) -> str:
  """Returns how the versions and the environment of an earlier start differ; "" if they do not."""
  pairs = [(n, entry["versions"].get(n), here()["versions"].get(n)) for n in _VERSIONS]
  before, now = entry.get("environment") or {}, here()["environment"]
  if isinstance(before, dict):
    pairs += [(n, before.get(n), now.get(n)) for n in sorted({*before, *now})]
  changed = [pair for pair in pairs if pair[1] != pair[2]]
  return ", ".join(f"{n} {then or 'unset'}, now {now or 'unset'}" for n, then, now in changed)


def stale(sweep: Sweep, states: Mapping[str, Mapping[str, Any]]) -> set[str]:
  """Returns the ids of the recorded runs that other code made; none with `--keep_stale`."""
  if sweep.keep_stale:
    return set()
  return set(compare(sweep, {name: state.get("code") for name, state in states.items()}).stale)


def report(sweep: Sweep, kind: str, keys: Mapping[str, object]) -> set[str]:
  """Prints which records other code or versions made; returns the ids of the runs to train anew.

  Args:
    sweep: the sweep.
    kind: what is compared: `records` or `checkpoints`.
    keys: {run id: key of its record or checkpoint, or None}.
  """
  found = compare(sweep, keys)
  if found.stale:
    fate = "are kept (--keep_stale)" if sweep.keep_stale else "are not used; their runs start again"
    hint = "" if sweep.keep_stale else " Pass --keep_stale to use them."
    exits.warn(f"the {kind} of {_runs(found.stale)} {fate}: {_texts(found.stale)}.{hint}")
  kept = {run: text for run, text in found.versions.items() if run not in found.stale}
  if kept:
    exits.warn(
      f"the {kind} of {_runs(kept)} are kept, although other versions made them: {_texts(kept)}."
    )
  if found.unknown:
    exits.warn(
      f"the {kind} of {_runs(found.unknown)} are kept, but which code made them is not recorded."
    )
  return set() if sweep.keep_stale else set(found.stale)


def _runs(runs: Mapping[str, object] | list[str]) -> str:
  return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"


def _texts(found: Mapping[str, str]) -> str:
  return "; ".join(sorted(set(found.values())))


def mixture(records: Iterable[tuple[str, Mapping[str, Any], object]]) -> str | None:
  """Returns which files and commits differ between the records of a sweep; None if none do.

  Only a file that two runs use can differ. Runs whose code is not recorded are left out.

  Args:
    records: (run id, contents of the `sweep.json` next to it, key in its status).
  """
  versions: dict[str, dict[str, str]] = {}
  for entry, cell, task, measures in _distinct(records):
    for name in provenance.code(_ROOT, cell, task, measures):
      commits = versions.setdefault(name, {})
      commits.setdefault(str(entry["code"].get(name)), provenance.commit_text(entry))
  mixed = {name: commits for name, commits in versions.items() if len(commits) > 1}
  if not mixed:
    return None
  texts = sorted({commit for found in mixed.values() for commit in found.values()})
  return f"these files differ: {provenance.names_text(mixed)} ({' and '.join(texts)})"


def _distinct(
  records: Iterable[tuple[str, Mapping[str, Any], object]],
) -> Iterator[tuple[Mapping[str, Any], str, str | None, list[str]]]:
  """Yields (start, cell, task, measures), once for each key and cell.

  None stands for several tasks.
  """
  entries: dict[int, dict[object, Mapping[str, Any]]] = {}
  seen = set()
  for run, about, name in records:
    cell = run.split("-")[0]  # as `run_id` puts it there
    if isinstance(name, str) and (name, cell) not in seen:
      seen.add((name, cell))
      found = entries.setdefault(id(about), starts(about))
      if name in found:
        tasks = {task for task, _ in sweep_tasks(about)}
        measures = str(about["configuration"].get("measures")).split(",")
        yield found[name], cell, tasks.pop() if len(tasks) == 1 else None, measures


def warn_if_changed(run_folder: Path, cell: str, task: str) -> None:
  """Prints a warning if other code than this process's made the record in a run's folder.

  Prints nothing if the folder is not in that of a sweep that records its code.
  """
  try:
    state = files.read_json(run_folder / "status.json")
    entry = starts(read_sweep(run_folder.parents[1]))[state["code"]]
  except (OSError, ValueError, KeyError, IndexError, TypeError):
    return
  text = provenance.difference(entry, provenance.code(_ROOT, cell, task, measures=()))
  if text is not None:
    exits.warn(f"this run was recorded by different code: {text}.")


def warn_if_mixed(
  abouts: Sequence[Mapping[str, Any]], states: Mapping[str, Mapping[str, Any]]
) -> None:
  """Prints a warning if different code made the records of one or several sweeps.

  Args:
    abouts: the contents of each sweep's `sweep.json`.
    states: the status of each run of these sweeps, by run id.
  """
  entries = [entry for about in abouts for entry in (*about.get("continued", []), about)]
  joint = {**abouts[0], "continued": entries}
  text = mixture((run, joint, state.get("code")) for run, state in states.items())
  if text is not None:
    exits.warn(f"the runs were made by different code: {text}.")
