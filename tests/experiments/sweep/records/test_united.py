"""Tests that the records of several sweeps are read as those of one."""

from __future__ import annotations

import pytest
import recorded
import xarray as xr
from configured import make_run

from experiments.runtime import files
from experiments.sweep.records import gathered, run_files, united

SIZES = {"sequence_length": recorded.T, "batch_size": 2, "steps": 2, "optimizer": "sgd"}
RUNS = {
  "a": make_run("elman", clip_norm=None, hidden_size=3, **SIZES),
  "b": make_run("lru", truncation=2, recurrent_gain=None, hidden_size=4, **SIZES),
  "c": make_run("lstm", 2, 2, recurrent_gain=0.5, forget_bias=2.0, hidden_size=1, **SIZES),
}


def write(folder, names, **options):
  return recorded.write(folder, {name: RUNS[name] for name in names}, **options)


def test_runs_of_several_folders_are_those_of_one_sweep(tmp_path):
  whole = write(tmp_path / "whole", "abc")
  parts = [write(tmp_path / "one", "ab"), write(tmp_path / "two", "bc")]
  found, expected = united.read(parts), gathered.read(whole)
  for ours, right in zip(found[:2], expected[:2], strict=True):
    xr.testing.assert_identical(ours, right)
  assert {name: state["sha256"] for name, state in found[2].items()} == {
    name: state["sha256"] for name, state in expected[2].items()
  }


def test_a_measure_that_one_sweep_lacks_is_nan_there(tmp_path):
  parts = [write(tmp_path / "one", "a", measures=("lag",)), write(tmp_path / "two", "b")]
  gradients, _, _ = united.read(parts)
  norms = gradients["log10_lag_norm"]
  assert norms.sel(run="a").notnull().all() and norms.sel(run="b").isnull().all()
  assert norms.dtype == gradients["log10_grad_norm"].dtype == "float32"


def test_a_run_that_is_done_in_any_folder_is_read(tmp_path):
  one, two = write(tmp_path / "one", "ab"), write(tmp_path / "two", "ac")
  run_files.write_failure(one, "a", files.read_json(one / "runs/a/config.json"), "no memory", "")
  run_files.start(two, "c", {})
  gradients, _, states = united.read([one, two], partial=True)
  assert gradients["run"].values.tolist() == ["b", "a"]
  assert [states[name]["status"] for name in "abc"] == ["finished", "finished", "running"]


def test_folders_that_disagree_are_refused(tmp_path):
  one = write(tmp_path / "one", "ab", corpus_sha256="x")
  other = write(tmp_path / "other", "c", corpus_sha256="y")
  with pytest.raises(ValueError, match=r"other differs from .*one: its corpus_sha256 is 'y'"):
    united.read([one, other])
  changed = write(tmp_path / "changed", "b", log_every=2, corpus_sha256="x")
  with pytest.raises(
    ValueError, match=r"different records of run b: its config\.json in .*changed"
  ):
    united.read([one, changed])
