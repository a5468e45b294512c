"""Tests of the command and of the outcomes, on the records of a sweep."""

from __future__ import annotations

import csv
import io
import math
import shutil

import numpy as np
import pytest
import xarray as xr
from swept import SMOKE

from experiments.ablation import __main__ as ablation
from experiments.ablation import factors, folders
from experiments.ablation.effects import effects
from experiments.sweep.records import united

FILES = {f"ablation.{kind}" for kind in ("csv", "md", "tex", "png", "svg")}


def rows(folder):
  return list(csv.DictReader(io.StringIO((folder / "ablation.csv").read_text())))


def test_the_command_on_a_sweep(sweep_in_process, program_here, tmp_path, capsys):
  folder, copy, out = tmp_path / "sweep", tmp_path / "copy", tmp_path / "out"
  flags = ("--cell=elman", "--learning_rate=0.1,0.01", "--truncation=full", "--seed=0,1")
  flags = (*flags, "--steps=4", "--log_every=4", f"--output_dir={folder}")
  assert sweep_in_process(SMOKE, *flags) == 0
  capsys.readouterr()

  assert program_here(ablation, folder) == 0
  printed = capsys.readouterr().out
  assert "0.1 → 0.01" in printed and "With 2 seeds, the smallest possible p is 0.5" in printed
  assert {path.name for path in (folder / "ablation").iterdir()} == FILES
  found = rows(folder / "ablation")
  assert {(row["setting"], row["seeds"]) for row in found} == {("learning_rate", "2")}
  gradients, *_ = united.read([folder])
  norms = gradients["log10_lag_norm"].sel(step=4, layer=1)
  lost = (norms.sel(lag=0) - norms.sel(lag=11)).groupby("learning_rate").mean()
  base, other = float(lost.sel(learning_rate=0.1)), float(lost.sel(learning_rate=0.01))
  (row,) = (row for row in found if row["outcome"] == "decades_lost_11")
  assert float(row["at_base"]) == pytest.approx(base, rel=1e-5)
  assert float(row["effect"]) == pytest.approx(other - base, rel=1e-3)

  # A run that two folders hold counts once; another base, lag and aggregate.
  shutil.copytree(folder, copy)
  more = ("--base=learning_rate=0.01", "--lag=3", "--aggregate=iqm", f"--output_dir={out}")
  assert program_here(ablation, folder, copy, *more, "--format=pdf", "--width=3.25") == 0
  assert {path.suffix for path in out.iterdir()} == {".csv", ".md", ".tex", ".pdf"}
  (row,) = (row for row in rows(out) if row["outcome"] == "decades_lost_3")
  assert (row["base"], row["seeds"], row["statistic"]) == ("0.01", "2", "iqm")

  for wrong, text in [
    ("--lag=12", "lag must be from 1 to 11, the largest lag that all runs have, got 12."),
    ("--base=depth=2", "Unknown base 'depth'"),
    ("--base=depth", "base must be setting=value,setting=value, got 'depth'."),
    ("--base=cell=gru,cell=lstm", "base must name each setting once, got cell twice"),
  ]:
    new = tmp_path / "new"
    capsys.readouterr()
    assert program_here(ablation, folder, wrong, f"--output_dir={new}") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert text in error and not new.exists()


def test_no_folder_is_an_error(program_here, capsys):
  assert program_here(ablation) == 2
  assert "Name at least one FOLDER" in capsys.readouterr().err


RUN = {"cell": "lstm", "depth": 1, "truncation": math.inf, "learning_rate": 0.002}


def records(runs, **metrics):
  """Returns (gradients, metrics) of runs with three updates and lags 0, 1, 2.

  Args:
    runs: {coordinate: its value for each run}.
    metrics: further metrics [run, update].
  """
  count = len(runs["seed"])
  columns = {**{name: [value] * count for name, value in RUN.items()}, **runs}
  columns = {"status": ["finished"] * count, "diverged_step": [math.nan] * count, **columns}
  along = {name: ("run", column) for name, column in columns.items()}
  along["run"] = [f"run {i}" for i in range(count)]
  profiles = np.zeros((count, 2, 1, 3))
  profiles[:, 1, 0] = np.outer(1.0 + np.arange(count), [0, -1, -2])
  dims = ("run", "step", "layer")
  gradients = xr.Dataset(
    {
      "log10_lag_norm": ((*dims, "lag"), profiles),
      "decay_rate": (dims, -np.log(10) * (1.0 + np.arange(count))[:, None, None] * [[[0], [1]]][0]),
      "effective_memory": (dims, np.tile([[[9.0], [2.0]]], (count, 1, 1))),
    },
    {**along, "step": [0, 2], "layer": [1], "lag": [0, 1, 2]},
  )
  loss = np.tile([3.0, 2.0, 1.0], (count, 1))
  metrics = {"loss": loss, **metrics}
  return gradients, xr.Dataset(
    {name: (("run", "update"), np.asarray(values)) for name, values in metrics.items()},
    along,
    {"loss_unit": "nats"},
  )


CONFIGURATION = {"task": "adding", "cell_option": [], "cell": ["lstm", "elman"]}


def study_of(data, lag=None, states=None):
  return folders.study(*data, states or {}, [CONFIGURATION], lag)


def by_name(study):
  return {outcome.name: outcome for outcome in study.outcomes}


def test_outcomes_are_those_at_the_last_step():
  gradients, metrics = records({"seed": [0, 1], "cell": ["elman", "lstm"]})
  study = study_of((gradients, metrics))
  found = by_name(study)
  assert list(found) == [
    "final_training_loss",
    "decay_rate",
    "decades_lost_2",
    "effective_memory",
  ]
  assert found["final_training_loss"].low.tolist() == [1, 1]
  assert found["decades_lost_2"].low.tolist() == [2, 4]
  np.testing.assert_allclose(found["decay_rate"].low, [-math.log(10), -2 * math.log(10)])
  assert found["effective_memory"].high.tolist() == [2, 2]
  assert all(outcome.known.all() for outcome in found.values())
  assert study.factors == {"cell": factors.Factor(["lstm", "elman"], ["elman", "lstm"])}
  assert study.remarks == [
    "Not all runs have a held-out loss: the final training loss takes its place.",
    "No run diverged.",
  ]
  (lost,) = (o for o in study_of((gradients, metrics), lag=1).outcomes if "lost" in o.name)
  assert lost.low.tolist() == [1, 2]


def test_failed_runs_are_counted():
  states = {"run 0": {"status": "finished"}, "run 1": {"status": "failed"}}
  study = study_of(records({"seed": [0]}), states=states)
  assert study.remarks[-1] == "1 of 2 runs failed, and are left out."


def test_the_held_out_loss_takes_the_place_of_the_training_loss():
  nan = math.nan
  held_out = {
    "held_out_loss": [[4.0, nan, 0.5], [4.0, nan, math.inf]],
    "held_out_accuracy": [[0.1, nan, 0.9], [0.1, nan, 0.8]],
    "held_out_loss_64": [[4.0, nan, 0.7], [nan, nan, nan]],
  }
  study = study_of(records({"seed": [0, 1]}, **held_out))
  found = by_name(study)
  assert "final_training_loss" not in found
  assert found["held_out_loss"].low.tolist() == [0.5, math.inf]
  assert found["held_out_loss"].known.tolist() == [True, False]
  assert (found["held_out_accuracy"].low.tolist(), found["held_out_accuracy"].better) == (
    [0.9, 0.8],
    1,
  )
  longer = found["held_out_loss_64"]
  assert (longer.label, longer.low[1], longer.high[1]) == (
    "held-out loss, sequence length 64",
    -math.inf,
    math.inf,
  )


def test_runs_that_diverged_and_memories_beyond_the_sequence_have_bounds():
  runs = {"seed": [0, 1], "status": ["finished", "diverged"], "diverged_step": [math.nan, 1.0]}
  gradients, metrics = records(runs)
  gradients["effective_memory"][0, 1] = math.inf
  gradients["log10_lag_norm"][1, 1] = math.nan
  metrics["loss"][1, 1:] = math.nan
  study = study_of((gradients, metrics))
  ends = {o.name: list(zip(o.low.tolist(), o.high.tolist(), strict=True)) for o in study.outcomes}
  inf, unknown = math.inf, (-math.inf, math.inf)
  assert ends["final_training_loss"] == [(1, 1), (inf, inf)]
  assert ends["decades_lost_2"] == [(2, 2), unknown]
  assert ends["effective_memory"] == [(3, inf), unknown]
  assert ends["diverged"] == [(0, 0), (1, 1)]
  assert ends["diverged_step"] == [(3, inf), (1, 1)]
  assert study.diverged.tolist() == [False, True]


def test_records_without_lag_profiles_have_no_decay():
  gradients, metrics = records({"seed": [0, 1]})
  gradients = gradients.drop_vars(["log10_lag_norm", "decay_rate", "effective_memory"])
  study = study_of((gradients, metrics))
  assert list(by_name(study)) == ["final_training_loss"]
  assert any("lag profiles" in remark for remark in study.remarks)
  with pytest.raises(ValueError, match="lag must be left out, since not all runs have"):
    study_of((gradients, metrics), lag=1)


@pytest.mark.parametrize(
  ("name", "value", "text"),
  [
    ("truncation", math.inf, "full"),
    ("truncation", None, "full"),
    ("truncation", 16.0, "16"),
    ("clip_norm", None, "none"),
    ("forget_bias", math.nan, None),
    ("forget_bias", None, None),
    ("residual", True, "true"),
    ("learning_rate", 0.1 + 0.2, "0.30000000000000004"),
    ("learning_rate", 1e-5, "1e-05"),
    ("options", "", None),
  ],
)
def test_values_are_written_as_flags_give_them(name, value, text):
  assert factors.value_text(name, value) == text


def test_settings_that_vary_are_factors_in_the_order_of_the_flags():
  runs = {
    "seed": [0, 0, 0, 0],
    "cell": ["lstm", "elman", "elman", "lstm"],
    "options": ["", "activation=relu", "activation=tanh", ""],
    "depth": [1, 2, 2, 2],
    "residual": [False, False, True, True],
    "clip_norm": [1.0, math.inf, 1.0, 1.0],
    "clip_by": ["element", "global_norm", "global_norm", "element"],
    "hidden_size": [8, 12, 12, 8],
  }
  configuration = {
    **CONFIGURATION,
    "depth": [2, 1],
    "clip_norm": [None, 1.0],
    "cell_option": ["activation=tanh,relu"],
    "match_params": 100,
  }
  columns = factors.columns(records(runs)[0], [configuration])
  found = factors.factors(columns, [configuration])
  assert found == {
    "cell": factors.Factor(["lstm", "elman"], runs["cell"]),
    "depth": factors.Factor(["2", "1"], ["1", "2", "2", "2"]),
    "residual": factors.Factor(["false", "true"], [None, "false", "true", "true"]),
    "clip_norm": factors.Factor(["none", "1"], ["1", "none", "1", "1"]),
    "clip_by": factors.Factor(
      ["element", "global_norm"], ["element", None, "global_norm", "element"]
    ),
    "activation": factors.Factor(["tanh", "relu"], [None, "relu", "tanh", None]),
  }


def test_a_selected_setting_is_not_compared():
  rates = [0.01, 0.01, 0.03, 0.03]
  runs = {"seed": [0, 1, 0, 1], "cell": ["lstm", "lstm", "elman", "elman"], "learning_rate": rates}
  configuration = {**CONFIGURATION, "learning_rate": [0.01, 0.03], "select": "learning_rate"}
  study = folders.study(*records(runs), {}, [configuration])
  assert list(study.factors) == ["cell"]
  assert "Each setting has the learning_rate that --select chose for it" in study.remarks[-1]
  found = [e for e in effects(study) if e.outcome.name == "decay_rate"]
  assert [(e.values, e.seeds) for e in found] == [(("elman",), 2)]

  # A sweep that selected nothing, or that has several values for the other settings, is a grid.
  assert list(study_of(records(runs)).factors) == ["cell", "learning_rate"]
  runs["cell"] = ["lstm", "elman", "lstm", "elman"]
  runs["seed"] = [0, 0, 0, 0]
  study = folders.study(*records(runs), {}, [configuration])
  assert list(study.factors) == ["cell", "learning_rate"]


def test_an_option_that_only_some_runs_of_a_cell_have_is_compared_with_its_default():
  runs = {
    "seed": [0, 0, 0],
    "options": ["", "activation=relu", ""],
    "cell": ["elman", "elman", "gru"],
  }
  columns = factors.columns(records(runs)[0], [CONFIGURATION])
  assert columns["activation"] == ["default", "relu", None]
