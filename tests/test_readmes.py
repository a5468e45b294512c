"""Tests of the READMEs and BUILD.md: code runs, commands are valid, links have targets."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.cli import flagfiles

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "BUILD.md"]
PAGES += sorted(p for top in ("rnn_jax", "experiments") for p in (ROOT / top).rglob("README.md"))
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [
  (name, kind, text)
  for name, page in TEXTS.items()
  for kind, text in re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL)
]
COMMANDS = sorted(
  {
    line.split("&& ")[-1].split("#")[0].removesuffix(" &").strip()
    for _, kind, text in BLOCKS
    if kind == "bash"
    for line in text.splitlines()
    if "python -m experiments." in line
  }
)
LINKS = sorted(
  {
    (name, target)
    for name, page in TEXTS.items()
    for target in re.findall(r"\]\(([^)\s]+)\)", page)
    if not target.startswith("http")
  }
)
# The maximum sizes of some pages, in kilobytes.
LIMITS = {"README.md": 10, "BUILD.md": 12}


@functools.cache
def printed(name: str, code: str) -> str:
  """Returns what the Python code of a page prints; runs the code once for all tests."""
  with contextlib.redirect_stdout(io.StringIO()) as out:
    exec(compile(code, name, "exec"), {})
  return out.getvalue()


@pytest.mark.parametrize(
  ("name", "code"), [(name, text) for name, kind, text in BLOCKS if kind == "python"]
)
def test_python_code_of_the_pages_runs(name, code):
  printed(name, code)


def test_truncation_cuts_the_norms_that_the_readme_prints():
  code = next(text for name, kind, text in BLOCKS if (name, kind) == ("README.md", "python"))
  norms = [float(number) for number in printed("README.md", code).strip("[]\n").split()]
  assert [norm == 0 for norm in norms] == [True] * 5 + [False] * 5


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_valid(command, monkeypatch, flags_of):
  words = shlex.split(command)
  name = words[words.index("-m") + 1]
  package = importlib.import_module(name)
  program = importlib.import_module(f"{name}.__main__") if hasattr(package, "__path__") else package
  monkeypatch.chdir(ROOT)
  with flags_of(program), flagsaver.flagsaver():
    flags.FLAGS([name, *flagfiles.expand(words[words.index("-m") + 2 :])])


@pytest.mark.parametrize("command", [c for c in COMMANDS if "experiments.sweep " in c])
def test_sweep_commands_pass_a_dry_run(command, tmp_path, monkeypatch, sweep_here):
  # Omit these flags, because with them the sweep would wait for other processes.
  several = ("--coordinator", "--num_processes", "--process_id")
  arguments = shlex.split(command.split("experiments.sweep ")[1])
  monkeypatch.chdir(ROOT)
  kept = [flag for flag in arguments if not flag.startswith(several)]
  assert sweep_here(*kept, "--dry_run", f"--output_dir={tmp_path}") == 0
  assert not list(tmp_path.iterdir())


def test_the_test_command_of_the_pages_is_what_ci_runs():
  lines = [line for _, kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
  second = next(line for line in lines if "&& python -m pytest" in line)
  assert second in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize(("name", "target"), LINKS)
def test_links_lead_somewhere(name, target):
  file, _, anchor = target.partition("#")
  path = (ROOT / name).parent / file if file else ROOT / name
  assert path.exists()
  if anchor:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize(("name", "kilobytes"), LIMITS.items())
def test_pages_are_short(name, kilobytes):
  assert len(TEXTS[name].encode()) <= kilobytes * 1000


@pytest.mark.parametrize(
  ("what", "page"),
  [
    ("cells", "rnn_jax/cells/README.md"),
    ("measures", "experiments/sweep/README.md"),
    ("flags", "experiments/sweep/README.md"),
  ],
)
def test_tables_are_what_the_program_prints(sweep_here, capsys, what, page):
  assert sweep_here(f"--list_{what}") == 0
  table = capsys.readouterr().out.strip()
  assert f"\n\n{table}\n" in TEXTS[page]
