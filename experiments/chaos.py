"""Kills a sweep at random moments, and compares its files with those of an uninterrupted sweep.

  python -m experiments.chaos --kills=50

After each kill, the same command resumes the sweep. When a sweep finishes before its kill, its
files are compared, and a new sweep starts in an empty folder, until all kills are done. The moment
of a kill is uniformly distributed over the time that an uninterrupted sweep takes. The signal is
SIGKILL, SIGTERM or SIGINT, with equal probability. The exit status is 0 if all files are equal, bit
for bit. Otherwise it is 1, the files that differ are named, and both folders are kept.
"""

from __future__ import annotations

import collections
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments.cli import command_line, flag_table, flagfiles, paths
from experiments.cli.flag_table import Flag
from experiments.cli.parsers import integer
from experiments.runtime import files, locks
from experiments.sweep.records import sweep_folder

DIFFERENT = 1
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


TABLE = (
  Flag("kills", "50", integer("kills"), "Number of kills."),
  Flag("seed", "0", integer("seed", minimum=0), "Seed of the moments and signals."),
  Flag(
    "sweep", "chaos", str, "Flagfile of the sweep, by path or by name; its --output_dir is ignored."
  ),
)


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)


def main(arguments: list[str]) -> None:
  """Kills the sweep that `--sweep` describes, and prints whether its files stayed the same."""
  values = flags.FLAGS
  with command_line.errors_in_one_line("a temporary folder could not be read or written"):
    command_line.check_no_arguments(arguments)
    sweep = paths.absolute_path("--sweep", str(flagfiles.find("--sweep", values.sweep)))
    if not sweep.is_file():
      raise ValueError(f"--sweep must be a flagfile, got {sweep}.")
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    names = kill_repeatedly(sweep, values.kills, random.Random(values.seed), folder)
  if names:
    print(f"These files differ: {', '.join(names)}. Both sweeps are kept in {folder}.")
    sys.exit(DIFFERENT)
  shutil.rmtree(folder)
  print("All records are equal, bit for bit.")


def kill_repeatedly(sweep: Path, kills: int, chance: random.Random, folder: Path) -> list[str]:
  """Kills and resumes sweeps, and lets the last one finish.

  Args:
    sweep: flagfile of the sweep.
    kills: number of kills.
    chance: random generator of the kills' moments and signals.
    folder: parent of the two sweeps' folders: `whole`, which is never killed, and `killed`.
  Returns:
    The names of the files that differ between the two folders or are missing in one of them.
  Raises:
    ValueError: if a sweep that was not killed fails; the message holds the last line of its error.
  """
  whole, killed = folder / "whole", folder / "killed"
  _finish(_start(sweep, whole), "uninterrupted reference")
  expected = records_of(whole)
  # The second sweep measures the duration, because the first one also compiles its programs.
  begin = time.monotonic()
  _finish(_start(sweep, killed), "second uninterrupted")
  seconds = time.monotonic() - begin
  names = different(expected, records_of(killed))
  if names:
    return names
  shutil.rmtree(killed)
  print(f"An uninterrupted sweep takes {seconds:.1f} s.", flush=True)
  done, sweeps = 0, 1
  phases: collections.Counter[str] = collections.Counter()
  while done < kills:
    process, delay = _start(sweep, killed), chance.uniform(0, seconds)
    try:
      process.wait(timeout=delay)
      _finish(process, "resumed")
      sweeps += 1
      names = different(expected, records_of(killed))
      if names:
        return names
      shutil.rmtree(killed)
    except subprocess.TimeoutExpired:
      number = chance.choice(_SIGNALS)
      process.send_signal(number)
      process.communicate()
      done += 1
      phase = _phase(killed)
      phases[f"{number.name} {phase}"] += 1
      print(f"kill {done} of {kills}: {number.name} after {delay:.1f} s, {phase}", flush=True)
  _finish(_start(sweep, killed), "resumed")
  print(f"{kills} kills of {sweeps} sweeps:")
  for phase, count in sorted(phases.items()):
    print(f"  {count} × {phase}")
  return different(expected, records_of(killed))


def records_of(folder: Path) -> dict[str, object]:
  """Returns the contents of a sweep's files by name, without lock files, times and durations."""
  found: dict[str, object] = {}
  for path in sorted(p for p in folder.rglob("*") if p.is_file()):
    if path.name in ("sweep.json", locks.LOCK, sweep_folder.PREPARE_LOCK):
      continue
    contents: Any = path.read_bytes()
    if path.name == "status.json":
      contents = files.read_json(path)
      contents.pop("seconds", None)
    found[str(path.relative_to(folder))] = contents
  return found


def different(expected: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
  """Returns the names of the files that differ or are missing in one of two folders."""
  names = expected.keys() | found.keys()
  return sorted(name for name in names if expected.get(name) != found.get(name))


def _start(sweep: Path, folder: Path) -> subprocess.Popen[str]:
  command = (sys.executable, "-m", "experiments.sweep", f"--flagfile={sweep}")
  return subprocess.Popen(
    (*command, f"--output_dir={folder}"),
    cwd=Path(__file__).parents[1],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def _finish(process: subprocess.Popen[str], which: str) -> None:
  _, error = process.communicate()
  if process.returncode:
    last = (error.strip() or "no message").splitlines()[-1]
    raise ValueError(f"The {which} sweep failed (exit status {process.returncode}): {last}")


def _phase(folder: Path) -> str:
  """Returns, as text, the phase that the sweep in the folder had reached when it was killed."""
  paths = folder.glob("runs/*/status.json")
  states = [files.read_json(path)["status"] for path in paths]
  if (folder / "gradients.nc").exists():
    return "while drawing"
  if not states:
    return "before the first run"
  checkpointed = any((folder / "checkpoints").glob("*/*/"))
  done = sum(state != "running" for state in states)
  return f"with {done} runs done" + (" and a checkpoint" if checkpointed else "")


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
