"""F13. The edge of chaos of random gated networks, by recurrent gain and gate bias."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Float, Integer, Key

from experiments.plotting import style
from experiments.reproduce.figure import Figure, Outcome, absolute, at_least, at_most
from rnn_jax.cells import gru, lstm
from rnn_jax.gradient_flow import lyapunov_spectrum
from rnn_jax.network_init import critical_gain
from rnn_jax.types import Array, Cell, FlatParams, Number

SMALL, LARGE = 64, 256  # N
STEPS, SKIP = 1500, 500
SEEDS = tuple(range(5))
# The bias of the gate that keeps the old carry: b_z of the GRU, b_f of the LSTM.
BIASES = (-2.0, -1.0, 0.0, 1.0, 2.0)
RATIOS = (0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0)  # g / g_c, the gain over the critical gain
BELOW, ABOVE = 0.8, 2.0  # ratios up to the first and from the second one have a sign that is tested
CELLS = ("gru", "lstm")
# Benettin's method meets ln ρ up to order 1/(STEPS − SKIP).
RADIUS_TOLERANCE, CROSSING_TOLERANCE, CHAOTIC = 3e-3, 0.5, 1e-3


def critical(name: str, bias: float) -> float:
  """Returns the gain at which the zero state loses its stability at large N.

    gru: eigenvalues z + (1 − z) ½ g w, g_c = 2        lstm: σ(b_f) + ¼ g w, g_c = 4 (1 − σ(b_f))

  Here z = σ(b_z), and w are the eigenvalues of a kernel of variance 1/N, which fill the unit disk.
  At zero the other gates are ½. The GRU's critical gain does not depend on b_z.
  """
  return float(critical_gain(name, forget_bias=bias))


def network(
  name: str, bias: Number, gain: Number, size: int, key: Key[Array, ""]
) -> tuple[Cell, FlatParams]:
  """Returns a cell with Gaussian kernels of variance g²/N, and its params."""
  if name == "lstm":
    gated = lstm(size, forget_bias=bias, recurrent_kernel="gaussian", recurrent_gain=gain)
    return gated, gated.init(key, 1)
  cell = gru(size, recurrent_kernel="gaussian", recurrent_gain=gain)
  params = cell.init(key, 1)
  return cell, {**params, "b": params["b"].at[:size].set(bias)}


def zero_state_exponents(name: str, size: int) -> Float[np.ndarray, "biases ratios seeds"]:
  """Returns ln ρ of the step Jacobian at zero, for the drawn kernel of each seed."""
  found = []
  for seed in SEEDS:
    params_key, _ = jax.random.split(jax.random.key(seed))
    _, params = network(name, 0.0, 1.0, size, params_key)
    # The third block is that of the candidate, in both cells.
    w = np.linalg.eigvals(np.asarray(params["w_h"][:, 2 * size : 3 * size], np.float64))
    keep = 1 / (1 + np.exp(-np.array(BIASES)))[:, None, None]
    factor = (1 - keep) / 2 if name == "gru" else 1 / 4
    gains = np.array([[critical(name, bias) * ratio for ratio in RATIOS] for bias in BIASES])
    found.append(np.log(np.abs(keep + factor * gains[:, :, None] * w).max(axis=2)))
  return np.stack(found, axis=2)


@functools.partial(jax.jit, static_argnames=("name", "size"))
def measure(
  name: str,
  biases: Float[Array, " n"],
  gains: Float[Array, " n"],
  seeds: Integer[Array, " n"],
  size: int,
) -> Float[Array, " n"]:
  """Returns λ₁ of the network of each bias, gain and seed, without input, from a random carry."""

  def one(now: tuple[Array, Array, Array]) -> Float[Array, ""]:
    bias, gain, seed = now
    params_key, carry_key = jax.random.split(jax.random.key(seed))
    cell, params = network(name, bias, gain, size, params_key)
    carry = cell.initial_carry((1,), jnp.float32)
    carry = jax.tree.map(lambda a: jax.random.normal(carry_key, a.shape, a.dtype), carry)
    (exponents,) = lyapunov_spectrum(
      [cell], [params], jnp.zeros((STEPS, 1, 1)), num_exponents=1, carries=[carry], skip=SKIP
    )
    return exponents[0, 0]

  return jax.lax.map(one, (biases, gains, seeds))


def exponents(name: str, size: int) -> Float[np.ndarray, "biases ratios seeds"]:
  """Returns λ₁ of all networks of one cell and size."""
  grid = np.meshgrid(BIASES, RATIOS, SEEDS, indexing="ij")
  biases, ratios, seeds = (a.ravel() for a in grid)
  gains = np.array([critical(name, bias) for bias in biases]) * ratios
  arrays = jnp.float32(biases), jnp.float32(gains), jnp.int32(seeds)
  return np.asarray(measure(name, *arrays, size=size), float).reshape(grid[0].shape)


def crossing(values: Float[np.ndarray, " ratios"]) -> float:
  """Returns the ratio g / g_c above which λ₁ is positive, by linear interpolation.

  It is infinite if the last value is not positive, and 0 if all values are positive.
  """
  negative = np.flatnonzero(values <= 0)
  if negative.size == 0:
    return 0.0
  i = int(negative[-1])
  if i == len(RATIOS) - 1:
    return float("inf")
  share = -values[i] / (values[i + 1] - values[i])
  return float(RATIOS[i] + share * (RATIOS[i + 1] - RATIOS[i]))


def run() -> Outcome:
  """Compares λ₁ with the closed form below the critical gain, and where it becomes positive.

  At infinite N, λ₁ is 0 at the critical gain. At finite N a network just above it often settles
  into a fixed point or a limit cycle, so λ₁ becomes positive at a larger gain. This gain approaches
  the critical one as N grows.
  """
  table, checks = [], []
  below, above = np.array(RATIOS) <= BELOW, np.array(RATIOS) >= ABOVE
  found = {(name, size): exponents(name, size) for name in CELLS for size in (SMALL, LARGE)}
  for name in CELLS:
    large = found[name, LARGE]
    gap = np.abs(large - zero_state_exponents(name, LARGE))[:, below].max()
    label = f"{name}, g ≤ {BELOW} g_c, largest |λ₁ − ln ρ(J)| of all networks"
    checks.append(at_most(label, gap, RADIUS_TOLERANCE))
    lowest = np.median(large, axis=2)[:, above].min()
    label = f"{name}, g ≥ {ABOVE:g} g_c, λ₁, median over seeds, smallest of all biases and gains"
    checks.append(at_least(label, lowest, CHAOTIC))
    ratios = {
      size: np.array([crossing(row) for row in found[name, size].mean(axis=2)])
      for size in (SMALL, LARGE)
    }
    farthest = np.abs(ratios[LARGE] - 1).argmax()
    label = f"{name}, g / g_c where the mean λ₁ becomes positive, farthest bias ({{:g}})"
    checks.append(
      absolute(label.format(BIASES[farthest]), ratios[LARGE][farthest], 1, CROSSING_TOLERANCE)
    )
    distances = {size: np.abs(ratios[size] - 1).mean() for size in ratios}
    label = f"{name}, mean distance of that ratio from 1, N = {LARGE} over N = {SMALL}"
    checks.append(at_most(label, distances[LARGE] / distances[SMALL], 1))
    for i, bias in enumerate(BIASES):
      row: dict[str, object] = {"cell": name, "gate bias": bias, "g_c": critical(name, bias)}
      row |= {f"λ₁ > 0 from g/g_c, N = {size}": float(ratios[size][i]) for size in (SMALL, LARGE)}
      medians = np.median(large[i], axis=1)
      row |= {
        f"median λ₁, g/g_c = {ratio:g}": float(one)
        for ratio, one in zip(RATIOS, medians, strict=True)
      }
      table.append(row)
  notes = [
    "The transition is expected to be continuous. If the variance of h is small and its changes "
    "slow, the fluctuations of the gates raise the effective gain less than the saturation of "
    "tanh lowers it, at every bias (GRU: ⟨r²⟩ is ¼ + g² q/16, and tanh takes g² q/8). With a "
    "negative bias of the gate that scales the recurrent product, chaos may exist below the line, "
    "too (Krishnamurthy, Can and Schwab, 2022, https://doi.org/10.1103/PhysRevX.12.011011). That "
    "bias is 0 here.",
    "Above the line only the sign of λ₁ is checked. Its value was compared with "
    "`mean_field.lag_profile`, started by an input at the first step. Before the run, samples for "
    "the GRU at biases −2 and 0 were positive at all ratios from 1.25 to 5. After it, means of 4 "
    "samples of 400 units at g = 2 g_c were, from bias −2 to 2: GRU 0.212, 0.162, 0.123, 0.073, "
    "0.045, LSTM 0.326, 0.228, 0.146, 0.055, 0.017, with standard errors below 0.009. Networks of "
    "finite N are below them.",
    "The publications give phase diagrams as pictures. These are recomputed with Gaussian kernels "
    "in all blocks, of the same gain.",
  ]
  large_ones = {name: np.median(found[name, LARGE], axis=2) for name in CELLS}
  return Outcome(table, checks, functools.partial(draw, medians=large_ones), notes)


def draw(
  figure: matplotlib.figure.Figure, medians: Mapping[str, Float[np.ndarray, "biases ratios"]]
) -> None:
  """Draws λ₁ against gate bias and gain, with the critical gain as a line; one panel per cell."""
  axes = figure.subplots(1, len(CELLS))
  ratios, biases = _edges(np.log(RATIOS)), _edges(BIASES)
  line = np.linspace(biases[0], biases[-1], 100)
  for axis, name in zip(axes, CELLS, strict=True):
    gains = np.array([[critical(name, b) for b in biases]]) * np.exp(ratios)[:, None]
    columns = np.broadcast_to(biases, gains.shape)
    mesh = axis.pcolormesh(columns, gains, medians[name].T, cmap="RdBu_r", vmin=-0.3, vmax=0.3)
    axis.plot(
      line, [critical(name, b) for b in line], color="black", lw=1.5, label="critical gain g_c"
    )
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_title(name, fontsize=style.MEDIUM)
    axis.set_xlabel("gate bias (gru: b_z, lstm: b_f)")
  axes[0].set_ylabel("recurrent gain g")
  axes[-1].legend(frameon=False, fontsize=style.SMALL, loc="lower left")
  figure.colorbar(mesh, ax=axes, label=f"median λ₁, N = {LARGE}, nats per step", extend="both")


def _edges(values: Sequence[float] | Float[np.ndarray, " n"]) -> Float[np.ndarray, " n1"]:
  """Returns the mid-points of neighboring values, and one more edge at each end."""
  values = np.asarray(values, float)
  middle = (values[1:] + values[:-1]) / 2
  return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])


figure = Figure(
  title="The edge of chaos of random gated networks, by gain and gate bias",
  setting=f"GRU and LSTM without input, Gaussian kernels times g, N = {SMALL} and {LARGE}, "
  f"{STEPS} steps, the first {SKIP} discarded",
  source="Can, Krishnamurthy and Schwab, 2020, https://arxiv.org/abs/2002.00025; also Chen, "
  "Pennington and Schoenholz, 2018, https://arxiv.org/abs/1806.05394, and Gilboa et al., 2019, "
  "https://arxiv.org/abs/1901.08987",
  seconds=120,
  run=run,
  seeds=SEEDS,
)
