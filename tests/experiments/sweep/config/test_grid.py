from __future__ import annotations

import dataclasses
import json

import pytest

from experiments.networks.cell_options import parse
from experiments.sweep.config import grid
from rnn_jax.cells import CELLS

SETTINGS = grid.Settings("charlm", "stdlib", 64, 128, 32, 200, "adam", 20, "lag", 20)
AXES = {
  "cell": ("elman", "gru", "lstm"),
  "depth": (1, 2),
  "truncation": (8, 32, None),
  "seed": (0, 1),
  "learning_rate": (0.01,),
  "clip_norm": (1.0,),
  "clip_by": ("global_norm",),
  "recurrent_gain": (1.0,),
  "forget_bias": (1.0,),
}


def test_axes_multiply():
  runs = grid.expand(AXES)
  assert len(runs) == len(set(runs)) == 3 * 2 * 3 * 2


def test_a_group_is_a_cell_a_depth_and_a_clip_by():
  groups = grid.groups(grid.expand(AXES))
  assert list(groups) == [(c, d, "global_norm", ()) for c in AXES["cell"] for d in AXES["depth"]]
  assert {len(runs) for runs in groups.values()} == {6}


def test_clip_by_is_an_axis_only_with_clipping():
  axes = {**AXES, "cell": ("gru",), "clip_norm": (None, 1.0), "clip_by": ("carry", "element")}
  runs = grid.expand(axes)
  assert {run.clip_by for run in runs if run.clip_norm is None} == {"global_norm"}
  assert len(runs) == (1 + 2) * 2 * 3 * 2
  assert {len(runs) for runs in grid.groups(runs).values()} == {6}
  ids = [grid.run_id(run, SETTINGS, "abc") for run in runs]
  assert sum("-c1-g1-carry-" in name for name in ids) == 12


def test_forget_bias_is_an_axis_only_for_cells_with_a_forget_gate():
  runs = grid.expand({**AXES, "forget_bias": (0.0, 1.0, 3.0)})
  count = {cell: sum(run.cell == cell for run in runs) for cell in AXES["cell"]}
  assert count == {"elman": 12, "gru": 12, "lstm": 36}
  assert {run.forget_bias for run in runs if run.cell == "elman"} == {None}


@pytest.mark.parametrize(
  ("log_every", "measure_every", "steps"),
  [(20, 20, [*range(0, 201, 20)]), (150, 999, [0, 150, 200]), (999, 80, [0, 80, 160, 200])],
)
def test_recorded_steps_hold_the_first_and_the_last(log_every, measure_every, steps):
  settings = dataclasses.replace(SETTINGS, log_every=log_every, measure_every=measure_every)
  assert grid.recorded_steps(settings) == steps


def test_run_ids_are_readable_and_unique():
  runs = grid.expand({**AXES, "learning_rate": (0.01, 0.01 + 1e-12)})
  ids = {grid.run_id(run, SETTINGS, "abc") for run in runs}
  assert len(ids) == len(runs)
  assert any(name.startswith("lstm-d2-kfull-s1-lr0.01-c1-g1-b1-") for name in ids)


@pytest.mark.parametrize("change", [{"steps": 201}, {"corpus": "x"}, {"hidden_size": 65}])
def test_run_ids_depend_on_the_settings(change):
  run = grid.expand(AXES)[0]
  other = dataclasses.replace(SETTINGS, **change)
  assert grid.run_id(run, SETTINGS, "a") != grid.run_id(run, other, "a")


def test_run_ids_depend_on_the_text():
  run = grid.expand(AXES)[0]
  assert grid.run_id(run, SETTINGS, "a") != grid.run_id(run, SETTINGS, "b")


def test_a_flagfile_holds_every_axis_and_setting_exactly():
  axes = {**AXES, "learning_rate": (0.1 + 0.2,), "clip_norm": (None, 1.0)}
  lines = grid.flagfile(SETTINGS, axes).splitlines()
  assert "--learning_rate=0.30000000000000004" in lines
  assert "--truncation=8,32,full" in lines
  assert "--clip_norm=none,1.0" in lines
  assert "--hidden_size=64" in lines
  # All but match_params, which is not given together with hidden_size.
  assert len(lines) == len(grid.AXES) + len(dataclasses.fields(grid.Settings)) - 1


def test_a_flagfile_holds_options_as_given_and_the_parameter_budget():
  settings = dataclasses.replace(SETTINGS, hidden_size=None, match_params=5000)
  given = [parse("activation=tanh,relu"), parse("gru.reset=none")]
  lines = grid.flagfile(settings, AXES, given).splitlines()
  assert lines[len(grid.AXES) :][:2] == [
    "--cell_option=activation=tanh,relu",
    "--cell_option=gru.reset=none",
  ]
  assert "--match_params=5000" in lines
  assert not any(line.startswith("--hidden_size") for line in lines)


OPTIONS = {"elman": {"activation": ("tanh", "relu"), "recurrent_kernel": ("identity",)}}


def test_options_are_axes_of_their_cell_only_and_separate_groups():
  runs = grid.expand(AXES, OPTIONS)
  assert len(runs) == len(set(runs)) == (2 + 1 + 1) * 2 * 3 * 2
  assert {run.options for run in runs if run.cell == "elman"} == {
    (("activation", "tanh"), ("recurrent_kernel", "identity")),
    (("activation", "relu"), ("recurrent_kernel", "identity")),
  }
  assert {run.options for run in runs if run.cell != "elman"} == {()}
  groups = grid.groups(runs)
  assert len(groups) == (2 + 1 + 1) * 2
  assert {len({run.options for run in group}) for group in groups.values()} == {1}
  assert len({grid.run_id(run, SETTINGS, "a") for run in runs}) == len(runs)


def test_a_cell_without_a_recurrent_kernel_has_no_gain(monkeypatch):
  monkeypatch.setitem(CELLS, "plain", lambda hidden_size, *, forget_bias=1.0: None)
  axes = {**AXES, "cell": ("plain", "gru"), "recurrent_gain": (0.5, 1.0), "forget_bias": (0.0, 1.0)}
  runs = grid.expand(axes)
  gains = {cell: {run.recurrent_gain for run in runs if run.cell == cell} for cell in axes["cell"]}
  assert gains == {"plain": {None}, "gru": {0.5, 1.0}}
  assert len(runs) == (2 + 2) * 2 * 3 * 2
  assert grid.run_id(runs[0], SETTINGS, "a").startswith("plain-d1-k8-s0-lr0.01-c1-b0-")


def test_a_run_is_restored_from_a_record_and_from_an_older_one():
  run = dataclasses.replace(grid.expand(AXES, OPTIONS)[0], hidden_size=69)
  saved = json.loads(json.dumps(grid.config(run, SETTINGS, "a")))
  assert saved["hidden_size"] == 69
  assert grid.run_of(saved) == run and hash(run)
  words = "elman activation=tanh, recurrent_kernel=identity, depth 1, 69 units"
  assert run.network == words
  name = grid.run_id(run, SETTINGS, "a")
  assert "-c1-g1-h69-activation=tanh-recurrent_kernel=identity-" in name
  older = {name: value for name, value in saved.items() if name not in ("options", "hidden_size")}
  assert grid.run_of(older) == dataclasses.replace(run, options=(), hidden_size=None)


def test_the_hidden_size_is_the_runs_own_or_that_of_the_settings():
  run = grid.expand(AXES)[0]
  assert grid.width(run, SETTINGS) == 64
  assert grid.config(run, SETTINGS, "a")["hidden_size"] == 64
  assert grid.width(dataclasses.replace(run, hidden_size=7), SETTINGS) == 7
