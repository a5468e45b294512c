"""The effect of each setting on each outcome, and the interactions of two settings.

Two runs are a pair if they have the same seed and differ in one setting alone. A pair's difference
is averaged over the other settings, and so each seed yields one number. A setting that has no
effect on a run, such as the forget bias on an Elman cell, counts as having its base value.

References:
  Lachin, 1999, Worst-rank score analysis with informatively missing observations in clinical
    trials: a run that diverged is worse than any other.
  Agarwal et al., 2021, https://arxiv.org/abs/2108.13264: interquartile means, P(better).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from experiments.ablation import inference
from experiments.ablation.study import Outcome, Study
from rnn_jax import checks


class Effect(NamedTuple):
  """The effect of a setting on an outcome, or an interaction of two settings.

  The effect of a value is the outcome with this value minus the outcome with the base value. An
  interaction is the effect of the first setting's value at the second setting's value, minus its
  effect at the second setting's base. All numbers are NaN where they do not exist.

  Attributes:
    task: the runs' task.
    outcome: the outcome, whose arrays hold all runs of the study.
    factors, bases, values: name, base and value of the setting, or of both settings.
    seeds: number of seeds; each yields one difference.
    settings, used: number of combinations of the other settings, and of those in which the outcome
      of every run is known. `at_base`, `effect`, `low`, `high` and `d_z` are averages over these.
    left_out: number of further combinations, which lack a seed that these have.
    at_base: aggregate of the outcome of the base runs.
    effect: aggregate of the differences. If no combination of the other settings has a known
      outcome of every run, it is their median, if the unknown outcomes cannot change it.
    statistic: the aggregate: `mean`, `iqm` or `median`.
    low, high: bounds of the effect's 95 % confidence interval.
    method: how the bounds were computed: `studentized`, `percentile`, `t`, or empty.
    d_z: Cohen's d_z.
    p_better: the share of pairs in which the value is better than the base, plus half the share of
      those that are equal or undecided; NaN if all are undecided.
    p: p-value of the paired permutation test: of the differences if the outcome of every run is
      known, else of their signs.
    test: `differences` or `signs`; empty without a test.
    p_holm: p after Holm's correction over all effects, or over all interactions.
    runs, diverged, censored: number of runs; of those without a known outcome, the number that
      diverged, and the number of the others, whose outcome exceeds what was measured.
  """

  task: str
  outcome: Outcome
  factors: tuple[str, ...]
  bases: tuple[str, ...]
  values: tuple[str, ...]
  seeds: int
  settings: int
  used: int
  left_out: int
  at_base: float
  effect: float
  statistic: str
  low: float
  high: float
  method: str
  d_z: float
  p_better: float
  p: float
  test: str
  p_holm: float
  runs: int
  diverged: int
  censored: int


class Contrast(NamedTuple):
  """The runs that show an effect or an interaction.

  Attributes:
    task: the runs' task.
    factors, bases, values: as in `Effect`.
    corners: indices of the runs [corner, setting, seed], for each corner of the contrast; corner 0
      has all `values`. The effect is the sum over corners with the signs + −, or + − − +.
    left_out: number of combinations of the other settings that lack a seed that others have.
  """

  task: str
  factors: tuple[str, ...]
  bases: tuple[str, ...]
  values: tuple[str, ...]
  corners: Integer[np.ndarray, "corner setting seed"]
  left_out: int


def effects(
  study: Study, base: Mapping[str, str] | None = None, aggregate: str = "mean"
) -> list[Effect]:
  """Returns the effects of all settings on all outcomes, then the interactions.

  Args:
    study: the runs.
    base: {setting: value} to compare with, where it is not the first value of the setting.
    aggregate: how the seeds' differences are aggregated, `mean` or `iqm`.
  Raises:
    ValueError: if `base` names no setting or value of the study, or `aggregate` is unknown.
  """
  checks.choice("aggregate", aggregate, inference.AGGREGATES)
  study = with_base(study, base or {})
  found = []
  for size in (1, 2):
    pairs = itertools.product(study.outcomes, contrasts(study, size))
    measured = [_measure(study, contrast, outcome, aggregate) for outcome, contrast in pairs]
    adjusted = inference.holm(np.array([effect.p for effect in measured], float))
    found += [
      effect._replace(p_holm=float(p)) for effect, p in zip(measured, adjusted, strict=True)
    ]
  return found


def with_base(study: Study, base: Mapping[str, str]) -> Study:
  """Returns the study with the values in `base` as the base of their settings."""
  factors = dict(study.factors)
  for name, value in base.items():
    factor = factors[checks.choice("base", name, factors)]
    checks.choice(f"base of {name}", value, factor.values)
    others = [other for other in factor.values if other != value]
    factors[name] = factor._replace(values=[value, *others])
  return study._replace(factors=factors)


def contrasts(study: Study, size: int) -> Iterator[Contrast]:
  """Yields the contrasts of one setting, or of two, in the order of the settings and values.

  Args:
    study: the runs.
    size: number of settings: 1 for effects, 2 for interactions.
  Raises:
    ValueError: if two runs have equal settings.
  """
  index = _index(study)
  for names in itertools.combinations(study.factors, size):
    factors = [study.factors[name] for name in names]
    bases = tuple(factor.values[0] for factor in factors)
    groups: dict[tuple[str | None, ...], list[Key]] = {}
    for key, run in index.items():
      groups.setdefault((key[0], *(factor.column[run] for factor in factors)), []).append(key)
    places = [list(study.factors).index(name) for name in names]
    for task, *values in itertools.product(
      dict.fromkeys(study.tasks), *(factor.values[1:] for factor in factors)
    ):
      found = _corners(index, groups.get((task, *values), []), places, bases)
      if found is not None:
        yield Contrast(task, names, bases, tuple(values), *found)


Key = tuple[str, int, tuple[str, ...]]  # task, seed, values of all settings


def _index(study: Study) -> dict[Key, int]:
  """Returns {task, seed and settings: index of the run}.

  The value of a setting without effect on the run is the base.
  """
  index: dict[Key, int] = {}
  for run, name in enumerate(study.runs):
    settings = tuple(factor.column[run] or factor.values[0] for factor in study.factors.values())
    key = (study.tasks[run], study.seeds[run], settings)
    if key in index:
      raise ValueError(
        f"Runs must differ in a setting or in their seed, but {study.runs[index[key]]} and {name} "
        "do not. Leave out one of their folders."
      )
    index[key] = run
  return index


def _corners(
  index: Mapping[Key, int], keys: Sequence[Key], places: Sequence[int], bases: Sequence[str]
) -> tuple[np.ndarray, int] | None:
  """Returns `corners` and `left_out` of a contrast; None if not all of its corners have runs.

  Args:
    index: the runs.
    keys: the runs that have the values of the contrast.
    places: indices of the contrast's settings.
    bases: bases of these settings.
  """
  found: dict[tuple[str, ...], dict[int, list[int]]] = {}
  for task, seed, settings in keys:
    corners: list[int] = []
    for at_value in itertools.product((True, False), repeat=len(places)):
      corner = list(settings)
      for place, own, base in zip(places, at_value, bases, strict=True):
        corner[place] = corner[place] if own else base
      corners.append(index.get((task, seed, tuple(corner)), -1))
    if -1 not in corners:
      others = tuple(value for i, value in enumerate(settings) if i not in places)
      found.setdefault(others, {})[seed] = corners
  if not found:
    return None
  # Every combination of the other settings must have the same seeds, so that an average over the
  # combinations is the same one for each seed.
  seeds = max((sorted(runs) for runs in found.values()), key=len)
  kept = [runs for runs in found.values() if runs.keys() >= set(seeds)]
  indices = np.array([[runs[seed] for seed in seeds] for runs in kept])
  return np.moveaxis(indices, -1, 0), len(found) - len(kept)


def _measure(study: Study, contrast: Contrast, outcome: Outcome, aggregate: str) -> Effect:
  """Returns the effect of a contrast on an outcome, before Holm's correction."""
  corners = contrast.corners
  low, high = _bounds(outcome, corners)
  known = outcome.known[corners].all(axis=(0, 2))
  statistic, method = aggregate, ""
  at_base = lower = upper = d_z = math.nan
  scores = outcome.better * ((low > 0) * 1.0 - (high < 0) * 1.0).mean(axis=0)
  if known.any():
    differences = low[known].mean(axis=0)
    effect = float(inference.AGGREGATES[aggregate](differences))
    lower, upper, method = inference.interval(differences, aggregate)
    d_z = inference.cohens_d(differences)
    if len(contrast.factors) == 1:
      base = outcome.low[corners[1][known]].mean(axis=0)
      at_base = float(inference.AGGREGATES[aggregate](base))
  else:
    statistic, effect = "median", _median(low, high)
  decided = (low > 0) | (high < 0)
  if known.all() or decided.any():
    p = inference.sign_flip_p(differences if known.all() else scores)
    p_better = float(scores.mean() + 1) / 2
  else:
    p = p_better = math.nan
  runs = np.unique(corners)
  unknown = ~outcome.known[runs]
  diverged = study.diverged[runs] & unknown
  return Effect(
    task=contrast.task,
    outcome=outcome,
    factors=contrast.factors,
    bases=contrast.bases,
    values=contrast.values,
    seeds=corners.shape[2],
    settings=corners.shape[1],
    used=int(known.sum()),
    left_out=contrast.left_out,
    at_base=at_base,
    effect=effect,
    statistic=statistic,
    low=lower,
    high=upper,
    method=method,
    d_z=d_z,
    p_better=p_better,
    p=p,
    test="" if math.isnan(p) else "differences" if known.all() else "signs",
    p_holm=math.nan,
    runs=len(runs),
    diverged=int(diverged.sum()),
    censored=int((unknown & ~diverged).sum()),
  )


def _bounds(
  outcome: Outcome, corners: Integer[np.ndarray, "corner setting seed"]
) -> tuple[Float[np.ndarray, "setting seed"], Float[np.ndarray, "setting seed"]]:
  """Returns bounds of the contrast [setting, seed]; −inf and inf if nothing is known about it."""
  signs = np.array([1, -1] if len(corners) == 2 else [1, -1, -1, 1])[:, None, None]
  low, high = outcome.low[corners], outcome.high[corners]
  with np.errstate(invalid="ignore"):  # inf − inf: both are worse than any number
    least = (signs * np.where(signs > 0, low, high)).sum(axis=0)
    most = (signs * np.where(signs > 0, high, low)).sum(axis=0)
  open_ended = np.isnan(least) | np.isnan(most)
  return np.where(open_ended, -np.inf, least), np.where(open_ended, np.inf, most)


def _median(
  low: Float[np.ndarray, "setting seed"], high: Float[np.ndarray, "setting seed"]
) -> float:
  """Returns the median over seeds if it is finite and the same at both bounds, else NaN."""
  with np.errstate(invalid="ignore"):
    ends = [float(np.median(bound.mean(axis=0))) for bound in (low, high)]
  return ends[0] if ends[0] == ends[1] and math.isfinite(ends[0]) else math.nan
