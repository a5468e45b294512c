"""Tests of `experiments.open_sweep`, and of the notebook and the page that use it."""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import swept
import xarray as xr

import experiments
from experiments.sweep.records import dataset, gathered

NOTEBOOK = swept.ROOT / "experiments" / "notebooks" / "gradient_decay.ipynb"
FLAGS = (
  "--task=adding",
  "--cell=gru,lstm",
  "--depth=1,2",
  "--seed=0,1",
  "--clip_norm=none",
  "--cell_option=gru.inner_bias=false",
  "--cell_option=gru.reset=before",
  "--cell_option=lstm.chrono=8",
  "--hidden_size=4",
  "--sequence_length=8",
  "--batch_size=4",
  "--steps=4",
  "--log_every=2",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
  """The folder of a finished sweep."""
  path = tmp_path_factory.mktemp("clone") / "results" / "gradient_decay"
  process = swept.start(*FLAGS, f"--output_dir={path}")
  _, errors = process.communicate(timeout=240)
  assert process.returncode == 0, errors
  return path


@pytest.fixture(scope="module")
def data(folder) -> xr.Dataset:
  return experiments.open_sweep(str(folder))


def test_the_dataset_holds_all_variables_of_the_records(folder, data):
  gradients, metrics, _ = gathered.read(folder)
  for records in (gradients, metrics):
    for name, values in records.variables.items():
      np.testing.assert_array_equal(data[name], values)
      assert data[name].dims == values.dims
  assert not np.isnan(data["loss"]).any() and data.sizes["run"] == 8


def test_every_variable_is_described(data):
  assert data["loss"].attrs["units"] == "squared error"
  assert data["decay_rate"].attrs["units"] == "nats per time step"
  assert data["lag"].attrs["units"] == data["truncation"].attrs["units"] == "time steps"
  assert "inf: full backpropagation" in data["truncation"].attrs["description"]
  assert data["log10_lag_norm_cell"].attrs["long_name"].endswith("to the carry's cell")
  for name, values in data.variables.items():
    attributes = values.attrs
    known = str(name) in dataset._QUANTITIES
    assert known or attributes["long_name"] != str(name).replace("_", " "), name
    assert ("units" in attributes) == (values.dtype.kind in "fiu"), name
    assert all(attributes.values()), name


def test_every_measure_describes_its_variables():
  for measure in dataset.MEASURES.values():
    assert measure.quantities.keys() == measure.labels.keys()


def test_cell_options_are_coordinates_of_their_type(data):
  gru, lstm = data.sel(cell="gru"), data.sel(cell="lstm")
  assert set(gru["reset"].values) == {"before"} and set(lstm["reset"].values) == {""}
  assert set(lstm["chrono"].values) == {8.0} and np.isnan(gru["chrono"]).all()
  assert not gru["inner_bias"].any() and np.isnan(lstm["inner_bias"]).all()
  assert data.sel(inner_bias=False).equals(gru)
  assert data.sel(chrono=8, depth=2, seed=1).sizes["run"] == 1


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    ([True, False], np.array([True, False])),
    ([True, None], np.array([1.0, np.nan])),
    ([None, 3, 0.5], np.array([np.nan, 3.0, 0.5])),
    (["relu", None], np.array(["relu", ""])),
    (["auto", 2, True], np.array(["auto", "2", "true"])),
  ],
)
def test_options_become_bools_numbers_or_texts(values, expected):
  found = dataset._column(values)
  np.testing.assert_array_equal(found, expected)
  assert found.dtype.kind == expected.dtype.kind


def test_the_attributes_say_what_sweep_json_says(folder, data):
  about = json.loads((folder / "sweep.json").read_text())
  found = data.attrs
  expected = {"task": "adding", "sequence_length": 8, "batch_size": 4, "steps": 4, "corpus": "none"}
  expected |= {"loss_unit": "squared error", "baseline": pytest.approx(1 / 6), "log_every": 2}
  expected |= {"versions_jax": about["versions"]["jax"], "devices": json.dumps(about["devices"])}
  expected |= {"git_commit": about["git"]["commit"], "git_dirty": int(about["git"]["dirty"])}
  expected |= {"code": json.dumps(about["code"]), "num_runs": 8, "num_missing_runs": 0}
  assert {name: found[name] for name in expected} == expected
  missing = {name for name in about["configuration"] if name not in found}
  assert not missing


def test_a_text_is_named_and_odd_values_stay_readable():
  corpus = {"name": "stdlib", "sha256": "abc", "characters": 9}
  hostile = {"continued": [{}, {"a": [1]}], "huge": 10**30, "dev": ["\x1b[31m"], "a/b": 1}
  flat = dataset._flat({"configuration": {"corpus": "stdlib"}, "corpus": corpus, **hostile})
  assert flat == {
    "corpus": "stdlib",
    "corpus_name": "stdlib",
    "corpus_sha256": "abc",
    "corpus_characters": 9,
    "continued": '[{}, {"a": [1]}]',
    "huge": str(10**30),
    "dev": '"\\u001b[31m"',
  }


def test_the_dataset_is_written_and_read_back(data, tmp_path):
  data.to_netcdf(tmp_path / "all.nc", engine="h5netcdf")
  read = xr.load_dataset(tmp_path / "all.nc", engine="h5netcdf")
  assert read.drop_indexes(list(read.xindexes)).identical(data.drop_indexes(list(data.xindexes)))


def test_the_done_runs_of_an_unfinished_sweep_are_opened(folder, data, tmp_path):
  part = shutil.copytree(folder, tmp_path / "part")
  first, *rest = data["run"].values.tolist()
  (part / "runs" / first / "status.json").unlink()
  with pytest.raises(ValueError, match=f"run {first} in .* is unfinished"):
    experiments.open_sweep(part)
  found = experiments.open_sweep(part, partial=True)
  assert found["run"].values.tolist() == rest
  assert (found.attrs["num_runs"], found.attrs["num_missing_runs"]) == (8, 1)
  assert found.sel(cell="lstm").equals(data.sel(cell="lstm"))


def test_a_folder_without_a_sweep_is_refused(tmp_path):
  with pytest.raises(ValueError, match="which holds no sweep"):
    experiments.open_sweep(tmp_path / "nothing")


def cells():
  """Returns the code cells of the notebook."""
  found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
  return [cell for cell in found if cell["cell_type"] == "code"]


def test_the_notebook_runs_on_a_finished_sweep(folder, monkeypatch):
  here = folder.parents[1] / "experiments" / "notebooks"
  here.mkdir(parents=True)
  before = {path: os.stat(path).st_mtime_ns for path in folder.parents[1].rglob("*")}
  monkeypatch.chdir(here)
  monkeypatch.setattr(sys, "path", [*sys.path])
  names: dict = {}
  with matplotlib.rc_context({"backend": "agg"}):
    for i, cell in enumerate(cells()):
      exec(compile("".join(cell["source"]), f"cell {i}", "exec"), names)
    lines = [line for axes in names["grid"].axs.flat for line in axes.lines]
    matplotlib.pyplot.close("all")
  assert len(lines) == 2 * 2 * 2  # cells, depths, and before and after training
  assert all(np.isfinite(line.get_ydata()).all() for line in lines)
  assert set(names["half_life"]["cell"].values) == {"gru", "lstm"}
  assert names["decay"].sizes == {"cell": 2, "depth": 2, "step": 2, "lag": 8}
  after = {path: os.stat(path).st_mtime_ns for path in folder.parents[1].rglob("*")}
  assert before == after, "the notebook must write nothing"


def test_the_stored_outputs_of_the_notebook_are_small_and_of_one_execution():
  assert NOTEBOOK.stat().st_size < 100_000
  assert [cell["execution_count"] for cell in cells()] == [1, 2, 3, 4, 5]
  kinds = [output["output_type"] for cell in cells() for output in cell["outputs"]]
  assert set(kinds) == {"execute_result", "display_data"}
  pictures = [o for cell in cells() for o in cell["outputs"] if "image/png" in o["data"]]
  assert len(pictures) == 1


def test_the_examples_of_the_page_run(folder, monkeypatch):
  page = (swept.ROOT / "experiments/sweep/README.md").read_text(encoding="utf-8")
  (code,) = re.findall(r"```pycon\n(.*?)```", page, flags=re.DOTALL)
  monkeypatch.chdir(folder.parents[1])
  example = doctest.DocTestParser().get_doctest(code, {}, "README.md", "README.md", 0)
  assert len(example.examples) > 5
  assert doctest.DocTestRunner().run(example).failed == 0
