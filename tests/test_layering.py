"""Arrows run downward only, and pmap, orbax and absl have one place each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rnn_jax

ROOT = Path(rnn_jax.__file__).parent
EXPERIMENTS = ROOT.parent / "experiments"

# From the bottom up; names on one line do not import each other.
TIERS = (
  {"types", "checks"},
  {"initializers", "powers"},
  {"cells"},
  {"probes", "losses"},
  {"clipping"},
  {"time_loop"},
  {"modules"},
  {"gradient_flow", "sampling"},
  {"text"},
  {"tasks"},
  {"training"},
  {"parallel", "checkpoints", "interop"},
)
TIER = {name: height for height, names in enumerate(TIERS) for name in names}

LIBRARY = sorted(ROOT.rglob("*.py"))
ALL = LIBRARY + sorted(EXPERIMENTS.rglob("*.py"))


def identity(path):
  return str(path.relative_to(ROOT.parent))


def imports(path):
  """Full names of all modules that a file imports, wherever in it."""
  names = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path} imports relatively"
      names += [f"{node.module}.{alias.name}" for alias in node.names]
  return names


@pytest.mark.parametrize("path", LIBRARY, ids=identity)
def test_library_imports_only_from_lower_tiers(path):
  part = path.relative_to(ROOT).parts[0].removesuffix(".py")
  if part == "__init__":
    return
  assert part in TIER, f"give rnn_jax.{part} its place in TIERS"
  for name in imports(path):
    package, *rest = name.split(".")
    if package == "rnn_jax" and rest[0] != part:
      # A name that is no tier, as in `from rnn_jax import unroll_all`, comes from the top.
      lower = TIER.get(rest[0], len(TIERS))
      assert lower < TIER[part], f"{part} imports {name}"


@pytest.mark.parametrize("path", LIBRARY, ids=identity)
def test_library_knows_neither_experiments_nor_flags(path):
  packages = {name.split(".")[0] for name in imports(path)}
  assert not packages & {"experiments", "absl", "tests"}


@pytest.mark.parametrize("path", ALL, ids=identity)
def test_pmap_and_orbax_have_one_place_each(path):
  nodes = list(ast.walk(ast.parse(path.read_text())))
  used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
  used |= {node.id for node in nodes if isinstance(node, ast.Name)}
  imported = imports(path)
  if path != ROOT / "parallel.py":
    assert "pmap" not in used
    assert not any(name.endswith(".pmap") for name in imported)
  if path != ROOT / "checkpoints" / "checkpoint.py":
    assert not any(name.split(".")[0] == "orbax" for name in imported)
