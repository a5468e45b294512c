"""F1. Decay of the gradient at initialization: its rate in several cells, against mean field."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Float, Key

from experiments.reproduce import mean_field, profiles
from experiments.reproduce.figure import Figure, Outcome, absolute
from rnn_jax.cells import elman, gru, lstm
from rnn_jax.types import Array, Cell, Number

SCALES = (1.0, 0.1)
SEEDS = tuple(range(10))
SIZES = (128, 256, 512)  # N; the first one is compared with mean field
STANDARD_ERRORS = 2
POPULATION = 512  # units that sample mean field
# For each cell: its name, its forget bias if it is an LSTM, and the rate of mean-field theory for
# the drawn inputs, in nats per step, one for each of SCALES. At each scale, the standard deviation
# of the input kernel is w_i = scale/√2.
CELLS: tuple[tuple[str, float, tuple[float, float]], ...] = (
  ("elman", 0.0, (-0.420, -0.065)),
  ("gru", 0.0, (-0.376, -0.297)),
  ("lstm, forget bias 0", 0.0, (-0.426, -0.299)),
  ("lstm, forget bias 1", 1.0, (-0.164, -0.031)),
  ("lstm, forget bias 3", 3.0, (-0.001, 0.023)),
)


def measure(size: int) -> Float[np.ndarray, "cells scales seeds lags"]:
  """Returns the lag profiles, averaged over a batch; the three LSTMs share a compiled program."""
  plain = [
    profiles.mean_profiles(lambda _: elman(size), [0.0], SCALES, SEEDS, size),
    profiles.mean_profiles(lambda _: gru(size), [0.0], SCALES, SEEDS, size),
  ]
  biases = [bias for name, bias, _ in CELLS if name.startswith("lstm")]
  gated = profiles.mean_profiles(lambda b: lstm(size, forget_bias=b), biases, SCALES, SEEDS, size)
  return np.concatenate([*plain, gated])


def sample_mean_field() -> Float[np.ndarray, "cells scales seeds"]:
  """Returns the rates of `mean_field.lag_profile`, for the first example of each seed's batch."""

  def of_cell(name: str, bias: Number) -> Cell:
    if name == "elman":
      return elman(POPULATION, recurrent_kernel="identity")
    if name == "gru":
      return gru(POPULATION, recurrent_kernel="identity")
    return lstm(POPULATION, forget_bias=bias, recurrent_kernel="identity")

  @functools.partial(jax.jit, static_argnames="name")
  def profile(
    name: str, bias: Float[Array, ""], scale: Float[Array, ""], key: Key[Array, ""]
  ) -> Float[Array, " lags"]:
    params_key, data_key, sample_key = jax.random.split(key, 3)
    cell = of_cell(name, bias)
    params = cell.init(params_key, profiles.INPUTS)
    params = {**params, "w_x": scale * params["w_x"]}
    # The batch of `profiles.mean_profiles`.
    xs = jax.random.normal(data_key, (profiles.STEPS, profiles.BATCH, profiles.INPUTS))[:, 0]
    return mean_field.lag_profile(cell, params, xs, sample_key, profiles.LAST + 1)

  found = [
    [
      [
        profile(name.split(",")[0], jnp.float32(bias), jnp.float32(scale), jax.random.key(seed))
        for seed in SEEDS
      ]
      for scale in SCALES
    ]
    for name, bias, _ in CELLS
  ]
  return profiles.rates(np.asarray(found, np.float64))


def finite_size_term(rates: Float[np.ndarray, " sizes"]) -> float:
  """Returns c/N at the first of SIZES, where r_∞ + c/N is the least-squares fit to the rates."""
  slope, _ = np.polyfit(1 / np.array(SIZES), rates, 1)
  return float(slope) / SIZES[0]


def run() -> Outcome:
  """Compares the mean rate over seeds at the smallest N with mean field.

  The tolerance is 2 standard errors over seeds, plus the finite-N term.
  """
  found = {size: measure(size) for size in SIZES}
  rates = np.array([profiles.rates(found[size]) for size in SIZES])  # [sizes, cells, scales, seeds]
  sampled = sample_mean_field()
  table, checks = [], []
  for i, (name, _, expected) in enumerate(CELLS):
    for j, scale in enumerate(SCALES):
      means = rates[:, i, j].mean(axis=1)
      error = rates[0, i, j].std(ddof=1) / math.sqrt(len(SEEDS))
      term = finite_size_term(means)
      row = {"cell": name, "w_i · √2": scale, "mean field": expected[j]}
      row |= {f"rate, N = {size}": float(r) for size, r in zip(SIZES, means, strict=True)}
      row |= {"standard error": float(error), "finite-N term": term}
      row["half-life"] = -math.log(2) / float(means[0])
      row["mean field, sampled"] = float(sampled[i, j].mean())
      row["its standard error"] = float(sampled[i, j].std(ddof=1) / math.sqrt(len(SEEDS)))
      table.append(row)
      # Rounded up, so that the report shows the tolerance in few digits.
      tolerance = math.ceil(1e4 * (STANDARD_ERRORS * error + abs(term))) / 1e4
      checks.append(absolute(f"rate, {name}, w_i = {scale:g}/√2", means[0], expected[j], tolerance))
  notes = [
    "The half-life is −ln 2 / rate. A negative half-life means that the gradient doubles in that "
    "many steps.",
    "Mean field is conditioned on the drawn inputs, which all units share. Of elman, it is the "
    "mean over steps of ½ ln⟨sech⁴⟩, where the variance of a pre-activation follows the inputs: "
    "q' = ⟨tanh²⟩ + w_i² |x|². Of the other cells, it was computed before the run. As a check on "
    f"it, `mean_field.lag_profile` samples a population of {POPULATION} units on one example of "
    "each seed; few examples give it a larger standard error.",
    "The finite-N term is c/N, from a fit of r_∞ + c/N to the mean rates. It is part of the "
    f"tolerance, {STANDARD_ERRORS} standard errors + |c/N|.",
    "The first run of these checks missed two, at 0.1/√2. That of gru, by 0.0005, is within the "
    "rounding of the expected value to three decimals, which the tolerance does not allow for. "
    "That of forget bias 0, by 0.0011, is not. Sampled mean field is nearer to the measured rate "
    "there (−0.2980 ± 0.0004), so the expected value may be inexact; this is not settled.",
    "For elman at 0.1/√2, −0.057 was expected at first. Quadrature for the drawn inputs gives "
    "−0.065, which replaced it before the run, though an earlier run, of −0.066, was known. The "
    "measured rate does not meet −0.057.",
    "Earlier, the checks compared half-lives with measurements of one seed, ± 20 %, and that of "
    "forget bias 3 at 1/√2 was not met.",
  ]

  return Outcome(table, checks, functools.partial(draw, found=found[SIZES[0]]), notes)


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
  setting=f"N = {', '.join(map(str, SIZES))}, T = {profiles.STEPS}, B = {profiles.BATCH}, "
  f"inputs N(0, I) of size 2, orthogonal kernels, probe v · h_T, "
  f"fit over lags {profiles.FIRST}–{profiles.LAST}",
  source="mean field: Chen, Pennington and Schoenholz, 2018, https://arxiv.org/abs/1806.05394; "
  "forget bias: Jozefowicz et al., 2015, https://proceedings.mlr.press/v37/jozefowicz15.html",
  seconds=90,
  run=run,
  seeds=SEEDS,
)
