"""Tests of the table of cells that `--list_cells` prints."""

from __future__ import annotations

import inspect

import pytest
from rich.console import Console

from experiments.cli import tables
from experiments.networks import cell_table
from rnn_jax.cells import CELLS


def clock(hidden_size, *, modules=8, order="up", masked=True, longest=None):
  """Clocks of several speeds.

    h' = h

  References:
    Koutník et al., 2014 (their section 2),
    https://arxiv.org/abs/1402.3511; and, later, Someone, 2015, https://example.org/x
  """


@pytest.fixture
def clocks(monkeypatch):
  monkeypatch.setitem(CELLS, "clock", clock)


def test_a_row_is_made_from_the_constructor(clocks):
  assert cell_table.rows()[-1] == (
    "clock",
    "Clocks of several speeds.",
    "modules=8, order=up, masked=true, longest=none",
    "Koutník et al., 2014, https://arxiv.org/abs/1402.3511",
  )


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_has_a_description_and_a_source(name):
  row = next(row for row in cell_table.rows() if row.cell == name)
  assert all("|" not in entry for entry in row)
  assert row.what.endswith(".") and "https://" in row.source
  keywords = [p for p in inspect.signature(CELLS[name]).parameters if p != "hidden_size"]
  assert [option.split("=")[0] for option in row.options.split(", ")] == keywords


def test_markdown_has_a_line_for_each_cell(capsys):
  cell_table.show()
  lines = capsys.readouterr().out.splitlines()
  assert lines[:2] == ["| cell | what it is | options | source |", "| --- | --- | --- | --- |"]
  assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in CELLS]


def test_on_a_terminal_lines_are_wrapped_and_not_truncated(clocks, monkeypatch, capsys):
  monkeypatch.setattr(tables, "Console", lambda: Console(width=100, force_terminal=True))
  cell_table.show()
  out = capsys.readouterr().out
  assert "…" not in out and "clock" in out
