"""Fixtures of tests that import plugins."""

from __future__ import annotations

import sys

import plugin
import pytest

from experiments.runtime import provenance
from experiments.sweep.figures.registered import FIGURES
from experiments.sweep.measures.table import MEASURES
from experiments.sweep.records import origins
from rnn_jax import registry, tasks
from rnn_jax.cells import CELLS


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  """Forgets after the test what it registered and imported."""
  tables = (CELLS, tasks.TASKS, MEASURES, FIGURES, registry.REGISTERED)
  before = [dict(table) for table in tables]
  modules = set(sys.modules)
  yield
  for table, entries in zip(tables, before, strict=True):
    table.clear()
    table.update(entries)
  # What these caches hold includes the code of what was registered.
  for cached in (origins._here, origins._key, provenance._code):
    cached.cache_clear()
  for name in set(sys.modules) - modules:
    if name.partition(".")[0] in ("mylab", "mypackage"):
      del sys.modules[name]


@pytest.fixture
def lab(tmp_path, monkeypatch):
  """Returns a folder with the example of PLUGINS.md, where Python finds modules."""
  folder = tmp_path / "lab"
  folder.mkdir()
  plugin.write_example(folder)
  monkeypatch.syspath_prepend(folder)
  return folder
