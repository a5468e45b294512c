"""Tests of the choice of runs by the values of their settings."""

from __future__ import annotations

import numpy as np
import pytest
from plotted import FULL, small

from experiments.sweep.figures.selection import parse, select


@pytest.fixture(scope="module")
def data():
  gradients, metrics = small(
    cells=("elman", "lstm"), truncations=(4.0, FULL), clip_norm=(1.0, FULL), forget_bias=(0.5, 2.0)
  )
  words = ["chrono=100, residual=true" if i % 2 else "" for i in range(gradients.sizes["run"])]
  return tuple(found.assign_coords(options=("run", words)) for found in (gradients, metrics))


@pytest.mark.parametrize(
  ("texts", "chosen"),
  [
    (["cell=lstm"], lambda d: d["cell"] == "lstm"),
    (["cell=lstm,elman"], lambda d: d["seed"] >= 0),
    (["truncation=full"], lambda d: d["truncation"] == FULL),
    (["truncation=4,full", "seed=1"], lambda d: d["seed"] == 1),
    (["clip_norm=none"], lambda d: d["clip_norm"] == FULL),
    (["forget_bias=none"], lambda d: d["cell"] == "elman"),
    (["forget_bias=5e-1"], lambda d: d["forget_bias"] == 0.5),
    (["learning_rate=0.0020000000001"], lambda d: d["seed"] >= 0),  # equal in float32
    (["chrono=100.0"], lambda d: d["options"] != ""),
    (["residual=true"], lambda d: d["options"] != ""),
    (["status=finished", "depth=1"], lambda d: d["seed"] >= 0),
  ],
)
def test_values_are_written_as_flags_write_them(texts, chosen, data):
  gradients, metrics = select(*data, [parse(text) for text in texts])
  expected = data[0]["run"].values[chosen(data[0]).values]
  assert gradients["run"].values.tolist() == metrics["run"].values.tolist() == expected.tolist()


def test_a_run_is_selected_by_its_id(data):
  name = data[0]["run"].values[3]
  assert select(*data, [parse(f"run={name}")])[0]["run"].values.tolist() == [name]


def test_steps_that_the_selected_runs_lack_are_dropped(data):
  gradients, metrics = (found.copy(deep=True) for found in data)
  elman = gradients["cell"].values == "elman"
  for variable in gradients.data_vars.values():
    variable.values[elman, -1] = np.nan
  for variable in metrics.data_vars.values():
    variable.values[elman, 21:] = np.nan
  gradients, metrics = select(gradients, metrics, [parse("cell=elman")])
  assert gradients["step"].values.tolist() == [0, 20]
  assert metrics["update"].values.tolist() == list(range(21))


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("cell=x", r"--select=cell must be one of elman, lstm, got 'x'\."),
    ("clip_norm=2", r"--select=clip_norm must be one of 1\.0, none, got '2'\."),
    ("chrono=1", r"--select=chrono must be one of 100, got '1'\."),
    ("sead=1", r"Unknown --select 'sead'; did you mean 'seed'\?"),
  ],
)
def test_errors_name_the_values_that_exist(text, says, data):
  with pytest.raises(ValueError, match=says):
    select(*data, [parse(text)])


@pytest.mark.parametrize("text", ["", "cell", "=lstm", "cell=", "cell=a,,b", "cell=a,a"])
def test_a_malformed_selection_is_refused(text):
  with pytest.raises(ValueError, match="select must"):
    parse(text)
