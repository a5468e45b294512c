"""Files and gathered gradients equal those that xarray makes."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from experiments.sweep.measures.table import MEASURES
from experiments.sweep.records import run_gradients
from experiments.sweep.records.record import Record
from experiments.sweep.records.run_gradients import Gradients


def _write(path, depth, length, steps=3, **norms):
  """Writes random norms and lag norms of `steps` steps to `path`; returns the file's contents."""
  random = np.random.default_rng(depth)
  names = {"log10_grad_norm": None, **norms}
  found = {name: random.normal(size=(steps, depth, length)).astype(np.float32) for name in names}
  lag = {"decay_rate": random.normal(size=(steps, depth)).astype(np.float32)}
  zeros = np.zeros(steps, np.float32)
  record = Record(zeros, zeros, zeros, zeros, zeros == 0, found, {"lag": lag}, {})
  run_gradients.write(path, record, [0, 1, 2])
  return run_gradients.read(path)


@pytest.mark.parametrize("steps", [3, 2])
def test_a_file_equals_the_one_that_xarray_writes(steps, tmp_path):
  _write(tmp_path / "ours", depth=2, length=4, steps=steps)
  data = xr.load_dataset(tmp_path / "ours", engine="scipy")
  assert data.sizes == {"step": 3, "layer": 2, "time": 4}
  assert np.isnan(data["log10_grad_norm"].values[steps:]).all()
  xr.Dataset(data.data_vars, dict(data.coords)).to_netcdf(tmp_path / "theirs", engine="scipy")
  assert xr.load_dataset(tmp_path / "theirs", engine="scipy").identical(data)
  assert (tmp_path / "ours").stat().st_size == (tmp_path / "theirs").stat().st_size


def test_gathered_gradients_equal_what_xarray_concatenates(tmp_path):
  runs = {"a": (1, 4, {}), "b": (3, 6, {"log10_grad_norm_cell": None}), "c": (1, 4, {})}
  parts = [_write(tmp_path / n, depth, length, **more) for n, (depth, length, more) in runs.items()]
  along, variables = run_gradients.gather(parts, "the gradients")
  expected = xr.concat(
    [xr.load_dataset(tmp_path / name, engine="scipy") for name in runs],
    dim="run",
    join="outer",
    data_vars="all",
    coords="minimal",
  )
  found = xr.Dataset(variables, along)
  assert list(found.variables) == list(expected.variables)
  assert found.identical(expected)
  assert all(found[name].dtype == expected[name].dtype for name in expected.variables)


def test_a_variable_with_different_axes_in_two_runs_is_refused():
  along = {axis: np.arange(2, dtype=np.int32) for axis in ("step", "layer")}
  parts = [
    Gradients(along, {"omega": (axes, np.zeros((2,) * len(axes), np.float32))})
    for axes in (("step", "layer"), ("step",))
  ]
  says = "omega must have the same axes in all runs, got step, layer in one run and step in another"
  with pytest.raises(ValueError, match=says):
    run_gradients.gather(parts, "the gradients")


def test_a_measure_may_have_a_dimension_of_its_own(tmp_path, monkeypatch):
  monkeypatch.setitem(MEASURES, "units", MEASURES["omega"]._replace(dims=("layer", "unit")))
  share = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)
  zeros, norms = np.zeros(3, np.float32), {"log10_grad_norm": np.zeros((3, 2, 4), np.float32)}
  measures = {"units": {"share": share}}
  record = Record(zeros, zeros, zeros, zeros, zeros == 0, norms, measures, {})
  run_gradients.write(tmp_path / "file", record, [0, 1, 2])
  found = run_gradients.read(tmp_path / "file")
  axes, values = found.variables["share"]
  assert axes == ("step", "layer", "unit")
  np.testing.assert_array_equal(values, share)
  np.testing.assert_array_equal(found.coordinates["unit"], range(5))
