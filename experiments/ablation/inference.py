"""Aggregates, confidence intervals, paired tests and effect sizes of differences, one per seed.

References:
  Efron and Tibshirani, 1993, An Introduction to the Bootstrap, chapter 12: studentized intervals.
  Hesterberg, 2015, https://arxiv.org/abs/1411.5279, section 4: expanded percentile intervals.
  Holm, 1979, A simple sequentially rejective multiple test procedure.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import stats

LEVEL = 0.95
_TAIL = (1 - LEVEL) / 2
# Below this number of differences, the bootstrap has too few resamples for the level.
FEWEST = 5
_RESAMPLES = 9999
_SEED = 0  # equal records must give equal tables


def mean(values: Float[np.ndarray, "*batch n"], axis: int = -1) -> Float[np.ndarray, "*batch"]:
  """Returns the mean."""
  return np.asarray(np.mean(values, axis=axis))


def iqm(values: Float[np.ndarray, "*batch n"], axis: int = -1) -> Float[np.ndarray, "*batch"]:
  """Returns the interquartile mean: the mean without the lowest and the highest quarter."""
  return np.asarray(stats.trim_mean(values, 0.25, axis=axis))


AGGREGATES: dict[str, Callable[..., np.ndarray]] = {"mean": mean, "iqm": iqm}


def interval(values: Float[np.ndarray, " n"], aggregate: str) -> tuple[float, float, str]:
  """Returns a 95 % confidence interval of an aggregate.

  The studentized bootstrap for a mean; the expanded percentile bootstrap for an interquartile mean,
  and for a mean of values with so many ties that too many resamples have no spread; Student's t for
  a mean of fewer than five values.

  Args:
    values: one difference per seed.
    aggregate: a name in `AGGREGATES`.
  Returns:
    (lower bound, upper bound, name of the method). The bounds are NaN, and the name is empty, if
    the values are fewer than two or all equal, or fewer than five for an interquartile mean.
  """
  n = len(values)
  if n < 2 or _are_equal(values) or (aggregate != "mean" and n < FEWEST):
    return math.nan, math.nan, ""
  if n < FEWEST:
    low, high = stats.t.interval(LEVEL, n - 1, values.mean(), _standard_error(values))
    return float(low), float(high), "t"
  _, counts = np.unique(values, return_counts=True)
  without_spread = ((counts / n) ** n).sum()  # the share of resamples that are constant
  if aggregate == "mean" and without_spread < _TAIL:
    return *_studentized(values), "studentized"
  # The percentile interval is too narrow by √((n−1)/n), and by the ratio of the normal's quantile
  # to Student's. A higher nominal level compensates for both.
  z = math.sqrt(n / (n - 1)) * stats.t.ppf(1 - _TAIL, n - 1)
  low, high = _bootstrap(values, AGGREGATES[aggregate], 1 - 2 * float(stats.norm.sf(z)))
  return low, high, "percentile"


def _studentized(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
  center, error = values.mean(), _standard_error(values)
  least = 1e-9 * error  # a resample without spread is in one of the tails

  def t(sample: Float[np.ndarray, "*batch n"], axis: int = -1) -> Float[np.ndarray, "*batch"]:
    away = np.mean(sample, axis=axis) - center
    return np.asarray(away / np.maximum(_standard_error(sample, axis), least))

  low, high = _bootstrap(values, t, LEVEL)
  return float(center - high * error), float(center - low * error)


def _standard_error(
  values: Float[np.ndarray, "*batch n"], axis: int = -1
) -> Float[np.ndarray, "*batch"]:
  return np.asarray(np.std(values, axis=axis, ddof=1) / math.sqrt(values.shape[axis]))


def _bootstrap(
  values: Float[np.ndarray, " n"], statistic: Callable[..., np.ndarray], level: float
) -> tuple[float, float]:
  """Returns the percentile bootstrap's interval of a statistic."""
  found = stats.bootstrap(
    (values,),
    statistic,
    n_resamples=_RESAMPLES,
    confidence_level=level,
    method="percentile",
    vectorized=True,
    random_state=np.random.default_rng(_SEED),
  ).confidence_interval
  return float(found.low), float(found.high)


def sign_flip_p(values: Float[np.ndarray, " n"]) -> float:
  """Returns the two-sided p-value of the paired permutation test.

  Under the null hypothesis, the two sides of each pair are exchangeable, so each difference is as
  likely as its negative. The statistic is the mean. The test is exact up to 13 differences, and
  uses 9999 random sign changes above. NaN for fewer than two differences.
  """
  if len(values) < 2:
    return math.nan
  found = stats.permutation_test(
    (values,),
    mean,
    permutation_type="samples",
    vectorized=True,
    n_resamples=_RESAMPLES,
    random_state=np.random.default_rng(_SEED),
  )
  return float(found.pvalue)


def smallest_p(n: int) -> float:
  """Returns the smallest p-value that `sign_flip_p` can return for n differences."""
  return max(2.0 / 2**n, 2 / (_RESAMPLES + 1)) if n > 1 else math.nan


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
  """Returns p-values adjusted by Holm's method, which bounds the family-wise error rate.

  A NaN is no test, and stays NaN.
  """
  order = np.argsort(p_values)  # NaN comes last
  tests = np.count_nonzero(~np.isnan(p_values))
  factors = np.maximum(tests - np.arange(len(p_values)), 1)
  adjusted = np.empty_like(p_values)
  adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1)
  return adjusted


def cohens_d(values: Float[np.ndarray, " n"]) -> float:
  """Returns Cohen's d_z, mean / standard deviation of the differences; NaN if all are equal."""
  if len(values) < 2 or _are_equal(values):
    return math.nan
  return float(values.mean() / values.std(ddof=1))


def _are_equal(values: Float[np.ndarray, " n"]) -> bool:
  """Returns whether all values are equal to rounding."""
  return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())
