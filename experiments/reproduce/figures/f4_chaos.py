"""F4. The largest Lyapunov exponent of a random network, as a function of its gain."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, Key

from experiments.plotting import style
from experiments.reproduce import mean_field
from experiments.reproduce.figure import Figure, Outcome, absolute
from rnn_jax.gradient_flow import lyapunov_spectrum
from rnn_jax.types import Array, Cell, FlatParams, Number, Units, unprepared

SIZE, STEPS, SKIP = 400, 1500, 300
GAINS = (0.5, 0.9, 1.25, 1.5, 2.0, 3.0)
SEEDS = tuple(range(10))
MEAN_FIELD = (-0.693, -0.105, 0.0235, 0.0652, 0.1547, 0.3103)
TOLERANCE = 0.02


def rate_network(gain: Number, size: int = SIZE) -> Cell:
  """Returns a random network that ignores its input.

    h' = J tanh(h)        J_ij ~ N(0, g²/N)

  Args:
    gain: g.
    size: N.
  Returns:
    A Cell that ignores xs: carry and y [..., N]; params {"w_h": [N, N]}, where w_h is Jᵀ.
  References:
    Sompolinsky et al., 1988, https://doi.org/10.1103/PhysRevLett.61.259
  """

  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    del input_size
    normal = jax.random.normal(key, (size, size), dtype)
    return {"w_h": normal * jnp.asarray(gain / math.sqrt(size), normal.dtype)}

  def initial_carry(batch_shape: tuple[int, ...], dtype: DTypeLike = float) -> Units:
    return jnp.zeros((*batch_shape, size), dtype)

  def project(
    params: FlatParams, xs: Float[Array, "*batch D"], key: Key[Array, ""] | None = None
  ) -> Units:
    del params, key
    return jnp.zeros((*xs.shape[:-1], size), xs.dtype)

  def recur(params: FlatParams, h: Units) -> Units:
    return jnp.tanh(h) @ params["w_h"]

  def update(params: FlatParams, h: Units, drive: Units, recurrent: Units) -> Units:
    del params, h
    return drive + recurrent

  def output(params: FlatParams, h: Units, drive: Units) -> Units:
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


def spectral_radius(seed: int, size: int = SIZE) -> float:
  """Returns the spectral radius ρ(J) of a network with gain 1, drawn as in `measure`."""
  key, _ = jax.random.split(jax.random.key(seed))
  transposed = rate_network(1.0, size).init(key, 1)["w_h"]
  return float(np.abs(np.linalg.eigvals(np.asarray(transposed, np.float64))).max())


@jax.jit
def measure(gains: Float[Array, " n"], seeds: Integer[Array, " n"]) -> Float[Array, " n"]:
  """Returns the largest Lyapunov exponent λ₁ of the network drawn with each gain and seed."""

  def one(now: tuple[Float[Array, ""], Integer[Array, ""]]) -> Float[Array, ""]:
    gain, seed = now
    params_key, carry_key = jax.random.split(jax.random.key(seed))
    cell = rate_network(gain)
    params = cell.init(params_key, 1)
    carry = jax.random.normal(carry_key, (1, SIZE))
    xs = jnp.zeros((STEPS, 1, 1))
    (exponents,) = lyapunov_spectrum(
      [cell], [params], xs, num_exponents=1, carries=[carry], skip=SKIP
    )
    return exponents[0, 0]

  return jax.lax.map(one, (gains, seeds))


def run() -> Outcome:
  """Compares λ₁, averaged over the networks of each gain, with mean-field theory."""
  gains, seeds = np.meshgrid(np.asarray(GAINS, np.float32), SEEDS, indexing="ij")
  flat = measure(jnp.asarray(gains.ravel()), jnp.asarray(seeds.ravel()))
  found = np.asarray(flat, float).reshape(gains.shape)
  means = found.mean(axis=1)
  table = [
    {
      "g": gain,
      "mean field": mean_field.exponent(gain),
      "mean over seeds": float(means[i]),
      **{f"seed {seed}": float(found[i, j]) for j, seed in enumerate(SEEDS)},
    }
    for i, gain in enumerate(GAINS)
  ]
  checks = [
    absolute(f"λ₁, g = {gain}, mean over seeds", means[i], MEAN_FIELD[i], TOLERANCE)
    for i, gain in enumerate(GAINS)
  ]

  radii = [math.log(spectral_radius(seed)) for seed in SEEDS]
  error = max(abs(found[0, j] - math.log(GAINS[0]) - radii[j]) for j in range(len(SEEDS)))
  smaller = np.mean([math.log(spectral_radius(seed, SIZE // 4)) for seed in SEEDS])
  notes = [
    "Below g = 1 the carry goes to zero and λ₁ = ln g + ln ρ(J/g); at g = 0.5 this holds within "
    f"{error:.1g} for each network. At finite N the spectral radius ρ(J/g) is above 1: its "
    f"logarithm is {np.mean(radii):.4f} ± {np.std(radii, ddof=1):.4f} in these networks, and "
    f"{smaller:.4f} on average over as many networks of N = {SIZE // 4}. Mean field is the limit "
    "of large N.",
  ]

  return Outcome(table, checks, functools.partial(draw, found=found), notes)


def draw(figure: matplotlib.figure.Figure, found: Float[np.ndarray, "gains seeds"]) -> None:
  """Draws the exponents and their mean-field values against the gain."""
  axis = figure.subplots()
  curve = np.linspace(0.45, 3.1, 150)
  axis.plot(curve, [mean_field.exponent(g) for g in curve], color=style.GRAY, lw=1)
  axis.plot([], [], color=style.GRAY, lw=1, label="mean field, N → ∞")
  for row in found.T:
    axis.plot(GAINS, row, "o", color="#0072B2", ms=4, alpha=0.6)
  axis.plot([], [], "o", color="#0072B2", ms=4, label=f"N = {SIZE}, one point per network")
  axis.axhline(0, color=style.GRAY, lw=0.6)
  axis.set_xlabel("gain g")
  axis.set_ylabel("largest Lyapunov exponent, nats per step")
  axis.legend(frameon=False, fontsize=style.SMALL)


figure = Figure(
  title="The edge of chaos of a random network",
  setting=f"h′ = J tanh(h), J_ij ~ N(0, g²/N), N = {SIZE}, {STEPS} steps, the first {SKIP} "
  "discarded",
  source="Sompolinsky et al., 1988, https://doi.org/10.1103/PhysRevLett.61.259; in discrete time: "
  "Molgedey et al., 1992, https://doi.org/10.1103/PhysRevLett.69.3717",
  seconds=20,
  run=run,
  seeds=SEEDS,
)
