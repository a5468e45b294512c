"""Kills a sweep at random moments, and compares what it leaves with an uninterrupted one's.

  python -m experiments.chaos --kills=50

The sweep is started again with the same command until it has ended, and then anew, until all kills
are done. A moment is drawn from the time that an uninterrupted sweep takes, a signal from SIGKILL,
SIGTERM and SIGINT, each as likely. Exit status 0: every record is the same, bit for bit; 1: some
are not; they are named, and both folders are kept.
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

from experiments.cli import command_line, parsers
from experiments.runtime import files
from experiments.sweep.records import folder as sweep_folder

DIFFERENT = 1
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def define_flags() -> None:
  """All flags of this program."""
  integer = parsers.integer
  parsers.define("kills", "50", integer("kills"), "How often to kill.")
  parsers.define("seed", "0", integer("seed", minimum=0), "Seed of moments and signals.")
  flags.DEFINE_string(
    "sweep",
    str(Path(__file__).parent / "flagfiles" / "chaos.flags"),
    "Flagfile of the sweep; its --output_dir is not used.",
  )
  flags.adopt_module_key_flags(parsers)  # so that --help shows them


def main(arguments: list[str]) -> None:
  """Does it, and says what came of it."""
  values = flags.FLAGS
  with command_line.errors_in_one_line("A temporary folder could not be read or written"):
    command_line.check_no_arguments(arguments)
    sweep = command_line.path("sweep", values.sweep)
    if not sweep.is_file():
      raise ValueError(f"--sweep must be a flagfile, got {sweep}.")
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    found = torment(sweep, values.kills, random.Random(values.seed), folder)
  if found:
    print(f"different: {', '.join(found)}; see {folder}.")
    sys.exit(DIFFERENT)
  shutil.rmtree(folder)
  print("All records are the same, bit for bit.")


def torment(sweep: Path, kills: int, chance: random.Random, folder: Path) -> list[str]:
  """Kills sweeps until that is done, and lets the last one end.

  Args:
    sweep: flagfile.
    kills: how many.
    chance: draws moments and signals.
    folder: for the sweeps, `whole` and `killed`.
  Returns:
    The names of the files that differ, or are in one folder alone.
  Raises:
    ValueError: a sweep failed that was not killed; with its last line.
  """
  whole, killed = folder / "whole", folder / "killed"
  _let_end(_start(sweep, whole))
  expected = records_of(whole)
  # Once more: it took longer, as it had to compile.
  begin = time.monotonic()
  _let_end(_start(sweep, killed))
  seconds = time.monotonic() - begin
  names = different(expected, records_of(killed))
  if names:
    return names
  shutil.rmtree(killed)
  print(f"An uninterrupted sweep takes {seconds:.1f} s.", flush=True)
  done, sweeps = 0, 0
  died: collections.Counter[str] = collections.Counter()
  while done < kills:
    process, delay = _start(sweep, killed), chance.uniform(0, seconds)
    try:
      process.wait(timeout=delay)
      _let_end(process)
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
      died[f"{number.name} {phase}"] += 1
      print(f"kill {done} of {kills}: {number.name} after {delay:.1f} s, {phase}", flush=True)
  _let_end(_start(sweep, killed))
  print(f"{kills} kills of {sweeps + 1} sweeps:")
  for what, count in sorted(died.items()):
    print(f"  {count} × {what}")
  return different(expected, records_of(killed))


def records_of(folder: Path) -> dict[str, Any]:
  """What a sweep's folder holds by name of file, but for what tells of when and how long."""
  found: dict[str, Any] = {}
  for path in sorted(p for p in folder.rglob("*") if p.is_file()):
    if path.name in ("sweep.json", ".lock", sweep_folder.PREPARING):
      continue
    contents: Any = path.read_bytes()
    if path.name == "status.json":
      contents = files.read_json(path)
      contents.pop("seconds", None)
    found[str(path.relative_to(folder))] = contents
  return found


def different(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
  """Names of the files that differ, or are in one of two folders alone."""
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


def _let_end(process: subprocess.Popen[str]) -> None:
  _, error = process.communicate()
  if process.returncode:
    last = (error.strip() or "no word").splitlines()[-1]
    raise ValueError(f"The sweep must end well, got exit status {process.returncode}: {last}")


def _phase(folder: Path) -> str:
  """How far the sweep in the folder has come."""
  paths = folder.glob("runs/*/status.json")
  states = [files.read_json(path)["status"] for path in paths]
  if (folder / "gradients.nc").exists():
    return "at its end"
  if not states:
    return "before the first run"
  begun = any((folder / "checkpoints").glob("*/*/"))
  ended = sum(state != "running" for state in states)
  return f"with {ended} runs ended" + (", from a checkpoint" if begun else "")


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
