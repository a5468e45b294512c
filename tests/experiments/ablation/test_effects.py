"""Tests of effects: which runs are compared, main effects, interactions, unknown outcomes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from studies import grid, outcome

from experiments.ablation.effects import contrasts, effects
from experiments.ablation.study import Factor

NAN = math.nan
CELLS = {"cell": ("elman", "lstm")}
TWO = {"cell": ("elman", "lstm"), "depth": ("1", "2")}


def by_name(found):
  return {(e.outcome.name, " ".join(e.factors), " ".join(e.values)): e for e in found}


def test_three_seeds_give_the_numbers_of_a_hand_computation():
  study = grid(CELLS, 3, [outcome([5.0, 7.0, 9.0, 4.0, 5.0, 3.0])])
  (found,) = effects(study)  # differences −1, −2, −6
  assert (found.factors, found.bases, found.values) == (("cell",), ("elman",), ("lstm",))
  assert (found.at_base, found.effect, found.statistic) == (7, -3, "mean")
  assert found.d_z == pytest.approx(-3 / math.sqrt(7))
  assert (found.p, found.p_holm, found.test) == (0.25, 0.25, "differences")
  assert (found.p_better, found.seeds, found.settings, found.used) == (1, 3, 1, 1)
  assert (found.runs, found.diverged, found.censored) == (6, 0, 0)
  half = 4.302652729911275 * math.sqrt(7 / 3)
  assert (found.low, found.high) == (pytest.approx(-3 - half), pytest.approx(-3 + half))


def test_seeds_are_paired_and_settings_averaged():
  # y = 10 · seed + 2 · [lstm] + 3 · [depth 2] + 5 · [both]
  values = [10 * s + 2 * c + 3 * d + 5 * c * d for c in (0, 1) for d in (0, 1) for s in range(4)]
  found = by_name(effects(grid(TWO, 4, [outcome(values)])))
  cell, depth, both = found.values()
  assert [e.effect for e in (cell, depth, both)] == [2 + 5 / 2, 3 + 5 / 2, 5]
  assert (both.factors, both.bases, both.values) == (
    ("cell", "depth"),
    ("elman", "1"),
    ("lstm", "2"),
  )
  assert (cell.seeds, cell.settings, both.seeds, both.settings) == (4, 2, 4, 1)
  assert cell.at_base == 15 + 3 / 2
  assert all(e.p == 1 / 8 for e in (cell, depth, both))
  # Corrected over two effects, and over one interaction.
  assert [e.p_holm for e in (cell, depth, both)] == [1 / 4, 1 / 4, 1 / 8]


def test_the_sign_of_an_interaction_is_that_of_a_difference_of_differences():
  values = [0.0, 0.0, 4.0, 1.0]  # lstm adds 4 at depth 1, and 1 at depth 2
  (*_, both) = effects(grid(TWO, 1, [outcome(values)]))
  assert both.effect == -3


def test_another_base_reverses_an_effect():
  study = grid(CELLS, 2, [outcome([1.0, 2.0, 3.0, 5.0])])
  ours, theirs = effects(study)[0], effects(study, {"cell": "lstm"})[0]
  assert (theirs.bases, theirs.values) == (("lstm",), ("elman",))
  assert ours.effect == -theirs.effect == 2.5


def test_unknown_bases_and_aggregates_are_refused():
  study = grid(CELLS, 2, [outcome([1.0, 2.0, 3.0, 5.0])])
  with pytest.raises(ValueError, match="Unknown base 'cel'; did you mean 'cell'"):
    effects(study, {"cel": "lstm"})
  with pytest.raises(ValueError, match=r"Unknown base of cell 'gru'.*elman, lstm"):
    effects(study, {"cell": "gru"})
  with pytest.raises(ValueError, match="Unknown aggregate 'median'"):
    effects(study, aggregate="median")


def test_one_setting_at_a_time_compares_with_the_base_alone():
  study = grid(TWO, 2, [outcome(np.arange(8.0))])
  kept = [0, 1, 2, 3, 4, 5]  # without lstm, depth 2
  found = study._replace(
    runs=[study.runs[i] for i in kept],
    seeds=[study.seeds[i] for i in kept],
    tasks=["adding"] * 6,
    diverged=study.diverged[kept],
    factors={n: Factor(f.values, [f.column[i] for i in kept]) for n, f in study.factors.items()},
    outcomes=[outcome(np.arange(6.0))],
  )
  assert [(e.factors, e.effect, e.settings) for e in effects(found)] == [
    (("cell",), 4, 1),
    (("depth",), 2, 1),
  ]


def test_a_setting_without_effect_counts_as_its_base():
  # Elman cells have no forget bias; their only run is compared with an LSTM of the base bias.
  study = grid({"run": ("elman", "lstm 0", "lstm 3")}, 2, [outcome([1.0, 1, 5, 5, 9, 9])])
  cells = ["elman"] * 2 + ["lstm"] * 4
  biases = [None] * 2 + ["0"] * 2 + ["3"] * 2
  study = study._replace(
    factors={"cell": Factor(["elman", "lstm"], cells), "bias": Factor(["0", "3"], biases)}
  )
  assert [(e.factors, e.values, e.effect) for e in effects(study)] == [
    (("cell",), ("lstm",), 4),
    (("bias",), ("3",), 4),
  ]


def test_runs_of_different_tasks_are_not_compared():
  study = grid(TWO, 1, [outcome([1.0, 2.0, 4.0, 8.0])])
  depth = study.factors["depth"].column
  tasks = ["adding" if value == "1" else "copy" for value in depth]
  study = study._replace(tasks=tasks, factors={"cell": study.factors["cell"]})
  assert [(e.task, e.effect) for e in effects(study)] == [("adding", 3), ("copy", 6)]


def test_two_runs_with_equal_settings_are_refused():
  study = grid(CELLS, 2, [outcome([1.0, 2.0, 3.0, 5.0])])._replace(seeds=[0, 0, 0, 1])
  with pytest.raises(ValueError, match="but elman-0 and elman-1 do not"):
    effects(study)


def test_settings_that_lack_a_seed_are_left_out():
  study = grid(TWO, 3, [outcome(np.arange(12.0) ** 2)])
  seeds = [*study.seeds[:-1], 7]  # lstm, depth 2 has the seeds 0, 1, 7
  (cell, *_) = contrasts(study._replace(seeds=seeds), 1)
  assert (cell.corners.shape, cell.left_out) == ((2, 1, 3), 1)
  assert effects(study._replace(seeds=seeds))[0].left_out == 1


def memory(values, horizon):
  """Returns the outcome of memories, of which those above the horizon are not known."""
  values = np.asarray(values, float)
  low = np.minimum(values, horizon)
  return outcome(low, 1, "effective_memory", np.where(values > horizon, np.inf, values))


def test_memories_beyond_the_sequence_are_counted_and_not_averaged():
  base, other = [5, 6, 7, 5, 6], [8, 99, 9, 7, 9]
  (found,) = effects(grid(CELLS, 5, [memory(base + other, 10)]))
  assert (found.used, found.settings) == (0, 1)
  assert (found.runs, found.censored, found.diverged) == (10, 1, 0)
  # Differences 3, at least 4, 2, 2, 3: whatever the second is, the median is 3.
  assert (found.effect, found.statistic) == (3, "median")
  assert math.isnan(found.low) and math.isnan(found.d_z) and found.method == ""
  assert (found.p_better, found.test, found.p) == (1, "signs", 2 / 2**5)


def test_a_median_that_depends_on_an_unknown_value_is_not_given():
  base, other = [5, 6, 7, 99, 99], [8, 99, 9, 7, 99]
  (found,) = effects(grid(CELLS, 5, [memory(base + other, 10)]))
  # Differences 3, at least 4, 2, at most −3, unknown: the median is 2 or 3.
  assert math.isnan(found.effect)
  assert found.censored == 4
  assert found.p_better == (1 + 1 + 1 + 0 + 0.5) / 5


def test_without_any_knowledge_there_is_no_test():
  (found,) = effects(grid(CELLS, 5, [memory([99] * 10, 10)]))
  assert found.censored == found.runs == 10
  assert math.isnan(found.p) and math.isnan(found.p_better) and found.test == ""
  assert math.isnan(found.p_holm)


def test_a_run_that_diverged_is_worse_than_any_loss():
  loss = outcome([1.0, 1, 1, 2.0, np.inf, 0.5])
  diverged = [False, False, False, False, True, False]
  (found,) = effects(grid(CELLS, 3, [loss], diverged))
  assert (found.diverged, found.censored, found.used) == (1, 0, 0)
  # Differences 1, inf, −0.5
  assert (found.effect, found.statistic) == (1, "median")
  assert found.p_better == pytest.approx(1 / 3)


def test_pairs_that_are_decided_in_opposite_directions_are_a_tie():
  elman, lstm = [[1.0, 1.0], [np.inf, 1.0]], [[2.0, 2.0], [0.5, 0.5]]  # [depth, seed]
  (found, *_) = effects(grid(TWO, 2, [outcome(np.ravel([elman, lstm]))]))
  assert (found.p_better, found.p, found.test, found.used) == (0.5, 1, "signs", 1)
  assert found.effect == 1


def test_means_are_over_the_settings_in_which_every_run_is_known():
  values = np.arange(12.0)
  values[8] = np.inf  # lstm, depth 1, seed 2
  diverged = np.isinf(values)
  cell, depth, both = effects(grid(TWO, 3, [outcome(values)], diverged))
  assert (cell.effect, cell.used, cell.settings, cell.diverged) == (6, 1, 2, 1)
  assert (depth.effect, depth.used, depth.settings) == (3, 1, 2)
  assert cell.test == depth.test == "signs"
  assert (cell.p_better, depth.p_better) == (0, pytest.approx(1 / 6))
  assert (both.used, both.statistic, both.diverged) == (0, "median", 1)


def test_shares_of_diverged_runs_are_tested_as_pairs():
  share = outcome([0.0] * 6 + [1.0] * 6, name="diverged")
  (found,) = effects(grid(CELLS, 6, [share], [False] * 6 + [True] * 6))
  assert (found.effect, found.p, found.p_better, found.diverged) == (1, 2 / 2**6, 0, 0)
  assert found.method == ""  # all differences are equal
