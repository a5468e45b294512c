"""Tests of a figure's status, and of the report on records that cannot be read."""

from __future__ import annotations

import json

import pytest

from experiments.reproduce import report as figure_records
from experiments.reproduce.figure import Check, Outcome
from experiments.reproduce.report import Result


def test_a_figure_is_reproduced_only_if_it_has_checks_and_all_are_met():
  met = Check("", 1.0, "1", True)
  assert Result(Outcome([], [met], print), None, 0.0).reproduced
  assert not Result(Outcome([], [met, met._replace(met=False)], print), None, 0.0).reproduced
  assert not Result(Outcome([], [], print), None, 0.0).reproduced
  assert not Result(None, "failed", 0.0).reproduced


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"title": 1}'])
def test_report_names_a_record_that_cannot_be_read(tmp_path, text):
  (tmp_path / "F1").mkdir()
  (tmp_path / "F1" / "checks.json").write_text(text)
  with pytest.raises(ValueError, match=r"F1/checks\.json must hold the record of a figure"):
    figure_records.report(tmp_path, ["F1"])


@pytest.mark.parametrize("name", ["checks.json", "table.csv"])
def test_report_refuses_a_record_that_is_too_large(tmp_path, name):
  record = {
    "title": "",
    "setting": "",
    "source": "",
    "seeds": [],
    "reproduced": True,
  }
  record |= {"seconds": 1, "device": "", "processor": "", "cores": 1, "started": "", "checks": []}
  record |= {"versions": {}, "git": None, "notes": [], "error": None}
  (tmp_path / "F1").mkdir()
  (tmp_path / "F1" / "checks.json").write_text(json.dumps(record))
  (tmp_path / "F1" / "table.csv").write_text("a,b\n1,2\n")
  assert "| 1 | 2 |" in figure_records.report(tmp_path, ["F1"])
  with (tmp_path / "F1" / name).open("ab") as file:
    file.truncate(2**35)
  with pytest.raises(ValueError, match=rf"F1/{name} must have at most 67108864 bytes"):
    figure_records.report(tmp_path, ["F1"])
