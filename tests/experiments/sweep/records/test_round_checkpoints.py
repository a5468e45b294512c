"""A round's folder of checkpoints is found, and is deleted once all runs of the round are done."""

from __future__ import annotations

import json

import pytest

from experiments.sweep.records import round_checkpoints, run_files


@pytest.fixture
def rounds(tmp_path):
  """The checkpoint folders of two rounds with two runs each."""
  paths = []
  for ids in (["a", "b"], ["c", "d"]):
    path = round_checkpoints.path_of(tmp_path, ids)
    (path / "50").mkdir(parents=True)
    round_checkpoints._write_ids(path, ids)
    paths.append(path)
  return paths


def test_every_round_is_found_with_its_runs(rounds, tmp_path):
  assert dict(round_checkpoints.every(tmp_path)) == {
    rounds[0]: ["a", "b"],
    rounds[1]: ["c", "d"],
  }


def test_a_round_with_a_list_of_other_runs_is_skipped_with_a_warning(rounds, tmp_path, capsys):
  (rounds[0] / "runs.json").write_text(json.dumps({"runs": ["a", "c"]}))
  assert dict(round_checkpoints.every(tmp_path)) == {rounds[1]: ["c", "d"]}
  assert f"warning: {rounds[0] / 'runs.json'} is damaged" in capsys.readouterr().err


def test_a_round_without_a_list_is_skipped_without_a_warning(rounds, tmp_path, capsys):
  (rounds[0] / "runs.json").unlink()
  assert dict(round_checkpoints.every(tmp_path)) == {rounds[1]: ["c", "d"]}
  assert not capsys.readouterr().err


def test_only_rounds_whose_runs_are_all_done_are_deleted(rounds, tmp_path, monkeypatch):
  done = {"a", "b", "c"}
  monkeypatch.setattr(run_files, "is_done", lambda folder, name: name in done)
  round_checkpoints.clear(tmp_path)
  assert [path.exists() for path in rounds] == [False, True]
  done.add("d")
  round_checkpoints.clear(tmp_path)
  assert not (tmp_path / "checkpoints").exists()
  round_checkpoints.clear(tmp_path)  # does nothing if the folder is missing
