"""F1. Decay of the gradient at initialization: its half-life in several cells."""

from __future__ import annotations

import functools
import math

import matplotlib.figure
import numpy as np
from jaxtyping import Float

from experiments.reproduce import profiles
from experiments.reproduce.figure import Figure, Outcome, at_least, relative
from rnn_jax.cells import elman, gru, lstm

SCALES = (1.0, 0.1)
SEEDS = tuple(range(10))
TOLERANCE = 0.2
# For each cell: its name, its forget bias if it is an LSTM, and the gradient's half-lives from an
# earlier measurement, in steps, one for each of SCALES. None means that the gradient grows. At
# each scale, the standard deviation of the input kernel is w_i = scale/√2.
CELLS: tuple[tuple[str, float, tuple[float, float | None]], ...] = (
  ("elman", 0.0, (1.7, 10.8)),
  ("gru", 0.0, (1.8, 2.3)),
  ("lstm, forget bias 0", 0.0, (1.6, 2.3)),
  ("lstm, forget bias 1", 1.0, (4.1, 20.5)),
  ("lstm, forget bias 3", 3.0, (80.0, None)),
)


def measure() -> Float[np.ndarray, "cells scales seeds lags"]:
  """Returns the lag profiles, averaged over a batch; the three LSTMs share a compiled program."""
  size = profiles.HIDDEN
  plain = [
    profiles.mean_profiles(lambda _: elman(size), [0.0], SCALES, SEEDS),
    profiles.mean_profiles(lambda _: gru(size), [0.0], SCALES, SEEDS),
  ]
  biases = [bias for name, bias, _ in CELLS if name.startswith("lstm")]
  gated = profiles.mean_profiles(lambda b: lstm(size, forget_bias=b), biases, SCALES, SEEDS)
  return np.concatenate([*plain, gated])


def run() -> Outcome:
  """Compares the half-life of the gradient in each cell with an earlier measurement.

  The half-life is the number of steps back in which the gradient's norm halves, at the median rate
  over seeds.
  """
  found = measure()
  rates = profiles.rates(found)
  table, checks = [], []
  for i, (name, _, expected) in enumerate(CELLS):
    for j, scale in enumerate(SCALES):
      median = float(np.median(rates[i, j]))
      label = f"{name}, w_i = {scale:g}/√2"
      half_life, earlier = -math.log(2) / median, expected[j]
      row = {"cell": name, "w_i · √2": scale, "rate": median, "half-life": half_life}
      row["earlier"] = "grows" if earlier is None else earlier
      halves = -math.log(2) / rates[i, j]
      table.append({**row, **{f"seed {s}": float(h) for s, h in zip(SEEDS, halves, strict=True)}})
      if earlier is None:
        checks.append(at_least(f"rate, {label}: grows", median, 0.0))
      else:
        checks.append(relative(f"half-life, {label}", half_life, earlier, TOLERANCE))
  fast, slow, old = rates[3, 0], rates[4, 0], -math.log(2) / 80
  low, high = -math.log(2) / slow.min(), -math.log(2) / slow.max()
  notes = [
    "The half-life is −ln 2 / rate. A negative half-life means that the gradient doubles in that "
    "many steps.",
    "The earlier value for forget bias 3 at 1/√2 comes from one seed. There the rate is so close "
    f"to 0 that one seed says little: half-lives range from {low:.0f} to {high:.0f} steps. The "
    f"rates are {slow.mean():.4f} ± {slow.std(ddof=1):.4f} (with forget bias 1 {fast.mean():.4f} ± "
    f"{fast.std(ddof=1):.4f}), and the earlier rate, {old:.4f}, is "
    f"{abs(old - slow.mean()) / slow.std(ddof=1):.1f} standard deviations away.",
  ]

  return Outcome(table, checks, functools.partial(draw, found=found), notes)


def draw(
  figure: matplotlib.figure.Figure, found: Float[np.ndarray, "cells scales seeds lags"]
) -> None:
  """Draws the lag profiles, with one panel per input scale and one color per cell."""
  panels = {
    f"input scale {scale:g}/√2": {name: found[i, j] for i, (name, _, _) in enumerate(CELLS)}
    for j, scale in enumerate(SCALES)
  }
  profiles.draw(figure, panels, ("#E69F00", "#009E73", "#56B4E9", "#0072B2", "#000000"))


figure = Figure(
  title="Decay of the gradient at initialization, by cell",
  setting=f"H = {profiles.HIDDEN}, T = {profiles.STEPS}, B = {profiles.BATCH}, inputs N(0, I) of "
  f"size 2, orthogonal kernels, probe v · h_T, fit over lags {profiles.FIRST}–{profiles.LAST}",
  source="an earlier measurement with one seed; forget bias: Jozefowicz et al., 2015, "
  "https://proceedings.mlr.press/v37/jozefowicz15.html",
  seconds=15,
  run=run,
  seeds=SEEDS,
)
