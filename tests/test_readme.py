"""What the README says is true: its code runs, its commands are valid, its table is the flags."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from experiments.sweep.config.grid import AXES, Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_python_runs(code, capsys):
  exec(compile(code, "README.md", "exec"), {})
  norms = [float(number) for number in capsys.readouterr().out.strip("[]\n").split()]
  assert [norm == 0 for norm in norms] == [True] * 5 + [False] * 5


@pytest.mark.parametrize("command", [c for c in COMMANDS if "experiments.sweep" in c])
def test_sweeps_are_valid(command, tmp_path, monkeypatch, sweep_here):
  # This process is none of several.
  alone = ("--coordinator", "--num_processes", "--process_id", "&")
  flags = [f for f in command.split("experiments.sweep ")[1].split() if not f.startswith(alone)]
  monkeypatch.chdir(ROOT)
  assert sweep_here(*flags, "--dry_run", f"--output_dir={tmp_path}") == 0
  assert not list(tmp_path.iterdir())


def test_second_command_is_what_ci_runs():
  second = next(c for c in COMMANDS if "pytest" in c)
  assert second in (ROOT / ".ci" / "run").read_text().splitlines()


def table(flags) -> str:
  """The flags as rows of the README's table."""
  names = [*AXES, "cell_option", *(field.name for field in dataclasses.fields(Settings))]
  rows = []
  own = ("output_dir", "devices", "data_parallel", "runs_per_device", "compilation_cache")
  own += ("checkpoint_every", "num_shards", "shard_index", "engine", "cpus_per_task")
  own += ("gpus_per_task", "memory_per_task", "ray_address", "slurm_cluster", "slurm_minutes")
  own += ("slurm_option", "coordinator", "num_processes", "process_id")
  unset = {"devices": "all", "runs_per_device": "auto", "measure_every": "as_logged"}
  unset |= {"cell_option": "none", "match_params": "none", "coordinator": "none"}
  unset |= {"num_processes": "auto", "process_id": "auto"}
  unset |= dict.fromkeys(("num_shards", "shard_index", "memory_per_task", "slurm_option"), "none")
  for name in (*names, *own, "retry_failed", "dry_run", "list_cells", "overwrite"):
    default = (flags[name].default_as_str or unset[name]).strip("'")
    rows.append(f"| `--{name}` | `{default}` | {flags[name].help} |\n")
  return "".join(rows)


def test_table_of_flags_is_the_flags(sweep_flags):
  assert table(sweep_flags) in README


def test_table_of_cells_is_what_list_cells_prints(sweep_here, capsys):
  assert sweep_here("--list_cells") == 0
  assert f"\n\n{capsys.readouterr().out}\n" in README
