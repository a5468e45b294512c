"""F2. How fast the gradient decays or grows, by gain of the recurrent kernel."""

from __future__ import annotations

import math

import matplotlib.figure
import numpy as np

from experiments import plot_style
from experiments.figures import profiles
from experiments.figures.figure import Figure, Outcome, absolute
from rnn_jax.cells import elman
from rnn_jax.types import Array, Cell

GAINS = (0.5, 0.9, 1.0, 1.1, 1.5)
SCALE = 0.1
SEEDS = (0, 1, 2, 3, 4)
TANH_BEFORE = (-0.805, -0.141, -0.064, -0.022, 0.061)
ACTIVATIONS = ("linear", "tanh")


def run() -> Outcome:
  """Rates by gain: of a scaled orthogonal linear network, and of tanh."""

  def measure(activation: str) -> np.ndarray:
    def make(gain: Array) -> Cell:
      return elman(profiles.HIDDEN, activation=activation, recurrent_gain=gain)

    return profiles.mean_profiles(make, GAINS, [SCALE], SEEDS)[:, 0]

  found = {activation: measure(activation) for activation in ACTIVATIONS}
  rates = {
    name: np.array([[profiles.rate(p) for p in seeds] for seeds in found[name]])
    for name in ACTIVATIONS
  }
  medians = np.median(rates["tanh"], axis=1)
  table, checks = [], []
  for i, gain in enumerate(GAINS):
    linear = rates["linear"][i]
    worst = float(linear[np.abs(linear - math.log(gain)).argmax()])
    checks.append(absolute(f"rate, linear, g = {gain}, worst seed", worst, math.log(gain), 1e-5))
    row = {"g": gain, "ln g": math.log(gain), "linear, worst seed": worst}
    row |= {"tanh, median": float(medians[i]), "before": TANH_BEFORE[i]}
    table.append({**row, **{f"seed {s}": float(rates["tanh"][i, j]) for j, s in enumerate(SEEDS)}})
  for i, gain in enumerate(GAINS):
    checks.append(absolute(f"rate, tanh, g = {gain}", medians[i], TANH_BEFORE[i], 0.02))

  def draw(figure: matplotlib.figure.Figure) -> None:
    styles = plot_style.value_styles(GAINS)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name in zip(axes, ACTIVATIONS, strict=True):
      for i, gain in enumerate(GAINS):
        for profile in found[name][i]:
          axis.plot(profile, color=styles[gain].colour, lw=0.7, alpha=0.6)
        axis.plot([], color=styles[gain].colour, label=f"g = {gain}")
      axis.axvspan(profiles.FIRST, profiles.LAST, color="0.93", zorder=0)
      axis.set_title(name, fontsize=plot_style.MEDIUM)
      axis.set_xlabel("lag k, in steps")
    axes[0].set_ylabel("mean log10 of the probe's gradient")
    axes[0].legend(frameon=False, fontsize=plot_style.SMALL)

  return Outcome(table, checks, draw)


figure = Figure(
  title="Decay of the gradient by gain of an orthogonal kernel",
  setting=f"elman, H = {profiles.HIDDEN}, T = {profiles.STEPS}, B = {profiles.BATCH}, inputs "
  f"N(0, I) of width 2, w_i = {SCALE}/√2, probe v · h_T, fit over lags "
  f"{profiles.FIRST}–{profiles.LAST}",
  source="linear: Saxe et al., 2014, https://arxiv.org/abs/1312.6120; "
  "tanh: measured before, with one seed",
  seconds=30,
  run=run,
  seeds=SEEDS,
)
