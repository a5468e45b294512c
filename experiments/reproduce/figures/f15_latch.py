"""F15. The latch problem: where a bit is stored robustly, the gradient decays exponentially.

One unit, h' = tanh(a) with a = w h + u and w > 1, stores a bit in the sign of its state.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import scipy.optimize
from jaxtyping import Float, Key

from experiments.plotting import style
from experiments.reproduce.figure import (
  Check,
  Figure,
  Outcome,
  absolute,
  at_least,
  at_most,
  relative,
)
from experiments.reproduce.training import train_runs
from rnn_jax.cells import elman
from rnn_jax.gradient_flow import decay_rate, lag_profile
from rnn_jax.time_loop import unroll
from rnn_jax.types import Array, Number, Params

UNIT = elman(1)
# The untrained latch: gains w, lags, noise sequences, and the noise's amplitude as a share of u*.
GAINS = (1.25, 2.0, 4.0)
LAGS, SEQUENCES, SHARE = 100, 1000, 0.9
HOLD = 10_000  # steps for which a constant input is held to see whether it flips the latch
# The trained latch: the first STEPS inputs are learned, the others are noise N(0, NOISE²).
LENGTHS = (5, 10, 20, 40, 80)
STEPS, NOISE, FIRST_GAIN, TARGET = 3, 0.2, 1.25, 0.8
BATCH, LEARNING_RATE, UPDATES, CALL = 32, 0.1, 2000, 500
SOLVED = 0.05  # largest share of wrong signs
SEEDS = tuple(range(20))
TINY = 1e-9
BY_HAND = 3.0, 1.0  # w, and the size of the learned inputs, of a latch that is not trained


def unit(w: Number, w_x: Float[Array, "D 1"]) -> Params:
  """Returns the params of UNIT: h' = tanh(a), where a = w h + x W_x."""
  return {"w_x": w_x, "w_h": jnp.full((1, 1), w, w_x.dtype), "b": jnp.zeros(1, w_x.dtype)}


def critical(w: float) -> tuple[float, float]:
  """Returns (a_c, u*): where w tanh'(a) = 1, and the largest input that cannot flip the latch.

  With a constant input −u, the upper fixed point a = w tanh(a) − u vanishes at a_c in a fold, where
  u = u* = w tanh(a_c) − a_c.
  """
  a_c = math.atanh(math.sqrt(1 - 1 / w))
  return a_c, w * math.tanh(a_c) - a_c


def fixed_point(w: float, u: float) -> float:
  """Returns the upper fixed point of a' = w tanh(a) − u, for u below u*."""
  return scipy.optimize.brentq(lambda a: w * math.tanh(a) - u - a, critical(w)[0], w, xtol=1e-15)


def log_slope(w: float, a: float) -> float:
  """Returns ln(w tanh'(a)), the logarithm of ∂h_{t+1}/∂h_t at a_{t+1} = a, in nats."""
  return math.log(w) - 2 * math.log(math.cosh(a))


@jax.jit
def profile(w: Number, inputs: Float[Array, "T B"]) -> Float[Array, "T B"]:
  """Returns log₁₀ |∂h_T/∂h_{T−k}| for each lag k; the first input sets a at the first step."""
  params = unit(w, jnp.ones((1, 1), inputs.dtype))
  (logs,) = lag_profile([UNIT], [params], inputs[..., None], lambda h: h[:, 0])
  return logs


@jax.jit
def last(w: Number, inputs: Float[Array, "T B"]) -> Float[Array, " B"]:
  """Returns h_T."""
  carry, _ = unroll(UNIT, unit(w, jnp.ones((1, 1), inputs.dtype)), inputs[..., None])
  return carry[:, 0]


def held(start: float, inputs: Float[np.ndarray, "n B"]) -> Float[Array, "n+1 B"]:
  """Returns the inputs, preceded by one that sets a = start."""
  return jnp.asarray(np.concatenate([np.full((1, inputs.shape[1]), start), inputs]))


def smallest_flip(w: float) -> float:
  """Returns, by bisection, the smallest u for which the constant input −u flips the latch."""
  low, high = 0.0, w
  start = fixed_point(w, 0.0)
  while high - low > 1e-9:
    middle = (low + high) / 2
    flipped = last(w, held(start, np.full((HOLD, 1), -middle)))[0] < 0
    low, high = (low, middle) if flipped else (middle, high)
  return high


def rate(w: float, start: float, u: float) -> float:
  """Returns the measured decay rate of a latch that stays at a = start at the input −u."""
  return float(decay_rate(profile(w, held(start, np.full((LAGS, 1), -u))))[0])


def measure(w: float) -> tuple[dict[str, float], Float[np.ndarray, "lags sequences"]]:
  """Returns a latch's measured and expected numbers, and its lag profiles in bounded noise."""
  bound = SHARE * critical(w)[1]
  rest, worst = fixed_point(w, 0.0), fixed_point(w, bound)
  noise = np.random.RandomState(0).uniform(-bound, bound, (LAGS, SEQUENCES))
  inputs = held(rest, noise)
  logs = np.asarray(profile(w, inputs))
  limit = log_slope(w, worst) / math.log(10) * np.arange(LAGS + 1)
  row = {
    "decay rate": rate(w, rest, 0.0),
    "closed form": log_slope(w, rest),
    f"decay rate at −{SHARE} u*": rate(w, worst, bound),
    "bound": log_slope(w, worst),
    "above bound": float(np.max(logs - limit[:, None])),
    "flipped": float(np.mean(np.asarray(last(w, inputs)) < 0)),
    "smallest flip": smallest_flip(w),
    "u*": critical(w)[1],
  }
  errors = (
    row["decay rate"] - row["closed form"],
    row[f"decay rate at −{SHARE} u*"] - row["bound"],
  )
  row["error"] = float(np.max(np.abs(errors)))
  return row, logs


def batch(length: int, size: int, key: Key[Array, ""]) -> tuple[Array, Array]:
  """Returns xs [T, B, 2 · STEPS + 1] and signs [B]: learned inputs of each class, then noise."""
  signs = jnp.where(jnp.arange(size) % 2 == 0, -1.0, 1.0)
  # Row t of class c is the one-hot vector of learned input t of this class.
  token = jnp.arange(STEPS)[:, None] + jnp.where(signs < 0, 0, STEPS)[None]
  learned = jnp.zeros((length, size, 2 * STEPS)).at[:STEPS].set(jax.nn.one_hot(token, 2 * STEPS))
  noise = NOISE * jax.random.normal(key, (length, size, 1))
  return jnp.concatenate([learned, noise.at[:STEPS].set(0.0)], axis=-1), signs


def final(params: Mapping[str, Array], xs: Float[Array, "T B D"]) -> Float[Array, " B"]:
  """Returns h_T of the latch with params w and inputs [2 · STEPS], which adds the noise as is."""
  w_x = jnp.concatenate([params["inputs"], jnp.ones(1)])[:, None]
  carry, _ = unroll(UNIT, unit(params["w"], w_x), xs)
  return carry[:, 0]


def wrong(params: Mapping[str, Array], length: int, key: Key[Array, ""]) -> Float[Array, ""]:
  """Returns the share of fresh sequences at whose end h has the wrong sign."""
  xs, signs = batch(length, SEQUENCES, key)
  return jnp.mean(final(params, xs) * signs <= 0, dtype=xs.dtype)


def train(
  length: int, seeds: Sequence[int], num_updates: int = UPDATES
) -> tuple[Float[np.ndarray, " seeds"], Float[np.ndarray, " seeds"]]:
  """Returns the share of wrong signs, and w, after gradient descent on (h_T − 0.8 · sign)²."""

  def start(seed: Number, data: tuple[()]) -> dict[str, Array]:
    del data
    inputs = jax.random.uniform(jax.random.key(seed), (2 * STEPS,), minval=-0.1, maxval=0.1)
    return {"w": jnp.full((), FIRST_GAIN), "inputs": inputs, "step": jnp.zeros((), jnp.int32)}

  def advance(
    seed: Number, state: dict[str, Array], data: tuple[()]
  ) -> tuple[dict[str, Array], tuple[Array, Array]]:
    del data
    batches_key, test_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))

    def loss(params: dict[str, Array], step: Array) -> Float[Array, ""]:
      xs, signs = batch(length, BATCH, jax.random.fold_in(batches_key, step))
      return jnp.mean((final(params, xs) - TARGET * signs) ** 2)

    def update(state: dict[str, Array], _: None) -> tuple[dict[str, Array], None]:
      params = {name: state[name] for name in ("w", "inputs")}
      grads = jax.grad(loss)(params, state["step"])
      new = jax.tree.map(lambda a, grad: a - LEARNING_RATE * grad, params, grads)
      return {**new, "step": state["step"] + 1}, None

    state, _ = jax.lax.scan(update, state, length=min(CALL, num_updates))
    return state, (wrong(state, length, test_key), state["w"])

  runs = [np.uint32(seed) for seed in seeds]
  calls = train_runs(start, advance, runs, ())
  _, (errors, gains) = next(itertools.islice(calls, max(1, num_updates // CALL) - 1, None))
  return np.asarray(errors), np.asarray(gains)


def run(
  lengths: Sequence[int] = LENGTHS, seeds: Sequence[int] = SEEDS, num_updates: int = UPDATES
) -> Outcome:
  """Compares the untrained latch with closed forms, and trains a latch at each length."""
  with jax.enable_x64(True):
    robust = {w: measure(w) for w in GAINS}
  trained = {length: train(length, seeds, num_updates) for length in lengths}
  w, size = BY_HAND
  latch = {"w": jnp.asarray(w), "inputs": jnp.repeat(jnp.asarray([-size, size]), STEPS)}
  by_hand = float(jax.jit(lambda key: wrong(latch, max(lengths), key))(jax.random.key(0)))
  rows = [row for row, _ in robust.values()]
  worst = {name: max(row[name] for row in rows) for name in rows[0]}
  success = [float(np.mean(errors <= SOLVED)) for errors, _ in trained.values()]
  table: list[dict[str, object]] = [
    {"latch": f"w = {w:g}, untrained", **row} for w, row in zip(robust, rows, strict=True)
  ]
  for share, (length, (errors, gains)) in zip(success, trained.items(), strict=True):
    row = {"latch": f"T = {length}, trained", "success rate": share}
    row |= {"wrong signs, median": float(np.median(errors)), "w, median": float(np.median(gains))}
    table.append(row)
  flips = [f"w = {w:g}: smallest constant input that flips the latch" for w in robust]
  rises = [later - sooner for sooner, later in itertools.pairwise(success)]
  checks: list[Check] = [
    at_most("decay rate without noise, largest distance from closed form", worst["error"], TINY),
    at_most("log₁₀(gradient / bound) in noise, largest", worst["above bound"], TINY),
    absolute("share of latches flipped by this noise, largest", worst["flipped"], 0, 0),
    *(
      relative(name, row["smallest flip"], row["u*"], 1e-4)
      for name, row in zip(flips, rows, strict=True)
    ),
    at_least("success rate, shortest minus longest T", success[0] - success[-1], 0.5),
    at_most("success rate, largest rise from one T to the next", max(rises), 0.1),
    at_most(f"latch set by hand, T = {lengths[-1]}: share of wrong signs", by_hand, SOLVED),
  ]
  notes = [
    "If every input is above −u*, the state never falls below the upper fixed point at the "
    "smallest input. From there upwards w tanh′(a) < 1. A latch that its inputs cannot flip "
    "therefore has a gradient that decays exponentially.",
    f"The latch set by hand has w = {w:g} and learned inputs ±{size:g}. Long sequences can "
    "therefore be classified, and a failure is one of training.",
    "The bounds on the fall of the success rate are our own. The paper's plot was not available "
    "to us as numbers, nor were its learning rate and number of updates.",
  ]
  curves = {w: logs for w, (_, logs) in robust.items()}
  paint = functools.partial(draw, curves=curves, lengths=lengths, success=success)
  return Outcome(table, checks, paint, notes)


def draw(
  figure: matplotlib.figure.Figure,
  curves: Mapping[float, Float[np.ndarray, "lags sequences"]],
  lengths: Sequence[int],
  success: Sequence[float],
) -> None:
  """Draws the lag profiles of latches in noise, with their bounds, and the success rates."""
  left, right = figure.subplots(1, 2)
  styles = style.value_styles(GAINS)
  for w, logs in curves.items():
    lags, color = np.arange(len(logs)), styles[w].color
    left.fill_between(lags, logs.min(axis=1), logs.max(axis=1), color=color, alpha=0.4, lw=0)
    a = fixed_point(w, SHARE * critical(w)[1])
    left.plot(lags, log_slope(w, a) / math.log(10) * lags, "--", color=color, lw=1)
    left.plot([], [], color=color, lw=4, alpha=0.4, label=f"w = {w:g}")
  left.plot([], [], "--", color=style.GRAY, lw=1, label="bound")
  left.set_xlabel("lag k, in steps")
  left.set_ylabel("log₁₀ |∂h_T/∂h_{T−k}|")
  left.set_title(f"untrained, noise of at most {SHARE} u*", fontsize=style.MEDIUM)
  left.legend(frameon=False, fontsize=style.SMALL)
  right.plot(lengths, success, "o-", color="#E69F00")
  right.set_ylim(-0.05, 1.05)
  right.set_xlabel("sequence length T")
  right.set_ylabel(f"share of seeds with at most {SOLVED:.0%} wrong signs")
  right.set_title("trained by gradient descent", fontsize=style.MEDIUM)


figure = Figure(
  title="The latch problem: a robust latch has a vanishing gradient",
  setting=f"one tanh unit. Untrained: float64, w = {', '.join(f'{w:g}' for w in GAINS)}. Trained: "
  f"w and the inputs of the first {STEPS} steps of each class, then noise N(0, {NOISE}²), initial "
  f"w = {FIRST_GAIN}, targets ±{TARGET}, gradient descent with learning rate {LEARNING_RATE:g}, "
  f"batch {BATCH}, {UPDATES} updates, {SEQUENCES} test sequences",
  source="Bengio, Simard and Frasconi, 1994, https://doi.org/10.1109/72.279181",
  seconds=50,
  run=run,
  seeds=SEEDS,
)
