"""F11. All Lyapunov exponents of a product of independent Gaussian matrices."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, Key
from scipy.special import digamma, polygamma

from experiments.plotting import style
from experiments.reproduce.figure import Figure, Outcome, at_most
from rnn_jax.gradient_flow import lyapunov_spectrum
from rnn_jax.types import Array, Cell, FlatParams, Units, unprepared

SIZE, STEPS = 64, 1000
SEEDS = tuple(range(20))
STANDARD_ERRORS = 3
SHOWN = (1, 2, 4, 8, 16, 24, 32, 40, 48, 52, 56, 58, 60, 61, 62, 63, 64)  # i, in the table


def theory(size: int) -> Float[np.ndarray, " N"]:
  """Returns the exponents λ_1 … λ_N of a product of N x N matrices with entries N(0, 1/N).

    λ_i = ½ [ψ((N − i + 1)/2) + ln(2/N)]

  ψ is the digamma function.

  References:
    Newman, 1986, https://doi.org/10.1007/BF01464284
  """
  return (digamma((size - np.arange(size)) / 2) + math.log(2 / size)) / 2


def standard_errors(size: int, num_steps: int) -> Float[np.ndarray, " N"]:
  """Returns the standard error of each λ_i, measured over `num_steps` steps by Benettin's method.

    sd(λ_i) = √(ψ′((N − i + 1)/2) / (4 T))

  If Q_{t−1} is orthogonal and W_t Gaussian, so is W_t Q_{t−1}. Hence N (R_t)_ii² has a χ²
  distribution with N − i + 1 degrees of freedom, independent of all other steps.
  """
  return np.sqrt(polygamma(1, (size - np.arange(size)) / 2) / (4 * num_steps))


def matrix_product(size: int) -> Cell:
  """Returns a linear network whose kernel is its input, so that each step has another one.

    h' = W_t h

  Args:
    size: N.
  Returns:
    A Cell without params: x [..., N²] holds the rows of W_t, carry and y [..., N].
  """

  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    del key, input_size, dtype
    return {}

  def initial_carry(batch_shape: tuple[int, ...], dtype: DTypeLike = float) -> Units:
    return jnp.zeros((*batch_shape, size), dtype)

  def project(
    params: FlatParams, xs: Float[Array, "*batch D"], key: Key[Array, ""] | None = None
  ) -> Float[Array, "*batch N N"]:
    del params, key
    return xs.reshape(*xs.shape[:-1], size, size)

  def recur(params: FlatParams, h: Units) -> Units:
    del params
    return h

  def update(
    params: FlatParams, h: Units, drive: Float[Array, "*batch N N"], recurrent: Units
  ) -> Units:
    del params, h
    return jnp.einsum("...ij,...j->...i", drive, recurrent)

  def output(params: FlatParams, h: Units, drive: Float[Array, "*batch N N"]) -> Units:
    del params, drive
    return h

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=unprepared,
    project=project,
    recur=recur,
    update=update,
    output=output,
  )


@jax.jit
def measure(seeds: Integer[Array, " n"]) -> Float[Array, "n N"]:
  """Returns the Lyapunov spectrum of the matrix product drawn with each seed."""

  def one(seed: Integer[Array, ""]) -> Float[Array, " N"]:
    xs = jax.random.normal(jax.random.key(seed), (STEPS, 1, SIZE**2)) / math.sqrt(SIZE)
    (exponents,) = lyapunov_spectrum([matrix_product(SIZE)], [{}], xs)
    return exponents[0]

  return jax.lax.map(one, seeds)


def run() -> Outcome:
  """Compares every exponent, averaged over the products, with Newman's formula."""
  found = np.asarray(measure(jnp.asarray(SEEDS)), float)
  means, expected = found.mean(axis=0), theory(SIZE)
  errors = standard_errors(SIZE, STEPS * len(SEEDS))
  deviations = (means - expected) / errors
  table = [
    {
      "i": i,
      "formula": float(expected[i - 1]),
      "measured": float(means[i - 1]),
      "standard error": float(errors[i - 1]),
      "deviation, standard errors": float(deviations[i - 1]),
    }
    for i in SHOWN
  ]
  worst = int(np.abs(deviations).argmax())
  checks = [
    at_most(
      f"|λ_i − formula| / standard error, largest of all {SIZE} (i = {worst + 1})",
      abs(deviations[worst]),
      STANDARD_ERRORS,
    )
  ]
  chance = math.erfc(STANDARD_ERRORS / math.sqrt(2))
  notes = [
    "The standard error follows from theory, too: at every step N R_ii² is an independent χ² "
    f"variable. A correct program misses this check with a probability of {_either(chance):.0%}, "
    f"because it looks at {SIZE} independent exponents. {np.sum(np.abs(deviations) > 1)} of them "
    "deviate by more than 1 standard error; about "
    f"{SIZE * math.erfc(1 / math.sqrt(2)):.0f} are expected to.",
  ]
  return Outcome(table, checks, functools.partial(draw, means=means), notes)


def _either(chance: float) -> float:
  """Returns the probability that at least one exponent deviates, if each does with `chance`."""
  return 1 - (1 - chance) ** SIZE


def draw(figure: matplotlib.figure.Figure, means: Float[np.ndarray, " N"]) -> None:
  """Draws the measured exponents and the formula against i/N."""
  axis = figure.subplots()
  index = np.arange(1, SIZE + 1) / SIZE
  axis.plot(index, theory(SIZE), color=style.GRAY, lw=1, label="Newman, 1986")
  axis.plot(index, means, "o", color="#0072B2", ms=3, label=f"measured, N = {SIZE}")
  axis.set_xlabel("i / N")
  axis.set_ylabel("Lyapunov exponent λ_i, nats per step")
  axis.legend(frameon=False, fontsize=style.SMALL)


figure = Figure(
  title="All Lyapunov exponents of a product of Gaussian matrices",
  setting=f"h′ = W_t h, a new W_t at every step, entries N(0, 1/N), N = {SIZE}, {len(SEEDS)} "
  f"products of {STEPS} steps",
  source="Newman, 1986, https://doi.org/10.1007/BF01464284",
  seconds=40,
  run=run,
  seeds=SEEDS,
)
