"""Tests of a figure's status, and of the report on records that cannot be read."""

from __future__ import annotations

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
