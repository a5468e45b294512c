"""F2. Decay or growth of the gradient, by gain of the recurrent kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import matplotlib.figure
import numpy as np
from jaxtyping import Float

from experiments.plotting import style
from experiments.reproduce import mean_field, profiles
from experiments.reproduce.figure import Figure, Outcome, absolute
from rnn_jax.cells import elman
from rnn_jax.types import Cell, Number

GAINS = (0.5, 0.9, 1.0, 1.1, 1.5)
# SCALE is w_i √2, where w_i is the standard deviation of the input kernel. Two inputs of variance 1
# add 2 w_i² = SCALE² to the variance of a pre-activation.
SCALE = 0.1
SEEDS = (0, 1, 2, 3, 4)
TOLERANCES = {"linear": 1e-5, "tanh": 0.01}
ACTIVATIONS = ("linear", "tanh")


def run() -> Outcome:
  """Compares the decay rates of linear and tanh networks with the expected rate for each gain g.

  The expected rate is ln g for linear networks, and that of mean-field theory for tanh networks.
  """

  def measure(activation: str) -> Float[np.ndarray, "gains seeds lags"]:
    def make(gain: Number) -> Cell:
      return elman(profiles.HIDDEN, activation=activation, recurrent_gain=gain)

    return profiles.mean_profiles(make, GAINS, [SCALE], SEEDS)[:, 0]

  found = {activation: measure(activation) for activation in ACTIVATIONS}
  rates = {name: profiles.rates(found[name]) for name in ACTIVATIONS}
  medians = np.median(rates["tanh"], axis=1)
  theory = [mean_field.exponent(gain, SCALE**2) for gain in GAINS]
  table, checks = [], []
  for i, gain in enumerate(GAINS):
    linear = rates["linear"][i]
    worst = float(linear[np.abs(linear - math.log(gain)).argmax()])
    name = f"rate, linear, g = {gain}, worst seed"
    checks.append(absolute(name, worst, math.log(gain), TOLERANCES["linear"]))
    row = {"g": gain, "ln g": math.log(gain), "linear, worst seed": worst}
    row |= {"tanh, median": float(medians[i]), "mean field": theory[i]}
    table.append({**row, **{f"seed {s}": float(rates["tanh"][i, j]) for j, s in enumerate(SEEDS)}})
  for gain, median, rate in zip(GAINS, medians, theory, strict=True):
    checks.append(absolute(f"rate, tanh, g = {gain}", median, rate, TOLERANCES["tanh"]))
  notes = [
    "Mean field: a unit's pre-activation is Gaussian with variance g² q + w_i² D, q = ⟨tanh²⟩, and "
    "the rate is ½ ln(g² ⟨sech⁴⟩).",
    "Earlier, the rates of tanh were compared with a measurement of one seed, whose value at "
    "g = 0.5, −0.805, contradicts mean field, and was not met.",
  ]

  return Outcome(table, checks, functools.partial(draw, found=found), notes)


def draw(
  figure: matplotlib.figure.Figure, found: Mapping[str, Float[np.ndarray, "gains seeds lags"]]
) -> None:
  """Draws the lag profiles, with one panel per activation and one color per gain."""
  panels = {
    name: {f"g = {gain}": found[name][i] for i, gain in enumerate(GAINS)} for name in ACTIVATIONS
  }
  styles = style.value_styles(GAINS)
  profiles.draw(figure, panels, [styles[gain].color for gain in GAINS])


figure = Figure(
  title="Decay of the gradient by gain of an orthogonal kernel",
  setting=f"elman, H = {profiles.HIDDEN}, T = {profiles.STEPS}, B = {profiles.BATCH}, inputs "
  f"N(0, I) of size 2, w_i = {SCALE}/√2, probe v · h_T, fit over lags "
  f"{profiles.FIRST}–{profiles.LAST}",
  source="linear: Saxe et al., 2014, https://arxiv.org/abs/1312.6120; "
  "tanh: mean field, Molgedey et al., 1992, https://doi.org/10.1103/PhysRevLett.69.3717",
  seconds=12,
  run=run,
  seeds=SEEDS,
)
