"""F18. Influence balancing by every gradient estimator: the right sign needs all lags."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Float, Key

from experiments.plotting import style
from experiments.reproduce.figure import Check, Figure, Outcome, absolute, at_least, at_most
from experiments.reproduce.figures.f3_influence_balancing import CELL, OPTIMUM, balance, formula
from rnn_jax.estimators import Estimator, make_estimator
from rnn_jax.types import Array, Carry

WINDOW, UPDATES, LEARNING_RATE = 100, 3000, 3e-4
NUM_KEYS = 2000


class Expected(NamedTuple):
  """What an estimator should return.

  Attributes:
    gradient: Ĝ, the expected estimate of ∂s₁/∂θ at the last step of a window, in closed form.
    why: where this value comes from.
  """

  gradient: float
  why: str


def shares() -> Float[np.ndarray, " lags"]:
  """Returns g_k = G_{k+1} − G_k, the share of lag k in ∂s₁/∂θ at the last step of a window."""
  sums = np.array([formula(k) for k in range(WINDOW + 1)])
  return np.diff(sums)


def expectations() -> dict[str, Expected]:
  """Returns the expectations, by the names that `make_estimator` takes.

  θ is a factor of W_x alone, whose row of a unit reaches, in one step, this unit only.
  """
  g = shares()
  whole = float(g.sum())
  kept = 0.75 ** np.arange(WINDOW)
  return {
    "bptt": Expected(whole, "all lags"),
    "rtrl": Expected(whole, "all lags"),
    "snap2": Expected(whole, "all lags: W_h is dense"),
    "artbp0.02": Expected(whole, "all lags in the mean"),
    "uoro1": Expected(whole, "all lags in the mean"),
    "kf_rtrl": Expected(whole, "all lags in the mean"),
    "tbptt50": Expected(float(g[:50].sum()), "lags below 50"),
    "tbptt25": Expected(float(g[:25].sum()), "lags below 25"),
    "snap1": Expected(float((0.5 ** np.arange(WINDOW)).sum()), "from unit 1 to itself: Σ 2^−k"),
    "rflo": Expected(float(g[0]), "lag 0"),
    "h_detach0.25": Expected(float(kept @ g), "lag k with probability 0.75^k"),
  }


def final_error(
  estimator: Estimator, theta: Float[Array, ""], carry: Carry, key: Key[Array, ""]
) -> tuple[Float[Array, ""], Carry]:
  """Returns (s₁ at the last step of a window, final carry); its derivative by θ is estimated."""
  xs = jnp.ones((WINDOW, 1, 1))
  final, ys = estimator.unroll(CELL, balance(theta), xs, carry, estimator_key=key)
  return ys[-1, 0, 0], final


def estimates(estimator: Estimator) -> Float[np.ndarray, " keys"]:
  """Returns estimates of ∂s₁/∂θ for several keys; only one if the estimator is not random."""
  theta, carry = jnp.zeros(()), CELL.initial_carry((1,))
  one = jax.grad(lambda theta, key: final_error(estimator, theta, carry, key)[0])
  keys = jax.random.split(jax.random.key(0), NUM_KEYS if estimator.random else 1)
  return np.asarray(jax.jit(jax.vmap(functools.partial(one, theta)))(keys))


def train(estimator: Estimator) -> float:
  """Returns θ after training on consecutive windows, with the loss ½ (s₁ − 1)² at their ends."""

  def update(
    old: tuple[Float[Array, ""], Carry], key: Key[Array, ""]
  ) -> tuple[tuple[Float[Array, ""], Carry], None]:
    theta, carry = old

    def loss(theta: Float[Array, ""]) -> tuple[Float[Array, ""], Carry]:
      first, final = final_error(estimator, theta, carry, key)
      return (first - 1) ** 2 / 2, final

    gradient, final = jax.grad(loss, has_aux=True)(theta)
    return (theta - LEARNING_RATE * gradient, final), None

  @jax.jit
  def run() -> Float[Array, ""]:
    keys = jax.random.split(jax.random.key(1), UPDATES)
    (theta, _), _ = jax.lax.scan(update, (jnp.zeros(()), CELL.initial_carry((1,))), keys)
    return theta

  return float(run())


def run() -> Outcome:
  """Compares each estimator's mean estimate with its closed form, and trains θ with it."""
  table: list[dict[str, object]] = []
  checks: list[Check] = []
  for name, expected in expectations().items():
    with jax.enable_x64(True):
      estimator = make_estimator(name)
      found, theta = estimates(estimator), train(estimator)
    mean = float(found.mean())
    error = float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
    table.append(
      {
        "estimator": name,
        "expected Ĝ": expected.gradient,
        "mean Ĝ": mean,
        "standard error": error,
        "trained θ": theta,
        "what it sees": expected.why,
      }
    )
    if error:
      distance = abs(mean - expected.gradient) / error
      checks.append(at_most(f"{name}: |mean Ĝ − expected|, in standard errors", distance, 3))
    else:
      checks.append(absolute(f"{name}: Ĝ", mean, expected.gradient, 1e-9))
    if expected.gradient < 0:
      checks.append(absolute(f"{name}: trained θ", theta, OPTIMUM, 1e-3))
    else:
      checks.append(at_least(f"{name}: |trained θ|, diverges", abs(theta), 10))
  notes = [
    "θ = −1/6 solves the task, since s₁ = −6 θ in the long run. Gradient descent finds it if the "
    "estimate has the sign of the whole gradient, −6. The first lags alone have the other sign.",
  ]
  return Outcome(table, checks, functools.partial(draw, table=table), notes)


def draw(figure: matplotlib.figure.Figure, table: Sequence[Mapping[str, object]]) -> None:
  """Draws each estimator's mean estimate, and marks whether training with it solves the task."""
  axis = figure.subplots()
  for i, row in enumerate(table):
    mean, error = (float(str(row[name])) for name in ("mean Ĝ", "standard error"))
    good = abs(float(str(row["trained θ"])) - OPTIMUM) < 1e-3
    color, marker = ("#009E73", "o") if good else ("#D55E00", "X")
    axis.errorbar(mean, i, xerr=3 * error, color=color, marker=marker, ms=7, lw=1)
    axis.plot(float(str(row["expected Ĝ"])), i, "|", color="black", ms=14)
  axis.set_yticks(range(len(table)), [str(row["estimator"]) for row in table])
  axis.invert_yaxis()
  axis.axvline(0, color=style.GRAY, lw=0.6)
  axis.set_xlabel("mean estimate of the gradient of $s_1$ by θ")
  for label, color, marker, line in (
    ("training reaches θ = −1/6", "#009E73", "o", "-"),
    ("training diverges", "#D55E00", "X", "-"),
    ("closed form", "black", "|", ""),
  ):
    axis.plot([], [], color=color, marker=marker, ls=line, label=label)
  axis.legend(frameon=False, fontsize=style.SMALL)


figure = Figure(
  title="Influence balancing by every gradient estimator",
  setting=f"the linear system of F3; windows of {WINDOW} steps, {UPDATES} updates of plain "
  f"gradient descent, learning rate {LEARNING_RATE:g}; float64; {NUM_KEYS} keys for the mean of a "
  "random estimator",
  source="Tallec and Ollivier, 2017, https://arxiv.org/abs/1705.08209, and 2018, "
  "https://arxiv.org/abs/1702.05043",
  seconds=130,
  run=run,
)
