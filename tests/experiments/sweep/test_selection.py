"""Tests of `--select`: which values are chosen, and what is trained with them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from swept import contents, sweep

from experiments.sweep.records import gathered

FLAGS = ("--task=adding", "--hidden_size=4", "--sequence_length=8", "--batch_size=4", "--steps=40")
FLAGS += ("--measures=none", "--select=learning_rate", "--select_seed=10,11")
RATES = ("--cell=elman,gru", "--learning_rate=1e-06,0.05,1e+30")


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
  folder = tmp_path_factory.mktemp("select") / "sweep"
  sweep(*FLAGS, *RATES, f"--output_dir={folder}")
  return folder


def best(folder):
  """Returns {cell: learning rate with the smallest mean held-out loss}, from the records."""
  _, metrics, _ = gathered.read(folder / "selection")
  last = metrics["held_out_loss"].sel(update=metrics["steps"]).fillna(math.inf)
  means = last.groupby(["cell", "learning_rate"]).mean()
  return {
    cell: float(means["learning_rate"].values[np.argmin(means.sel(cell=cell).values)])
    for cell in means["cell"].values.tolist()
  }


def test_only_the_best_value_of_each_cell_is_trained_with_fresh_seeds(selected):
  _, chosen, _ = gathered.read(selected / "selection")
  assert chosen.sizes["run"] == 2 * 3 * 2 and set(chosen["seed"].values) == {10, 11}
  gradients, _, _ = gathered.read(selected)
  found = dict(
    zip(gradients["cell"].values.tolist(), gradients["learning_rate"].values.tolist(), strict=True)
  )
  assert found == best(selected) == {"elman": 0.05, "gru": 0.05}
  assert set(gradients["seed"].values) == {0}
  about = json.loads((selected / "sweep.json").read_text())
  assert [choice["setting"] for choice in about["selected"]] == ["elman, depth 1", "gru, depth 1"]
  assert about["selected"][0]["held_out_loss"]["1e+30"] == math.inf
  assert about["configuration"]["learning_rate"] == [1e-06, 0.05, 1e30]


def test_more_seeds_train_only_the_chosen_value_again(selected, sweep_in_process, tmp_path, capsys):
  given = (*FLAGS, *RATES, f"--output_dir={selected}", "--seed=0,1", "--devices=2")
  assert sweep_in_process(*given) == 0
  said = capsys.readouterr().out
  assert "12 of 12 runs already done" in said and "2 of 4 runs already done" in said
  again = (f"--flagfile={selected / 'sweep.flags'}", f"--output_dir={tmp_path / 'again'}")
  assert sweep_in_process(*again, "--devices=1") == 0
  assert contents(tmp_path / "again") == contents(selected)


def test_a_best_value_at_the_edge_is_a_warning(sweep_in_process, tmp_path, capsys):
  rates = ("--cell=elman", "--learning_rate=0.001,0.05", f"--output_dir={tmp_path}")
  assert sweep_in_process(*FLAGS, *rates) == 0
  captured = capsys.readouterr()
  assert "warning: the best learning_rate is at the edge of its values for 1 of 1" in captured.err
  assert np.isclose(best(tmp_path)["elman"], 0.05)


def test_a_dry_run_shows_the_runs_that_select(sweep_here, tmp_path, capsys):
  assert sweep_here(*FLAGS, *RATES, "--dry_run", f"--output_dir={tmp_path / 'out'}") == 0
  said = capsys.readouterr().out
  assert "12 runs, 2 groups" in said
  assert "the chosen values of learning_rate are trained with 1 seed.\n" in said
  assert not list(tmp_path.iterdir())
