"""F24. The lag at which each precision loses the gradient, with and without loss scaling."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Float, Integer

from experiments.plotting import style
from experiments.reproduce.figure import Figure, Outcome, absolute, relative
from rnn_jax.cells import LSTMCarry, elman, gru, lru, lstm
from rnn_jax.gradient_flow import underflow
from rnn_jax.precision import DTYPES
from rnn_jax.types import Array, Cell

HIDDEN, BATCH, INPUTS = 128, 4, 2
SEEDS = (0,)
# 2^12 |v| is below the largest float16, 65504, so nothing overflows at lag 0; see the notes.
SCALES = (1.0, 2.0**12)
GAIN = 0.7  # s, the gain of the linear network
RADII = 0.69, 0.7  # |λ| of the LRU
STEPS_OFF = 2  # tolerance of the closed form, in steps
TOLERANCE = 0.15
# The medians of |v| for v ~ N(0, 1), and of |v| for a complex v whose parts are N(0, 1).
REAL, COMPLEX = 0.6745, math.sqrt(2 * math.log(2))
TINY = {"float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-14}


class Case(NamedTuple):
  """A cell, and what is expected of its gradient.

  Attributes:
    cell: the cell.
    rate: the decay rate of its gradient, in nats per step.
    entry: the expected median of |dL/dh_T|.
    steps: sequence length.
    complex: whether the carry is complex, and so stays complex64 in half precision.
  """

  cell: Cell
  rate: float
  entry: float
  steps: int
  complex: bool = False

  def lag(self, dtype: str, scale: float) -> float:
    """Returns the expected lag at which half of the entries are lost."""
    tiny = TINY["float32" if self.complex else dtype]
    return math.log(tiny / (scale * self.entry)) / self.rate


# The rates of elman, gru and lstm are those of mean-field theory for unit inputs and N = 128
# (figure F1 measures them); the others are exact.
CASES = {
  f"linear {GAIN:g} Q": Case(
    elman(HIDDEN, activation="linear", recurrent_gain=GAIN), math.log(GAIN), REAL, 320
  ),
  "elman": Case(elman(HIDDEN), -0.420, REAL, 320),
  "gru": Case(gru(HIDDEN), -0.376, REAL, 320),
  "lstm": Case(lstm(HIDDEN, forget_bias=1.0), -0.164, REAL, 640),
  "lru": Case(
    lru(HIDDEN, min_radius=RADII[0], max_radius=RADII[1]),
    math.log(sum(RADII) / 2),
    COMPLEX,
    320,
    complex=True,
  ),
}


def measure(case: Case, dtype: str) -> Float[np.ndarray, "scales seeds lags"]:
  """Returns the share of dL/dh_{T−k} that is lost, for L = v · y_T, with v and x ~ N(0, I)."""

  def one(now: tuple[Array, Array]) -> Float[Array, " lags"]:
    scale, seed = now
    params_key, data_key, probe_key = jax.random.split(jax.random.key(seed), 3)
    params = case.cell.init(params_key, INPUTS)
    xs = jax.random.normal(data_key, (case.steps, BATCH, INPUTS))
    v = jax.random.normal(probe_key, (BATCH, HIDDEN))

    def last(ys: Array) -> Float[Array, ""]:
      return jnp.sum(v * ys[-1].astype(jnp.float32))

    (shares,) = underflow([case.cell], [params], xs, last, dtype=dtype, loss_scale=scale)
    hidden = shares.hidden if isinstance(shares, LSTMCarry) else shares
    return hidden[::-1]

  scales, seeds = np.meshgrid(np.asarray(SCALES, np.float32), SEEDS, indexing="ij")
  program: Callable[..., Array] = jax.jit(lambda grid: jax.lax.map(one, grid))
  found = program((jnp.asarray(scales.ravel()), jnp.asarray(seeds.ravel())))
  return np.asarray(found).reshape(len(SCALES), len(SEEDS), case.steps)


def lags_lost(shares: Float[np.ndarray, "seeds lags"]) -> Integer[np.ndarray, " seeds"]:
  """Returns the first lag at which at least half of the entries are lost; T if there is none."""
  lost = shares >= 0.5
  return np.where(lost.any(axis=-1), lost.argmax(axis=-1), shares.shape[-1])


def run() -> Outcome:
  """Compares the lags with the lag of the closed form, ln(tiny / (S |v|)) / decay rate."""
  found = {(name, dtype): measure(case, dtype) for name, case in CASES.items() for dtype in DTYPES}
  table, checks = [], []
  for (name, dtype), shares in found.items():
    for scale, of_scale in zip(SCALES, shares, strict=True):
      lags = lags_lost(of_scale)
      expected, median = CASES[name].lag(dtype, scale), float(np.median(lags))
      label = "none" if scale == 1 else f"{scale:g}"
      row = {"cell": name, "dtype": dtype, "loss scale": label, "lag": median}
      row["expected"] = expected
      table.append({**row, **{f"seed {s}": int(lag) for s, lag in zip(SEEDS, lags, strict=True)}})
      text = f"lag lost, {name}, {dtype}, loss scale {label}"
      exact = name.startswith("linear")
      checks.append(
        absolute(text, median, expected, STEPS_OFF)
        if exact
        else relative(text, median, expected, TOLERANCE)
      )
  notes = [
    "An entry is lost if it is zero or subnormal. The lag is the first one at which at least half "
    "of the entries of dL/dh are lost; of an LSTM's, those of the hidden state.",
    "Expected is ln(tiny / (S · m)) / rate: the smallest normal number of the dtype, the loss "
    "scale S, the median m of |dL/dh_T|, and the decay rate, which is exact for the linear "
    "network and the LRU, and that of mean-field theory for the others. The carry of the LRU is "
    "complex64 in every dtype.",
    "The first run had a loss scale of 2^16, with the same expectation and tolerances. In float16 "
    "dL/dh_T then overflows, so no entry counts as lost, and all of these checks were missed. A "
    "loss scale must fit between both ends of the format, as dynamic loss scaling ensures. The "
    "scale is now 2^12.",
    "In float64, the median of |dL/dh| of the linear network falls below the smallest normal "
    "float32 at lag 244, as expected. In float32 this happens about 3 steps earlier: XLA on a CPU "
    "flushes each subnormal product within the matrix product to zero, and a product is smaller "
    "than the entry. In float64, the median of the LSTM's hidden state falls below the smallest "
    "normal float16 at lag 46 already. So the mean-field rate is wrong there, not the precision: "
    "the gradient decays faster in the first steps.",
  ]
  return Outcome(table, checks, functools.partial(draw, found=found), notes)


def draw(
  figure: matplotlib.figure.Figure,
  found: dict[tuple[str, str], Float[np.ndarray, "scales seeds lags"]],
) -> None:
  """Draws the shares against the lag, averaged over seeds, with one panel per dtype."""
  axes = figure.subplots(1, len(DTYPES), sharey=True)
  colors = ("#000000", "#E69F00", "#009E73", "#0072B2", "#CC79A7")
  for axis, dtype in zip(axes, DTYPES, strict=True):
    for color, name in zip(colors, CASES, strict=True):
      for dashes, shares in zip(("-", "--"), found[name, dtype], strict=True):
        axis.plot(100 * shares.mean(axis=0), dashes, color=color, lw=1)
      axis.plot([], [], color=color, label=name)
    axis.set_title(dtype, fontsize=style.MEDIUM)
    axis.set_xlabel("lag k, in steps")
  axes[0].set_ylabel("entries of dL/dh lost, %")
  axes[1].plot([], [], "--", color=style.GRAY, label=f"loss scale {SCALES[1]:g}")
  for axis in axes[:2]:
    axis.set_xlim(0, max(case.steps for case in CASES.values()))
  axes[1].legend(frameon=False, fontsize=style.SMALL)


figure = Figure(
  title="The lag at which each precision loses the gradient",
  setting=f"H = {HIDDEN}, B = {BATCH}, T = 320 (lstm 640), inputs N(0, I) of size {INPUTS}, "
  f"orthogonal kernels, lstm with forget bias 1, lru with |λ| from {RADII[0]:g} to {RADII[1]:g}, "
  f"loss v · y_T, loss scales 1 and {SCALES[1]:g}",
  source="own closed form; loss scaling: Micikevicius et al., 2018, "
  "https://arxiv.org/abs/1710.03740",
  seconds=60,
  run=run,
  seeds=SEEDS,
)
