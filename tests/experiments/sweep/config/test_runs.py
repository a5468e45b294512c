"""Tests of the ids and the configurations of runs."""

from __future__ import annotations

import dataclasses
import json

import pytest

from experiments.sweep.config.runs import (
  Run,
  Settings,
  hidden_size_of,
  run_config,
  run_id,
  run_of,
)

SETTINGS = Settings("charlm", "stdlib", 64, 128, 32, 200, "adam", 20, "lag", 20)
RUN = Run("elman", 1, 8, 0, 0.01, 1.0, 1.0, None)
RELU = (("activation", "relu"), ("recurrent_kernel", "identity"))


def test_run_ids_are_readable_and_unique():
  run = Run("lstm", 2, None, 1, 0.01, 1.0, 1.0, 1.0)
  runs = [run, dataclasses.replace(run, learning_rate=0.01 + 1e-12)]
  ids = {run_id(run, SETTINGS, "abc") for run in runs}
  assert len(ids) == len(runs)
  assert all(name.startswith("lstm-d2-kfull-s1-lr0.01-c1-g1-b1-") for name in ids)


@pytest.mark.parametrize("change", [{"steps": 201}, {"corpus": "x"}, {"hidden_size": 65}])
def test_run_ids_depend_on_the_settings(change):
  other = dataclasses.replace(SETTINGS, **change)
  assert run_id(RUN, SETTINGS, "a") != run_id(RUN, other, "a")


def test_run_ids_depend_on_the_text():
  assert run_id(RUN, SETTINGS, "a") != run_id(RUN, SETTINGS, "b")


def test_a_run_is_restored_from_a_record_and_from_an_older_one():
  run = dataclasses.replace(RUN, options=RELU, hidden_size=69)
  saved = json.loads(json.dumps(run_config(run, SETTINGS, "a")))
  assert saved["hidden_size"] == 69
  assert run_of(saved) == run and hash(run)
  assert run.network == "elman activation=relu, recurrent_kernel=identity, depth 1, 69 units"
  name = run_id(run, SETTINGS, "a")
  assert "-c1-g1-h69-activation=relu-recurrent_kernel=identity-" in name
  older = {name: value for name, value in saved.items() if name not in ("options", "hidden_size")}
  assert run_of(older) == dataclasses.replace(run, options=(), hidden_size=None)


def test_the_hidden_size_is_the_runs_own_or_that_of_the_settings():
  assert hidden_size_of(RUN, SETTINGS) == 64
  assert run_config(RUN, SETTINGS, "a")["hidden_size"] == 64
  assert hidden_size_of(dataclasses.replace(RUN, hidden_size=7), SETTINGS) == 7
