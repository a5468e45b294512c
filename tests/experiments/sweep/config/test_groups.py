"""Tests of groups: runs that share one compiled program."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from configured import changed, make_run

from experiments.sweep.config.groups import SWITCHED, by_group, group_name
from experiments.sweep.config.runs import Run
from experiments.sweep.training.run_setup import Numbers

CELLS, DEPTHS, NUMBERS = ("elman", "gru"), (1, 2), ((8, 0), (None, 0), (None, 1))
RUNS = [
  make_run(cell, depth, truncation, seed)
  for cell, depth, (truncation, seed) in itertools.product(CELLS, DEPTHS, NUMBERS)
]


def on(name, value):
  """Returns the value in the type of a run's field."""
  return type(getattr(make_run(), name))(value)


def test_runs_are_grouped_by_cell_depth_and_clip_by():
  groups = by_group(RUNS)
  assert [(runs[0].cell, runs[0].depth) for runs in groups.values()] == [
    (c, d) for c in CELLS for d in DEPTHS
  ]
  assert {len(runs) for runs in groups.values()} == {3}


def test_a_group_is_named_by_what_its_runs_have_in_common():
  run = make_run("gru", 2, 8, clip_by="carry", options=(("reset", "none"),), zoneout=0.1)
  assert group_name(run) == "gru reset=none, depth 2, zoneout 0.1, clipped by carry"
  varied = {"task", "hidden_size", "sequence_length", "depth", "zoneout", "seed"}
  assert group_name(run, varied) == (
    "gru reset=none, depth 2, zoneout 0.1, adding, 8 units, sequence length 12, clipped by carry"
  )
  assert {len({group_name(run) for run in runs}) for runs in by_group(RUNS).values()} == {1}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Run)])
def test_only_the_settings_that_are_arguments_of_the_program_may_differ(name):
  run = make_run(**{own: on(own, 3) for own in SWITCHED})
  other = changed(run, name)
  assert (len(by_group([run, other])) == 1) == (name in Numbers._fields)


@pytest.mark.parametrize("name", SWITCHED)
def test_numbers_that_are_zero_are_left_out_of_the_program_of_another_group(name):
  runs = [make_run(**{name: on(name, value)}) for value in (0, 2, 3)]
  groups = by_group(runs)
  assert list(groups.values()) == [runs[:1], runs[1:]]
  titles = [group_name(alike[0], {name}) for alike in groups.values()]
  assert titles == ["elman, depth 1", f"elman, depth 1, with {name.replace('_', ' ')}"]
