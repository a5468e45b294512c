"""Tests of `python -m experiments.report`: its data, its page's file, and its errors."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time

import numpy as np
import pytest
import recorded
import reported
from called import called
from reported import HOSTILE, IMAGE

from experiments.report import __main__ as report
from experiments.report import curves, sources
from experiments.report.contents import contents
from experiments.report.page import page
from experiments.runtime import files
from experiments.sweep.records import gathered


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return reported.hostile(tmp_path_factory.mktemp("report") / "sweep")


def data_of(path):
  """Returns the data in a page."""
  text = path.read_text(encoding="utf-8")
  start = '<script type="application/json" id="data">'
  return json.loads(text.partition(start)[2].partition("</script>")[0])


def test_the_command_writes_a_self_contained_page(folder, program_here, tmp_path, capsys):
  out = tmp_path / "report.html"
  assert program_here(report, folder, f"--output={out}") == 0
  assert capsys.readouterr().out == f"{out}\n"
  text = out.read_text(encoding="utf-8")
  assert "default-src 'none'" in text and "src=" not in text.partition("{")[0]
  assert HOSTILE not in text and "<img" not in text.replace("plotly", "")[:20000]
  data = data_of(out)
  assert data["counts"] == {"finished": 8, "diverged": 1, "failed": 1, "unfinished": 0}
  settings = {setting["name"]: setting for setting in data["settings"]}
  assert [*settings] == ["cell", "recurrent_gain", "seed", "status"]
  assert settings["recurrent_gain"]["codes"] == [0, 0, 1, 1, 0, 0, 1, 1, 0]
  assert data["interval"] is None
  (row,) = (row for row in data["asked"] if row["name"] == "corpus")
  assert row["texts"] == [f"{HOSTILE} \\u202egnitirw\\x1b[2J\\x00"]
  assert data["failed"] == [[str(folder), f"failed{IMAGE}", f"training: {HOSTILE}"]]
  assert data["diverged"][0][2] == 1 and f"hidden{HOSTILE}" in data["diverged"][0][3]
  titles = [group["title"] for group in data["ablations"][0]["groups"]]
  assert "held-out loss, nats (lower is better)" in titles
  outcomes = {column["name"]: column["values"] for column in data["outcomes"]}
  assert outcomes["diverged_step"] == [None] * 8 + [1]
  _, metrics, _ = gathered.read(folder)
  expected = metrics["held_out_loss"].values[:8, 2]
  np.testing.assert_allclose(outcomes["held_out_loss"][:8], expected, rtol=1e-3)
  assert page(contents([sources.read(folder)])) == text  # equal records give equal pages


def test_several_folders_are_one_more_setting(folder, program_here, tmp_path):
  run = {"a": reported.RUNS[reported.FINISHED[0]]}
  other = recorded.write(tmp_path / "other", run, log_every=2, corpus="plain", depth=[1, 2])
  assert program_here(report, folder, other) == 0
  data = data_of(folder / "report.html")
  assert data["title"] == "sweep, other"
  assert data["settings"][0] == {
    "name": "folder",
    "label": "folder",
    "values": [str(folder), str(other)],
    "codes": [0] * 9 + [1],
  }
  differs = [row["name"] for row in data["asked"] if row["differs"]]
  assert {"corpus", "depth"} <= {*differs} and "steps" not in differs
  # The second sweep has no lag profiles; its norms end at step 1.
  lag, norms = data["curves"]["profiles"]
  assert (unpacked(lag, "end")[9] == -(2**15)).all()
  gradients, _, _ = gathered.read(other)
  for name, step in (("start", 0), ("end", 1)):
    wanted = gradients["log10_grad_norm"].sel(step=step).values[0]
    np.testing.assert_allclose(unpacked(norms, name)[9] / 500, wanted, atol=0.0011)


def unpacked(profile, name):
  values = np.frombuffer(base64.b64decode(profile[name]), "<i2")
  return values.reshape(-1, profile["layers"], len(profile["x"]))


def test_more_runs_have_fewer_points_and_the_rest_no_curves(folder, monkeypatch):
  source = sources.read(folder)
  full = curves.pack([source])
  assert full["points"] == curves.MOST_POINTS and full["runs"] == [*range(9)]
  monkeypatch.setattr(curves, "FEWEST_POINTS", 3)
  each = 2 * 2 * 2 * 2 + 4 * 3  # bytes per run and point: 2 profiles, 3 metrics
  monkeypatch.setattr(curves, "MAX_BYTES", 9 * 4 * each)
  fewer = curves.pack([source])
  assert fewer["points"] == 4 and len(fewer["runs"]) == 9
  lag, time_ = fewer["profiles"]
  assert lag["x"] == [0, 1, 5] and time_["x"] == [0, 2, 3, 5]
  at = unpacked(full["profiles"][1], "end")[:, :, time_["x"]]
  np.testing.assert_array_equal(unpacked(time_, "end"), at)
  monkeypatch.setattr(curves, "MAX_BYTES", 4 * 3 * each)
  fewest = curves.pack([source])
  assert fewest["points"] == 3 and fewest["runs"] == [0, 3, 5, 8]
  rows = unpacked(fewest["profiles"][1], "end")
  x = fewest["profiles"][1]["x"]
  np.testing.assert_array_equal(
    rows, unpacked(full["profiles"][1], "end")[np.ix_([0, 3, 5, 8], [0, 1], x)]
  )


def test_logarithms_keep_what_is_not_finite():
  values = np.array([np.nan, -np.inf, np.inf, -38.0, 1.25])
  steps = np.frombuffer(base64.b64decode(curves.packed_logarithms(values)), "<i2")
  assert steps.tolist() == [-(2**15), -(2**15) + 1, 2**15 - 1, -19000, 625]


@pytest.mark.parametrize(("size", "count"), [(1, 1), (5, 9), (1000, 24), (7, 3), (201, 200)])
def test_chosen_points_include_the_ends(size, count):
  for geometric in (False, True):
    found = curves.spaced(size, count, geometric)
    assert (found[0], found[-1]) == (0, size - 1)
    assert len(found) <= count and (np.diff(found) > 0).all()
  assert curves.spaced(1000, 24, geometric=True)[1] < 10 < curves.spaced(1000, 24)[1]


def test_an_unfinished_sweep_is_followed_to_its_end(folder, tmp_path):
  running = tmp_path / "running"
  shutil.copytree(folder, running)
  name = reported.FINISHED[1]
  status, kept = running / "runs" / name / "status.json", tmp_path / "status.json"
  shutil.move(status, kept)
  out = running / "report.html"
  report_flags = running, f"--output={out}"
  code, err = called_here(*report_flags)
  assert code == 0 and "1 of 10 runs are unfinished" in err
  data = data_of(out)
  assert data["counts"]["unfinished"] == 1 and data["interval"] is None

  out.unlink()
  seen = []

  def end_the_run():
    while not out.exists():
      time.sleep(0.02)
    seen.append(data_of(out)["interval"])
    shutil.move(kept, status)

  thread = threading.Thread(target=end_the_run)
  thread.start()
  code, _ = called_here(*report_flags, "--follow", "--interval=1")
  thread.join()
  assert code == 0 and seen == [1]
  data = data_of(out)
  assert data["counts"]["unfinished"] == 0 and data["interval"] is None


@pytest.fixture(autouse=True)
def _flags(flags_of):
  with flags_of(report):
    yield


def called_here(*arguments):
  return called(report.main, *arguments)


def test_errors_in_one_line(folder, tmp_path):
  files.write_text(tmp_path / "file", "")
  empty = tmp_path / "empty"
  empty.mkdir()
  for arguments, message in [
    ((), "Name at least one FOLDER"),
    ((empty,), f"got {empty}, which holds no sweep"),
    ((folder, "--output="), "--output must name a file, got ''"),
    ((folder, f"--output={empty}"), f"got the folder {empty}"),
    ((folder, f"--output={tmp_path / 'file' / 'x'}"), "file"),
    ((empty, "--follow"), "which holds no sweep"),
    ((folder, "--interval=0"), "interval"),
  ]:
    code, err = called_here(*arguments)
    assert code == 2 and message in err and err.count("\n") == 1, err
  assert not [*empty.iterdir()]
