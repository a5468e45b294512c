"""A plugin package in a folder of its own, for tests, and the example of PLUGINS.md."""

from __future__ import annotations

import re
from pathlib import Path

from swept import ROOT

EXAMPLE = re.findall(
  r"```python\n(.*?)```", (ROOT / "experiments" / "PLUGINS.md").read_text("utf-8"), re.DOTALL
)[0]

_CELL = '''"""The cell {name}."""

import rnn_jax
from rnn_jax.cells import elman

{imports}


@rnn_jax.register_cell
def {name}(hidden_size: int, *, gain: float = {gain}) -> rnn_jax.Cell:
  """Tanh RNN with a gain of its own."""
  return elman(hidden_size, recurrent_gain=gain)
'''
_MEASURE = '''"""The measure size, whose variable has a dimension of its own."""

import jax.numpy as jnp

import experiments


def compute(moment):
  return {"size": jnp.zeros((len(moment.model.cells), 2))}


experiments.register_measure(
  "size", experiments.Measure("zeros", "Zeros", "nothing", ("layer", "entry"), {}, compute)
)
'''


def write_example(folder: Path) -> None:
  """Writes the example of PLUGINS.md to `mylab.py`."""
  (folder / "mylab.py").write_text(EXAMPLE, encoding="utf-8")


def write_package(folder: Path) -> Path:
  """Writes the package `mypackage` with the cells first and second, and the measure size."""
  package = folder / "mypackage"
  package.mkdir()
  (package / "__init__.py").write_text("from mypackage import first, second, sizes\n")
  write_cell(package, "first", imports="from mypackage.tools import nothing")
  write_cell(package, "second")
  (package / "tools.py").write_text("nothing = None\n")
  (package / "sizes.py").write_text(_MEASURE)
  return package


def write_cell(package: Path, name: str, gain: float = 1.0, imports: str = "") -> None:
  """Writes a module with one cell."""
  (package / f"{name}.py").write_text(_CELL.format(name=name, gain=gain, imports=imports))
