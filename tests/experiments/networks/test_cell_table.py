"""Tests of the table of cells that `--list_cells` prints."""

from __future__ import annotations

import inspect

import pytest
from rich.console import Console

from experiments.cli import tables
from experiments.networks import cell_table
from experiments.networks.cell_options import ALL
from rnn_jax.cells import CELLS


def clock(
  hidden_size, *, modules: int = 8, order="up", masked: bool = True, longest: int | None = None
):
  """Clocks of several speeds.

    h' = h

  Args:
    hidden_size: width H.
    modules, longest: sizes of
      clocks.
    order: see `mgu`, and not here.
    masked: see `clock`.
  Raises:
    TypeError, ValueError: if `modules` is
      below 1.
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
  options = row.options.split(", ") if row.options else []
  assert [option.split("=")[0] for option in options] == keywords


def test_markdown_has_a_line_for_each_cell(capsys):
  cell_table.show(ALL)
  lines = capsys.readouterr().out.splitlines()
  assert lines[:2] == ["| cell | what it is | options | source |", "| --- | --- | --- | --- |"]
  assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in CELLS]


def test_on_a_terminal_lines_are_wrapped_and_not_truncated(clocks, monkeypatch, capsys):
  monkeypatch.setattr(tables, "Console", lambda: Console(width=100, force_terminal=True))
  cell_table.show(ALL)
  out = capsys.readouterr().out
  assert "…" not in out and "clock" in out


DESCRIPTION = """clock: Clocks of several speeds.

  h' = h

| option | default | values | meaning |
| --- | --- | --- | --- |
| modules | 8 | an integer | sizes of clocks. |
| order | up |  | see `mgu`, and not here. |
| masked | true | true, false | see `clock`. |
| longest | none | an integer, or none | sizes of clocks. |

An error is raised if `modules` is below 1.

References:
  Koutník et al., 2014 (their section 2),
  https://arxiv.org/abs/1402.3511; and, later, Someone, 2015, https://example.org/x
"""


def test_one_cell_is_described_by_its_constructor(clocks, capsys):
  cell_table.show("clock")
  assert capsys.readouterr().out == DESCRIPTION


def test_a_bar_in_an_entry_does_not_end_it(capsys):
  cell_table.show("lru")
  row = next(
    line for line in capsys.readouterr().out.splitlines() if line.startswith("| min_radius")
  )
  assert r"range of \|λ\| at initialization" in row


@pytest.mark.parametrize("cell", CELLS)
def test_every_option_has_values_that_its_cell_accepts_and_a_meaning(cell):
  for option in cell_table.options(cell):
    assert option.meaning and not option.meaning.startswith("see")
    values = option.values.removesuffix(", or none")
    if values not in ("an integer", "a number"):
      words = [{"true": True, "false": False}.get(word, word) for word in values.split(", ")]
      assert len(words) > 1
      for word in words:
        assert CELLS[cell](8, **{option.name: word})


def test_a_wrapped_option_has_the_meaning_of_the_cell_it_refers_to():
  options = {option.name: option for option in cell_table.options("dilated_elman")}
  assert options["activation"].meaning == "φ, one of `tanh`, `relu`, `linear`."
  assert options["activation"].values == "linear, relu, tanh"


def test_list_cells_takes_the_name_of_a_cell_or_none(sweep_here, capsys):
  assert sweep_here("--list_cells=gru") == 0
  assert capsys.readouterr().out.startswith("gru: Gated recurrent unit")
  assert sweep_here("--list_cells") == 0
  assert capsys.readouterr().out.startswith("| cell |")
  assert sweep_here("--list_cells=gruu") == 2
  assert "Unknown cell 'gruu'; did you mean 'gru'? Choose one of: " in capsys.readouterr().err
  assert sweep_here("--list_cells", "--nolist_cells", "--list_measures") == 0
  assert capsys.readouterr().out.startswith("| measure |")
