"""F4. The largest Lyapunov exponent of a random network, as a function of its gain."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, Key

from experiments.plotting import style
from experiments.reproduce import mean_field
from experiments.reproduce.figure import Figure, Outcome, absolute, shrinks
from rnn_jax.gradient_flow import lyapunov_spectrum
from rnn_jax.types import Array, Cell, FlatParams, Number, Units, unprepared

SIZE, STEPS, SKIP = 400, 1500, 300
BELOW, ABOVE = (0.5, 0.9), (1.25, 1.5, 2.0, 3.0)  # gains g
SEEDS = tuple(range(10))
# The sizes at which the distance from mean field is measured, with the number of networks of each.
SIZES = {100: 10, SIZE: 10, 1600: 4}
RADIUS_TOLERANCE, TOLERANCE = 1e-3, 0.02


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


@functools.partial(jax.jit, static_argnames="size")
def measure(
  gains: Float[Array, " n"], seeds: Integer[Array, " n"], size: int = SIZE
) -> Float[Array, " n"]:
  """Returns the largest Lyapunov exponent λ₁ of the network drawn with each gain and seed."""

  def one(now: tuple[Float[Array, ""], Integer[Array, ""]]) -> Float[Array, ""]:
    gain, seed = now
    params_key, carry_key = jax.random.split(jax.random.key(seed))
    cell = rate_network(gain, size)
    params = cell.init(params_key, 1)
    carry = jax.random.normal(carry_key, (1, size))
    xs = jnp.zeros((STEPS, 1, 1))
    (exponents,) = lyapunov_spectrum(
      [cell], [params], xs, num_exponents=1, carries=[carry], skip=SKIP
    )
    return exponents[0, 0]

  return jax.lax.map(one, (gains, seeds))


def exponents(
  gains: Sequence[float], seeds: Sequence[int], size: int
) -> Float[np.ndarray, "gains seeds"]:
  """Returns λ₁ of the network of each gain and seed."""
  grid = np.meshgrid(np.asarray(gains, np.float32), np.asarray(seeds, np.int32), indexing="ij")
  flat = measure(*(jnp.asarray(a.ravel()) for a in grid), size=size)
  return np.asarray(flat, float).reshape(grid[0].shape)


def run() -> Outcome:
  """Compares λ₁ with the spectral radius of each network below g = 1, and with mean field above."""
  radii = np.log([spectral_radius(seed) for seed in SEEDS])
  below = exponents(BELOW, SEEDS, SIZE)
  above = {size: exponents(ABOVE, SEEDS[:count], size) for size, count in SIZES.items()}
  table, checks = [], []
  for gain, found in zip(BELOW, below, strict=True):
    table.append(_row(gain, SIZE, found))
    expected = math.log(gain) + radii
    worst = np.abs(found - expected).argmax()
    name = f"λ₁, g = {gain}, network farthest from ln ρ(J) (seed {SEEDS[worst]})"
    checks.append(absolute(name, found[worst], float(expected[worst]), RADIUS_TOLERANCE))
  for i, gain in enumerate(ABOVE):
    theory = mean_field.exponent(gain)
    table += [_row(gain, size, found[i]) for size, found in above.items()]
    name = f"λ₁, g = {gain}, N = {SIZE}, mean over seeds"
    checks.append(absolute(name, above[SIZE][i].mean(), theory, TOLERANCE))
    distances = {size: abs(found[i].mean() - theory) for size, found in above.items()}
    checks.append(shrinks(f"g = {gain}, distance from mean field", distances))

  notes = [
    "Below g = 1 the carry goes to zero and λ₁ = ln ρ(J), the spectral radius of each drawn "
    "network; mean field, ln g, is its limit at large N. At finite N the radius is larger: "
    f"ln ρ(J) − ln g is {np.mean(radii):.4f} ± {np.std(radii, ddof=1):.4f} in the networks of "
    f"N = {SIZE}. Earlier, the check compared λ₁ with ln g, which no network of this size meets.",
  ]
  return Outcome(table, checks, functools.partial(draw, below=below, above=above), notes)


def _row(gain: float, size: int, found: Float[np.ndarray, " seeds"]) -> dict[str, object]:
  row = {"g": gain, "N": size, "mean field": mean_field.exponent(gain)}
  row["mean over seeds"] = float(found.mean())
  return {**row, **{f"seed {seed}": float(one) for seed, one in zip(SEEDS, found, strict=False)}}


def draw(
  figure: matplotlib.figure.Figure,
  below: Float[np.ndarray, "gains_below seeds"],
  above: Mapping[int, Float[np.ndarray, "gains_above _seeds"]],
) -> None:
  """Draws the exponents and their mean-field values against the gain, with one color per size."""
  axis = figure.subplots()
  curve = np.linspace(0.45, 3.1, 150)
  axis.plot(curve, [mean_field.exponent(g) for g in curve], color=style.GRAY, lw=1)
  axis.plot([], [], color=style.GRAY, lw=1, label="mean field, N → ∞")
  styles = style.value_styles(list(above))
  for size, found in above.items():
    color = styles[size].color
    axis.plot(ABOVE, found, "o", color=color, ms=4, alpha=0.6)
    axis.plot([], [], "o", color=color, ms=4, label=f"N = {size}, one point per network")
  axis.plot(BELOW, below, "o", color=styles[SIZE].color, ms=4, alpha=0.6)
  axis.axhline(0, color=style.GRAY, lw=0.6)
  axis.set_xlabel("gain g")
  axis.set_ylabel("largest Lyapunov exponent, nats per step")
  axis.legend(frameon=False, fontsize=style.SMALL)


figure = Figure(
  title="The edge of chaos of a random network",
  setting=f"h′ = J tanh(h), J_ij ~ N(0, g²/N), N = {SIZE}, above g = 1 also "
  f"{', '.join(str(size) for size in SIZES if size != SIZE)}, {STEPS} steps, the first {SKIP} "
  "discarded",
  source="Sompolinsky et al., 1988, https://doi.org/10.1103/PhysRevLett.61.259; in discrete time: "
  "Molgedey et al., 1992, https://doi.org/10.1103/PhysRevLett.69.3717",
  seconds=150,
  run=run,
  seeds=SEEDS,
)
