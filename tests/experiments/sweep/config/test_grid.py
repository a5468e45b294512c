"""Tests of the grid: which runs the axes of a sweep expand to."""

from __future__ import annotations

import inspect

import jax
import numpy as np
import pytest
from configured import make_settings

from experiments.sweep.config import grid
from experiments.sweep.config.groups import by_group
from experiments.sweep.config.runs import run_id
from experiments.sweep.measures.table import MEASURES
from rnn_jax.cells import CELLS, cell_options, make_cell

SETTINGS = make_settings()
AXES = {
  "cell": ("elman", "gru", "lstm"),
  "depth": (1, 2),
  "hidden_size": (64,),
  "layer_norm": (False,),
  "residual": (False,),
  "dropout": (0.0,),
  "zoneout": (0.0,),
  "task": ("charlm",),
  "sequence_length": (128,),
  "batch_size": (32,),
  "steps": (200,),
  "optimizer": ("adam",),
  "dtype": ("float32",),
  "loss_scale": (None,),
  "truncation": (8, 32, None),
  "seed": (0, 1),
  "learning_rate": (0.01,),
  "clip_norm": (1.0,),
  "clip_by": ("global_norm",),
  "recurrent_gain": (1.0,),
  "forget_bias": (1.0,),
}


def expand(axes, options=None, design="grid"):
  """Returns the runs of a design."""
  return grid.expand(axes, options, design).runs


def test_axes_multiply():
  runs = expand(AXES)
  assert len(runs) == len(set(runs)) == 3 * 2 * 3 * 2


def test_the_loss_scale_is_an_axis_only_in_half_precision():
  axes = {**AXES, "dtype": ("float32", "float16"), "loss_scale": (None, 1024.0, "dynamic")}
  runs = expand({**axes, "cell": ("gru",), "depth": (1,), "truncation": (None,), "seed": (0,)})
  found = [(run.dtype, run.loss_scale) for run in runs]
  assert found == [
    ("float32", None),
    *(("float16", scale) for scale in (None, 1024.0, "dynamic")),
  ]
  assert len(by_group(runs)) == 4
  ids = [run_id(run, SETTINGS, "abc") for run in runs]
  for name, part in zip(
    ids,
    ("-h64-", "-float16-", "-float16-loss_scale1024-", "-float16-loss_scaledynamic-"),
    strict=True,
  ):
    assert part in name


def test_clip_by_is_an_axis_only_with_clipping():
  axes = {**AXES, "cell": ("gru",), "clip_norm": (None, 1.0), "clip_by": ("carry", "element")}
  runs = expand(axes)
  assert {run.clip_by for run in runs if run.clip_norm is None} == {"global_norm"}
  assert len(runs) == (1 + 2) * 2 * 3 * 2
  assert {len(runs) for runs in by_group(runs).values()} == {6}
  ids = [run_id(run, SETTINGS, "abc") for run in runs]
  assert sum("-c1-g1-carry-" in name for name in ids) == 12


def test_forget_bias_is_an_axis_only_for_cells_with_a_forget_gate():
  runs = expand({**AXES, "forget_bias": (0.0, 1.0, 3.0)})
  count = {cell: sum(run.cell == cell for run in runs) for cell in AXES["cell"]}
  assert count == {"elman": 12, "gru": 12, "lstm": 36}
  assert {run.forget_bias for run in runs if run.cell == "elman"} == {None}


@pytest.mark.parametrize(
  ("cell", "option", "kept", "replaces"),
  [
    ("lstm", "chrono", None, 10),
    ("janet", "chrono", None, 10),
    ("lstm", "forget_gate", True, False),
  ],
)
def test_a_forget_bias_that_an_option_replaces_is_no_axis(cell, option, kept, replaces):
  axes = {**AXES, "cell": (cell,), "depth": (1,), "truncation": (None,), "seed": (0,)}
  options = {cell: {option: (kept, replaces)}}
  runs = expand({**axes, "forget_bias": (0.0, 3.0)}, options)
  assert [(run.forget_bias, run.options[0][1]) for run in runs] == [
    (0.0, kept),
    (None, replaces),
    (3.0, kept),
  ]
  assert {run.forget_bias for run in expand(axes, options) if run.options[0][1] == replaces} == {
    None
  }


@pytest.mark.parametrize("cell", [name for name in CELLS if "forget_bias" in cell_options(name)])
def test_no_other_option_replaces_the_forget_bias(cell):
  defaults = inspect.signature(CELLS[cell]).parameters
  switched = {name: not p.default for name, p in defaults.items() if isinstance(p.default, bool)}
  switched |= {name: 10 for name, p in defaults.items() if p.default is None}
  for name, value in switched.items():
    inits = [
      make_cell(cell, 3, forget_bias=bias, **{name: value}).init(jax.random.key(0), 2)
      for bias in (0.0, 3.0)
    ]
    same = all(map(np.array_equal, *map(jax.tree.leaves, inits)))
    assert same == grid._replace_forget_bias({name: value}), name


def test_with_a_gain_of_zero_only_the_first_recurrent_kernel_is_trained():
  axes = {**AXES, "cell": ("gru",), "depth": (1,), "truncation": (None,), "seed": (0,)}
  runs = expand(
    {**axes, "recurrent_gain": (0.0, 1.0)}, {"gru": {"recurrent_kernel": ("gaussian", "identity")}}
  )
  assert [(run.recurrent_gain, run.options[0][1]) for run in runs] == [
    (0.0, "gaussian"),
    (1.0, "gaussian"),
    (1.0, "identity"),
  ]


OPTIONS = {"elman": {"activation": ("tanh", "relu"), "recurrent_kernel": ("identity",)}}


def test_options_are_axes_of_their_cell_only_and_separate_groups():
  runs = expand(AXES, OPTIONS)
  assert len(runs) == len(set(runs)) == (2 + 1 + 1) * 2 * 3 * 2
  assert {run.options for run in runs if run.cell == "elman"} == {
    (("activation", "tanh"), ("recurrent_kernel", "identity")),
    (("activation", "relu"), ("recurrent_kernel", "identity")),
  }
  assert {run.options for run in runs if run.cell != "elman"} == {()}
  groups = by_group(runs)
  assert len(groups) == (2 + 1 + 1) * 2
  assert {len({run.options for run in group}) for group in groups.values()} == {1}
  assert len({run_id(run, SETTINGS, "a") for run in runs}) == len(runs)


def test_a_cell_without_a_recurrent_kernel_has_no_gain(monkeypatch):
  monkeypatch.setitem(CELLS, "plain", lambda hidden_size, *, forget_bias=1.0: None)
  axes = {**AXES, "cell": ("plain", "gru"), "recurrent_gain": (0.5, 1.0), "forget_bias": (0.0, 1.0)}
  runs = expand(axes)
  gains = {cell: {run.recurrent_gain for run in runs if run.cell == cell} for cell in axes["cell"]}
  assert gains == {"plain": {None}, "gru": {0.5, 1.0}}
  assert len(runs) == (2 + 2) * 2 * 3 * 2
  assert run_id(runs[0], SETTINGS, "a").startswith("plain-d1-k8-s0-lr0.01-c1-b0-")


def test_one_at_a_time_tries_each_other_value_alone_for_every_seed():
  axes = {**AXES, "depth": (2, 1), "truncation": (None,), "zoneout": (0.0, 0.1)}
  options = {"elman": {"activation": ("tanh", "relu")}, "gru": {"reset": ("none",)}, "lstm": {}}
  runs = expand(axes, options, "one_at_a_time")
  found = [(run.cell, run.depth, run.zoneout, dict(run.options), run.seed) for run in runs]
  tanh = {"activation": "tanh"}
  settings = [
    ("elman", 2, 0.0, tanh),
    ("gru", 2, 0.0, {"reset": "none"}),
    ("lstm", 2, 0.0, {}),
    ("elman", 1, 0.0, tanh),
    ("elman", 2, 0.1, tanh),
    ("elman", 2, 0.0, {"activation": "relu"}),
  ]
  assert found == [(*setting, seed) for setting in settings for seed in (0, 1)]


def test_settings_without_effect_are_neutral_and_named():
  axes = {
    **AXES,
    "cell": ("elman",),
    "truncation": (8, 12, 20),
    "sequence_length": (12,),
    "seed": (0,),
    "layer_norm": (False, True),
    "dropout": (0.0, 0.5),
    "clip_norm": (None,),
    "forget_bias": (0.0, 1.0),
  }
  runs, no_effect = grid.expand(axes)
  assert sorted(no_effect) == [
    "dropout has no effect at depth 1",
    "forget_bias has no effect on elman",
    "layer_norm has no effect at depth 1",
    "truncation has no effect from sequence_length=12 on, which is full BPTT",
  ]
  assert len(runs) == len(set(runs)) == 2 * 1 + 2 * 4
  assert {run.truncation for run in runs} == {8, None}
  assert not any(run.layer_norm or run.dropout for run in runs if run.depth == 1)


def test_settings_of_remedies_without_effect_are_neutral_and_named():
  axes = {
    **AXES,
    "cell": ("elman", "irnn"),
    "depth": (1,),
    "truncation": (None,),
    "seed": (0,),
    "optimizer": ("adam", "sgd"),
    "momentum": (0.0, 0.9),
    "flossing": (0.0, 1.0),
    "flossing_exponents": (1, 2),
    "recurrent_gain": (0.5, 1.0),
    "initialization": ("default", "critical"),
  }
  runs, no_effect = grid.expand(axes)
  assert sorted(no_effect) == [
    "flossing_exponents has no effect without flossing",
    "momentum has no effect with adam",
    "recurrent_gain has no effect with initialization=critical; on irnn",
  ]
  # (optimizers and momenta) × (flossing and exponents) × (gains and initializations of both cells)
  assert len(runs) == len(set(runs)) == 3 * 3 * (3 + 2)
  assert {run.recurrent_gain for run in runs if run.initialization == "critical"} == {None}


def test_a_unitary_initialization_replaces_the_recurrent_kernel():
  axes = {**AXES, "cell": ("elman",), "depth": (1,), "truncation": (None,), "seed": (0,)}
  axes["initialization"] = ("default", "unitary", "lsuv")
  runs = expand(axes, {"elman": {"recurrent_kernel": ("gaussian", "identity")}})
  found = [(run.initialization, run.options[0][1]) for run in runs]
  assert found == [
    ("default", "gaussian"),
    ("default", "identity"),
    ("unitary", "gaussian"),
    ("lsuv", "gaussian"),
  ]


def test_axes_that_older_versions_lack_may_be_missing():
  new = {"momentum": (0.0,), "schedule": ("constant",), "initialization": ("default",)}
  assert expand({**AXES, **new}) == expand(AXES)
  old = {name: [*own] for name, own in AXES.items() if name not in ("dtype", "loss_scale")}
  assert grid.without_defaults({**AXES, **new}) == old
  listed = grid.without_defaults({**AXES, "momentum": (0.0, 0.5)})
  assert listed["momentum"] == [0.0, 0.5]


def test_more_than_a_million_combinations_are_refused_before_they_are_listed():
  with pytest.raises(ValueError, match="at most 1000000 combinations of values, got 18000000"):
    expand({**AXES, "seed": range(10**6)})


def test_no_axis_has_the_name_of_a_recorded_variable():
  """In the records, axes are coordinates next to the variables of the measures."""
  recorded = {name for measure in MEASURES.values() for name in measure.labels}
  assert not recorded & set(grid.AXES)
