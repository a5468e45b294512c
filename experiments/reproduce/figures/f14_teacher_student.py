"""F14. The curse of memory in learning: linear recurrent students of teachers of growing memory.

One unit, h' = λ h + x, that learns from a unit with the eigenvalue λ*: the loss's Hessian at the
optimum, E(dh/dλ)², grows like (1 − |λ|)⁻³. In the LRU, h' = λ h + γ x with λ = exp(−e^ν) and
γ = √(1 − λ²) at initialization, the Hessian with respect to ν is at most ½.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
from jaxtyping import Float, PyTree

from experiments.plotting import style
from experiments.reproduce.figure import Check, Figure, Outcome, at_least, at_most
from experiments.reproduce.training import SeedAndRate, train_runs, updates
from rnn_jax import unroll
from rnn_jax.cells import elman, lru
from rnn_jax.modules import DeepRNN
from rnn_jax.optimizers import learning_rate_schedule, make_optimizer
from rnn_jax.tasks import teacher_student
from rnn_jax.training import TrainState, init_state
from rnn_jax.types import Array, Cell

# One unit: eigenvalues λ* of the teacher, those of the student as a share of them, and the number
# of steps, after which 0.99^2T < 1e-20. The inputs have the autocorrelation ρ^lag.
DECAYS, SHARE, STEPS = (0.5, 0.9, 0.99), 0.95, 2500
CORRELATIONS = (0.0, 0.9)
TOLERANCE = 1e-9
# Trained students. The teacher has |λ| = e^(−1/M) with the memory M.
MEMORIES, LENGTH, HIDDEN_SIZE = (2.0, 10.0, 50.0), 100, 32
BATCH_SIZE, UPDATES, LAST, CLIP_NORM = 16, 600, 50, 1.0
SEEDS = (0, 1, 2)
# Learning rates from the authors' scans, of which the best is taken for each memory.
RATES = {"dense": (0.001, 0.0032), "LRU": (0.01, 0.032)}
COLORS = {"dense": "#D55E00", "LRU": "#0072B2"}


def linear_response(decay: Float[Array, ""]) -> Float[Array, " T"]:
  """Returns the response of h' = λ h + x to an impulse."""
  params = {"w_x": jnp.ones((1, 1)), "w_h": decay.reshape(1, 1), "b": jnp.zeros(1)}
  return _response(elman(1, activation="linear"), params)


def lru_response(nu: Float[Array, ""], gamma: Float[Array, ""]) -> Float[Array, " T"]:
  """Returns the response of h' = λ h + γ x to an impulse, where λ = exp(−e^ν)."""
  params = {
    "w_x": jnp.asarray([[1.0, 0.0, 0.0]]),
    "nu": nu.reshape(1),
    "theta": jnp.full(1, -1e3),  # the phase of λ is e^θ = 0
    "gamma": jnp.log(gamma).reshape(1),
    "c_re": jnp.ones((1, 1)),
    "c_im": jnp.zeros((1, 1)),
  }
  return _response(lru(1), params)


def _response(cell: Cell, params: Mapping[str, Array]) -> Float[Array, " T"]:
  impulse = jnp.zeros((STEPS, 1, 1)).at[0].set(1.0)
  _, ys = unroll(cell, params, impulse)
  return ys[:, 0, 0]


def expected_loss(
  student: Float[Array, " T"], teacher: Float[Array, " T"], correlation: Float[Array, ""]
) -> Float[Array, ""]:
  """Returns ½ E(h − h*)² for inputs of unit variance, given the responses to an impulse.

  h − h* is a sum over lags of the inputs times the difference of the responses.
  """
  lags = np.abs(np.subtract.outer(np.arange(STEPS), np.arange(STEPS)))
  difference = student - teacher
  return difference @ correlation**lags @ difference / 2


def linear_loss(
  decay: Float[Array, ""], best: Float[Array, ""], correlation: Float[Array, ""]
) -> Float[Array, ""]:
  """Returns the expected loss of a student with the eigenvalue `decay`, the teacher's is `best`."""
  return expected_loss(linear_response(decay), linear_response(best), correlation)


def lru_loss(
  nu: Float[Array, ""], best: Float[Array, ""], gamma: Float[Array, ""]
) -> Float[Array, ""]:
  """Returns the expected loss of an LRU for white inputs; ν of the teacher is `best`."""
  return expected_loss(lru_response(nu, gamma), lru_response(best, gamma), jnp.zeros(()))


def curvature_formula(decay: float, correlation: float) -> float:
  """Returns E(dh/dλ)² of h' = λ h + x for inputs with the autocorrelation ρ^lag."""
  p, q, rho = decay**2, decay * correlation, correlation
  above = (1 + p) * (1 - q**2) + 2 * (1 - p) * decay * rho
  return above / ((1 - p) ** 3 * (1 - q) ** 2)


def lru_formula(decay: float) -> float:
  """Returns E(dh/dν)² = (1 + λ²) λ² ln²λ / (1 − λ²)² for white inputs, with γ² = 1 − λ²."""
  return float((1 + decay**2) * (decay * np.log(decay)) ** 2 / (1 - decay**2) ** 2)


def one_unit() -> list[dict[str, float]]:
  """Returns, for each λ*, loss, gradient and Hessians by differentiation and in closed form."""
  first = jax.jit(jax.value_and_grad(linear_loss))
  second, scaled = jax.jit(jax.hessian(linear_loss)), jax.jit(jax.hessian(lru_loss))
  rows = []
  for best in DECAYS:
    now, nu, gamma = SHARE * best, np.log(-np.log(best)), np.sqrt(1 - best**2)
    with jax.enable_x64(True):
      loss, slope = first(*map(jnp.asarray, (now, best, 0.0)))
      curvatures = [second(*map(jnp.asarray, (best, best, rho))) for rho in CORRELATIONS]
      of_lru = scaled(*map(jnp.asarray, (nu, nu, gamma)))
    row = {
      "λ*": best,
      "loss": float(loss),
      "loss, formula": (1 / (1 - now**2) + 1 / (1 - best**2) - 2 / (1 - now * best)) / 2,
      "gradient": float(slope),
      "gradient, formula": now / (1 - now**2) ** 2 - best / (1 - now * best) ** 2,
    }
    for rho, curvature in zip(CORRELATIONS, curvatures, strict=True):
      row[f"Hessian, ρ = {rho:g}"] = float(curvature)
      row[f"Hessian, ρ = {rho:g}, formula"] = curvature_formula(best, rho)
    row |= {"LRU, Hessian": float(of_lru), "LRU, Hessian, formula": lru_formula(best)}
    rows.append(row)
  return rows


def students(size: int, radius: float) -> dict[str, Cell]:
  """Returns the students of `size` units, whose eigenvalues start with a modulus ≥ `radius`."""
  return {
    "dense": elman(size, activation="linear", recurrent_gain=radius),
    "LRU": lru(size, min_radius=radius),
  }


def train(
  name: str, memory: float, runs: Sequence[SeedAndRate], num_updates: int, size: int
) -> Float[np.ndarray, " runs"]:
  """Returns the error of each run, the mean loss of the last updates divided by the baseline."""
  task = teacher_student(LENGTH, BATCH_SIZE, memory)
  cell = students(size, float(np.exp(-1 / memory)))[name]
  model = DeepRNN([cell], task.output_size)

  def optimizer(run: SeedAndRate) -> optax.GradientTransformation:
    schedule = learning_rate_schedule("cosine", run.learning_rate, num_updates)
    return make_optimizer("adam", schedule, CLIP_NORM)

  def start(run: SeedAndRate, data: PyTree) -> TrainState:
    params_key, data_key = jax.random.split(jax.random.key(run.seed))
    return init_state(model, optimizer(run), params_key, task.batch(data, data_key).xs)

  def advance(
    run: SeedAndRate, state: TrainState, data: PyTree
  ) -> tuple[TrainState, Float[Array, " updates"]]:
    _, data_key = jax.random.split(jax.random.key(run.seed))
    return updates(model, optimizer(run), task, state, data, data_key, num_updates)

  _, losses = next(train_runs(start, advance, runs))
  error = np.asarray(losses)[:, -LAST:].mean(axis=1) / task.baseline
  return np.where(np.isfinite(error), error, np.inf)


def trained(
  num_updates: int, seeds: Sequence[int], size: int
) -> dict[str, Float[np.ndarray, "memories seeds"]]:
  """Returns each student's errors at the learning rate whose median over seeds is the smallest."""
  found = {}
  for name, rates in RATES.items():
    runs = [SeedAndRate(np.uint32(seed), np.float32(rate)) for rate in rates for seed in seeds]
    errors = np.stack([train(name, memory, runs, num_updates, size) for memory in MEMORIES])
    errors = errors.reshape(len(MEMORIES), len(rates), len(seeds))
    best = np.median(errors, axis=2).argmin(axis=1)
    found[name] = errors[np.arange(len(MEMORIES)), best]
  return found


def run(
  num_updates: int = UPDATES, seeds: Sequence[int] = SEEDS, size: int = HIDDEN_SIZE
) -> Outcome:
  """Compares one unit with its closed forms, and trains both students on every teacher."""
  rows, errors = one_unit(), trained(num_updates, seeds, size)
  checks: list[Check] = []
  for name in [name for name in rows[0] if f"{name}, formula" in rows[0]]:
    worst = max(abs(row[name] / row[f"{name}, formula"] - 1) for row in rows)
    checks.append(at_most(f"one unit, {name}: largest relative error", worst, TOLERANCE))
  checks.append(at_most("LRU, Hessian: largest", max(row["LRU, Hessian"] for row in rows), 0.5))
  median = {name: np.median(error, axis=1) for name, error in errors.items()}
  growth = {name: float(np.log10(error[-1] / error[0])) for name, error in median.items()}
  grown = "log₁₀ of the growth of the error, M = 2 to 50"
  checks += [
    at_least(f"{grown}, dense", growth["dense"], 0.0),
    at_least(f"{grown}, dense − LRU", growth["dense"] - growth["LRU"], 0.0),
    at_most("M = 50: error of the LRU / of dense", median["LRU"][-1] / median["dense"][-1], 1.0),
  ]
  table: list[Mapping[str, object]] = [
    *rows,
    *(
      {"M": memory, "student": name, "|λ|": float(np.exp(-1 / memory))}
      | {f"error, seed {seed}": float(e) for seed, e in zip(seeds, error[i], strict=True)}
      for name, error in errors.items()
      for i, memory in enumerate(MEMORIES)
    ),
  ]
  notes = [
    "The authors' scans, https://github.com/NicolasZucchet/"
    "Vanishing-and-exploding-gradients-are-not-the-end-of-the-story, have students of 64 units, "
    "T = 300, 10 seeds, moduli from 0.36 to 0.99 and five learning rates for each student. Their "
    "students, too, start with moduli as large as the teacher's.",
  ]
  return Outcome(table, checks, functools.partial(draw, rows=rows, errors=errors), notes)


def draw(
  figure: matplotlib.figure.Figure,
  rows: Sequence[Mapping[str, float]],
  errors: Mapping[str, Float[np.ndarray, "memories seeds"]],
) -> None:
  """Draws the Hessian of one unit, and the errors of the students, against 1 − |λ|."""
  left, right = figure.subplots(1, 2)
  gap = np.geomspace(0.005, 0.5, 100)
  formulas: Mapping[str, Callable[[float], float]] = {
    "Hessian, ρ = 0": lambda decay: curvature_formula(decay, 0.0),
    "LRU, Hessian": lru_formula,
  }
  for (name, formula), color in zip(formulas.items(), COLORS.values(), strict=True):
    left.loglog(gap, [formula(1 - g) for g in gap], color=color, lw=1)
    left.loglog([1 - row["λ*"] for row in rows], [row[name] for row in rows], "o", color=color)
  left.set_ylabel("Hessian of one unit at the optimum")
  moduli = 1 - np.exp(-1 / np.array(MEMORIES))
  for name, error in errors.items():
    right.loglog(moduli, np.median(error, axis=1), color=COLORS[name], lw=1.2)
    for one in error.T:
      right.loglog(moduli, one, "o", color=COLORS[name], ms=4, alpha=0.6)
    right.plot([], [], "o-", color=COLORS[name], label=f"{name} (lines: median, closed form)")
  right.set_ylabel("error / baseline after training")
  right.set_xticks(moduli, [f"{gap:.2g}" for gap in moduli])
  right.xaxis.minorticks_off()
  for axis in (left, right):
    axis.set_xlabel("1 − |λ| of the teacher")
    axis.invert_xaxis()
  figure.legend(loc="outside lower center", frameon=False, fontsize=style.SMALL, ncols=2)


figure = Figure(
  title="The curse of memory in learning: dense linear students and LRUs",
  setting=f"one unit: {STEPS} steps, float64; students of {HIDDEN_SIZE} units, teachers of 10 "
  f"complex modes and a memory M of {', '.join(f'{m:g}' for m in MEMORIES)} steps, T = {LENGTH}, "
  f"batch {BATCH_SIZE}, Adam with cosine decay, clip norm {CLIP_NORM:g}, {UPDATES} updates, best "
  f"of two learning rates; error: mean loss of the last {LAST} updates / baseline",
  source="Zucchet and Orvieto, 2024, sections 3 and 4, https://arxiv.org/abs/2405.21064",
  seconds=120,
  run=run,
  seeds=SEEDS,
)
