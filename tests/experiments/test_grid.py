from __future__ import annotations

import dataclasses

import pytest

from experiments import grid

SETTINGS = grid.Settings("charlm", "stdlib", 64, 128, 32, 200, "adam", 20, "lag", 20)
AXES = {
  "cell": ("elman", "gru", "lstm"),
  "depth": (1, 2),
  "truncation": (8, 32, None),
  "seed": (0, 1),
  "learning_rate": (0.01,),
  "clip_norm": (1.0,),
  "recurrent_gain": (1.0,),
  "forget_bias": (1.0,),
}


def test_axes_multiply():
  runs = grid.expand(AXES)
  assert len(runs) == len(set(runs)) == 3 * 2 * 3 * 2


def test_a_group_is_a_cell_and_a_depth():
  groups = grid.groups(grid.expand(AXES))
  assert list(groups) == [(c, d) for c in AXES["cell"] for d in AXES["depth"]]
  assert {len(runs) for runs in groups.values()} == {6}


def test_forget_bias_is_an_axis_only_where_there_is_a_forget_gate():
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


def test_run_ids_are_readable_and_differ_where_anything_differs():
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


def test_flagfile_says_every_axis_and_setting_exactly():
  axes = {**AXES, "learning_rate": (0.1 + 0.2,), "clip_norm": (None, 1.0)}
  lines = grid.flagfile(SETTINGS, axes).splitlines()
  assert "--learning_rate=0.30000000000000004" in lines
  assert "--truncation=8,32,full" in lines
  assert "--clip_norm=none,1.0" in lines
  assert len(lines) == len(grid.AXES) + len(dataclasses.fields(grid.Settings))
