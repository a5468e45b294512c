"""Tests of the index by which runs are found by their settings."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from experiments.sweep.records.run_index import RunIndex


@pytest.fixture
def data():
  plain = xr.Dataset(
    {"norm": (("run", "step"), np.arange(12.0).reshape(4, 3))},
    {
      "run": ("run", ["r0", "r1", "r2", "r3"], {"long_name": "id"}),
      "cell": ("run", ["lstm", "lstm", "gru", "gru"], {"long_name": "cell"}),
      "depth": ("run", np.array([1, 2, 1, 3], np.int32)),
      "learning_rate": ("run", [0.002, 0.01, 0.002, 0.01]),
      "truncation": ("run", [np.inf, 8, np.inf, 8]),
      "forget_bias": ("run", [1.0, 3.0, np.nan, np.nan]),
      "residual": ("run", [False, True, False, False]),
      "step": [0, 5, 10],
    },
  )
  names = [name for name, own in plain.coords.items() if own.dims == ("run",)]
  return plain.drop_indexes("run").set_xindex(names, RunIndex)


def ids(data):
  return data["run"].values.tolist()


@pytest.mark.parametrize(
  ("labels", "expected"),
  [
    ({"cell": "lstm"}, ["r0", "r1"]),
    ({"cell": "lstm", "depth": 2}, ["r1"]),
    ({"cell": ["gru", "lstm"], "depth": 1}, ["r0", "r2"]),
    ({"cell": "gru", "learning_rate": 0.002, "truncation": np.inf}, ["r2"]),
    ({"truncation": 8}, ["r1", "r3"]),
    ({"forget_bias": np.nan}, ["r2", "r3"]),
    ({"forget_bias": [3.0, np.nan]}, ["r1", "r2", "r3"]),
    ({"residual": True}, ["r1"]),
    ({"depth": slice(2, None)}, ["r1", "r3"]),
    ({"depth": slice(1, 2), "cell": "gru"}, ["r2"]),
    ({"run": ["r3", "r0"]}, ["r3", "r0"]),
    ({"run": ["r3", "r0"], "cell": "lstm"}, ["r0"]),
  ],
)
def test_runs_are_selected_by_their_settings(labels, expected, data):
  assert ids(data.sel(labels)) == expected
  assert ids(data["norm"].sel(labels)) == expected


def test_a_selection_can_be_selected_from_and_keeps_its_values_and_attributes(data):
  found = data.sel(cell="lstm", step=5).sel(depth=2)
  assert found["norm"].values.tolist() == [4.0] and found["norm"].dims == ("run",)
  assert found["cell"].attrs == {"long_name": "cell"} and found["run"].attrs == {"long_name": "id"}
  assert data.sel(run="r3")["norm"].dims == ("step",)
  near = data.sel(cell="gru", step=6, method="nearest")
  assert near["norm"].values.tolist() == [7.0, 10.0]


@pytest.mark.parametrize(
  ("labels", "says"),
  [
    ({"cell": "elman"}, "cell must be one of gru, lstm, got elman"),
    ({"depth": [1, 4]}, "depth must be one of 1, 2, 3, got 4"),
    ({"depth": "1"}, "depth must be one of 1, 2, 3, got 1"),
    ({"cell": "gru", "depth": 2}, "No run has cell='gru', depth=2"),
    ({"run": "r9"}, "index 'run'"),
  ],
)
def test_labels_without_runs_are_refused(labels, says, data):
  with pytest.raises(KeyError, match=says):
    data.sel(labels)


def test_subsets_of_the_runs_are_aligned_concatenated_and_grouped(data):
  parts = data.sel(cell="gru"), data.sel(cell="lstm")
  whole = xr.concat(parts, "run")
  assert ids(whole) == ["r2", "r3", "r0", "r1"]
  assert ids(whole.sel(depth=1)) == ["r2", "r0"]
  assert ids(data["norm"] - parts[0]["norm"]) == ["r2", "r3"]
  both, _ = xr.align(data.isel(run=[0, 3]), data.isel(run=[3, 2]), join="outer")
  assert ids(both) == ["r0", "r2", "r3"]
  assert ids(both.sel(cell="gru")) == ["r2", "r3"] and np.isnan(both["norm"].sel(run="r2")).all()
  assert ids(data.where(data["depth"] > 1, drop=True).sel(truncation=8)) == ["r1", "r3"]
  means = data["norm"].isel(step=0).groupby("cell").mean()
  assert means.sel(cell="lstm") == 1.5
  assert data.isel(step=0).to_dataframe()["norm"].tolist() == [0.0, 3.0, 6.0, 9.0]
  assert ids(data.rename(depth="layers").sel(layers=3)) == ["r3"]
