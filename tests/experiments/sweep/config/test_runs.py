"""Tests of the ids and the configurations of runs."""

from __future__ import annotations

import dataclasses
import json

import pytest
from configured import changed, make_run, make_settings

from experiments.sweep.config.runs import Run, run_config, run_id, run_of

SETTINGS = make_settings()
RUN = make_run(truncation=8, task="charlm", hidden_size=64)
RELU = (("activation", "relu"), ("recurrent_kernel", "identity"))


def test_run_ids_are_readable_and_unique():
  run = make_run("lstm", 2, seed=1, forget_bias=1.0)
  runs = [run, dataclasses.replace(run, learning_rate=0.01 + 1e-12)]
  ids = {run_id(run, SETTINGS, "abc") for run in runs}
  assert len(ids) == len(runs)
  assert all(name.startswith("lstm-d2-kfull-s1-lr0.01-c1-g1-b1-h8-") for name in ids)


@pytest.mark.parametrize("change", [{"evaluate_every": 2}, {"corpus": "x"}, {"measures": "omega"}])
def test_run_ids_depend_on_the_settings(change):
  other = dataclasses.replace(SETTINGS, **change)
  assert run_id(RUN, SETTINGS, "a") != run_id(RUN, other, "a")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Run)])
def test_run_ids_depend_on_every_field_of_a_run(name):
  assert run_id(RUN, SETTINGS, "a") != run_id(changed(RUN, name), SETTINGS, "a")


def test_run_ids_depend_on_the_text_if_the_task_reads_it():
  assert run_id(RUN, SETTINGS, "a") != run_id(RUN, SETTINGS, "b")
  adding, settings = make_run(), dataclasses.replace(SETTINGS, corpus="file")
  assert run_id(adding, SETTINGS, "a") == run_id(adding, settings, "b")


def test_the_id_depends_on_the_data_file_if_the_task_reads_it():
  one, other = (dataclasses.replace(SETTINGS, data_file=f"sha256:{x}") for x in "ab")
  reads = dataclasses.replace(RUN, task="data_file")
  assert run_id(reads, one, None) != run_id(reads, other, None)
  assert run_config(reads, one, None)["data_file"] == "sha256:a"
  for run in (RUN, make_run()):  # of the tasks charlm and adding
    assert run_config(run, one, "a") == run_config(run, SETTINGS, "a")
    assert "data_file" not in run_config(run, one, "a")


def test_test_lengths_are_integers_and_multiples_of_the_runs_own_length():
  settings = make_settings(test_sequence_length="T,2T,5,24")
  assert settings.test_lengths(make_run()) == [12, 24, 5]


def test_a_run_is_restored_from_a_record_and_from_an_older_one():
  run = dataclasses.replace(RUN, options=RELU, hidden_size=69)
  saved = json.loads(json.dumps(run_config(run, SETTINGS, "a")))
  assert saved["hidden_size"] == 69
  assert run_of(saved) == run and hash(run)
  assert run.network == "elman activation=relu, recurrent_kernel=identity, depth 1"
  name = run_id(run, SETTINGS, "a")
  assert "-c1-g1-h69-activation=relu-recurrent_kernel=identity-" in name
  new = ("options", "layer_norm", "residual", "dropout", "zoneout")
  older = {name: value for name, value in saved.items() if name not in new}
  assert run_of(older) == dataclasses.replace(run, options=())


def test_ids_and_configurations_in_float32_are_those_from_before_there_was_a_dtype():
  run = make_run("lstm", 2, seed=1, forget_bias=1.0)
  assert run_id(run, SETTINGS, None) == "lstm-d2-kfull-s1-lr0.01-c1-g1-b1-h8-610794da"
  assert not {"dtype", "loss_scale"} & run_config(run, SETTINGS, None).keys()
  half = dataclasses.replace(run, dtype="float16", loss_scale="dynamic")
  saved = json.loads(json.dumps(run_config(half, SETTINGS, None)))
  assert (saved["dtype"], saved["loss_scale"]) == ("float16", "dynamic")
  assert run_of(saved) == half
  assert run_id(half, SETTINGS, None).startswith(
    "lstm-d2-kfull-s1-lr0.01-c1-g1-b1-h8-float16-loss_scale"
  )


def test_wrappers_are_in_the_name_and_the_id():
  run = dataclasses.replace(RUN, depth=2, layer_norm=True, residual=True, dropout=0.5, zoneout=0.1)
  assert run.network == "elman, depth 2, layer norm, residual, dropout 0.5, zoneout 0.1"
  assert "-h64-layer_norm-residual-dropout0.5-zoneout0.1-" in run_id(run, SETTINGS, "a")


def test_a_hidden_size_that_is_not_chosen_yet_is_an_error():
  with pytest.raises(ValueError, match="hidden_size must be known"):
    _ = dataclasses.replace(RUN, hidden_size=None).width


NEW = {
  "schedule": "cosine",
  "warmup": 5,
  "momentum": 0.9,
  "weight_decay": 0.01,
  "omega_penalty": 2.0,
  "spectral_penalty": 1.0,
  "flossing": 0.5,
  "flossing_exponents": 3,
  "flossing_steps": 100,
  "initialization": "critical",
}


def test_settings_that_older_versions_lack_are_left_out_at_their_defaults():
  config = run_config(RUN, SETTINGS, "a")
  assert not NEW.keys() & config.keys() and run_of(config) == RUN
  run = dataclasses.replace(RUN, **NEW)
  config = json.loads(json.dumps(run_config(run, SETTINGS, "a")))
  assert NEW.items() <= config.items() and run_of(config) == run
  assert (
    "-h64-cosine-warmup5-momentum0.9-weight_decay0.01-omega_penalty2-spectral_penalty1-flossing0.5-"
    "flossing_exponents3-flossing_steps100-critical-"
  ) in run_id(run, SETTINGS, "a")
