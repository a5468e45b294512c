"""Tests of the layering: imports run downward only, and pmap and orbax are each used in one place.

A part of a folder is a module or a subfolder that lies directly in it. A folder's parts are sorted
into tiers, and a part may import only from lower tiers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import rnn_jax

LIBRARY = Path(rnn_jax.__file__).parent
ROOT = LIBRARY.parent
EXPERIMENTS = ROOT / "experiments"
FILES = sorted(LIBRARY.rglob("*.py")) + sorted(EXPERIMENTS.rglob("*.py"))

# The tiers of each folder, from the lowest to the highest. `__init__` is above all tiers unless it
# is listed.
TIERS: dict[str, Sequence[set[str]]] = {
  "rnn_jax": (
    {"_jaxprs", "checks"},
    {"types", "parallel", "registry"},
    {"initializers", "powers", "precision"},
    {"cells"},
    {"probes", "losses"},
    {"clipping", "loss_scaling"},
    {"optimizers"},
    {"time_loop"},
    {"modules", "network_init"},
    {"gradient_flow", "sampling"},
    {"estimators"},
    {"text"},
    {"tasks"},
    {"training"},
    {"penalties", "windows", "online", "checkpoints", "interop", "testing"},
  ),
  "rnn_jax/time_loop": (
    {"_read_order"},
    {"_adjoint_plan"},
    {"_adjoint_loops"},
    {"_adjoint", "_step", "_linear_scan", "_arguments", "_truncation"},
    {"_sequential", "_associative"},
    {"_unroll"},
  ),
  "experiments": (
    {"runtime"},
    {"cli"},
    {"networks", "plotting"},
    {"sweep", "language_model", "sequence_problem"},
    {"ablation"},
    {"benchmark", "chaos", "merge", "plot", "replay", "report", "reproduce", "states"},
  ),
  "experiments/sweep": (
    {"measures"},
    {"config"},
    {"records"},
    {"figures"},
    {"training", "finish", "selection", "trackers"},
    {"engines"},
    {"execution"},
    {"run_sweep", "__main__"},
  ),
}


def identity(path: Path) -> str:
  return str(path.relative_to(ROOT))


def imports(path: Path) -> list[str]:
  """Returns the full names of everything that a file imports, including inside functions."""
  names = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path} imports relatively"
      names += [f"{node.module}.{alias.name}" for alias in node.names]
  return names


def neighbors(folder: str) -> Iterator[tuple[Path, str, str, str]]:
  """Yields each import between two parts of a folder.

  Yields:
    (importing file, its part, imported part, full name of the import).
  """
  package = folder.replace("/", ".") + "."
  for path in sorted((ROOT / folder).rglob("*.py")):
    part = path.relative_to(ROOT / folder).parts[0].removesuffix(".py")
    for name in imports(path):
      if name.startswith(package):
        other = name.removeprefix(package).split(".")[0]
        if other != part:
          yield path, part, other, name


@pytest.mark.parametrize("folder", TIERS)
def test_every_part_of_a_folder_is_in_one_tier(folder):
  parts = {
    p.stem for p in (ROOT / folder).iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
  }
  listed = [part for tier in TIERS[folder] for part in tier]
  assert sorted(listed) == sorted(parts - {"__init__"})


@pytest.mark.parametrize("folder", TIERS)
def test_imports_run_downward(folder):
  height = {part: tier for tier, parts in enumerate(TIERS[folder]) for part in parts}
  top = len(TIERS[folder])
  for path, part, other, name in neighbors(folder):
    # An imported name that is in no tier comes from the folder's `__init__`, which is on top.
    assert height.get(other, top) < height.get(part, top), f"{identity(path)} imports {name}"


@pytest.mark.parametrize(
  "folder", sorted({path.parent for path in FILES} - {LIBRARY, EXPERIMENTS}), ids=identity
)
def test_modules_of_a_folder_do_not_import_each_other_in_a_cycle(folder):
  package = str(folder.relative_to(ROOT)).replace("/", ".") + "."
  graph = {
    path.stem: {
      name.removeprefix(package).split(".")[0] for name in imports(path) if name.startswith(package)
    }
    - {path.stem}
    for path in folder.glob("*.py")
  }
  while graph:
    free = [name for name, others in graph.items() if not others & graph.keys()]
    assert free, f"a circle among {sorted(graph)}"
    for name in free:
      del graph[name]


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=identity)
def test_library_imports_neither_experiments_nor_flags(path):
  packages = {name.split(".")[0] for name in imports(path)}
  assert not packages & {"experiments", "absl", "tests"}


@pytest.mark.parametrize("path", FILES, ids=identity)
def test_pmap_and_orbax_have_one_place_each(path):
  nodes = list(ast.walk(ast.parse(path.read_text())))
  used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
  used |= {node.id for node in nodes if isinstance(node, ast.Name)}
  imported = imports(path)
  if path != LIBRARY / "parallel.py":
    assert "pmap" not in used
    assert not any(name.endswith(".pmap") for name in imported)
  if path != LIBRARY / "checkpoints" / "arrays.py":
    assert not any(name.split(".")[0] == "orbax" for name in imported)
