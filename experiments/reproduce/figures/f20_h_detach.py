"""F20. h-detach: how fast and how reliably an LSTM learns to copy."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Array, Float, Integer, Key, PyTree

from experiments.plotting import style
from experiments.reproduce.figure import Check, Figure, Outcome, at_least, at_most
from experiments.reproduce.training import train_runs, updates
from rnn_jax.cells import lstm
from rnn_jax.estimators import h_detach
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DeepRNN
from rnn_jax.optimizers import make_optimizer
from rnn_jax.tasks import Batch, Task
from rnn_jax.training import TrainState, init_state
from rnn_jax.types import Number

ITEMS, SYMBOLS, SILENCE = 4, 4, 20
HIDDEN_SIZE, BATCH_SIZE, LEARNING_RATE, CLIP_NORM = 64, 32, 1e-3, 1.0
UPDATES, CALL = 4000, 100
PROBABILITIES = (0.0, 0.25)
SEEDS = (0, 1, 2, 3, 4)
# A run has solved the task in the first call whose mean loss is below this share of the baseline.
SOLVED = 0.1


class Run(NamedTuple):
  """The values that distinguish the runs of one compiled program."""

  seed: Number
  probability: Number


def short_copy(batch_size: int, silence: int = SILENCE) -> Task:
  """Returns the copy task with few symbols: repeat them after blanks and a signal.

    input   s_1 … s_n  ␣ × (S − 1)  !  ␣ × n        target  ␣ × (S + n)  s_1 … s_n

  `rnn_jax.tasks.copy_memory` has n = 10 and 8 symbols.
  """
  blank, signal, num_steps = SYMBOLS, SYMBOLS + 1, silence + 2 * ITEMS

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    symbols = jax.random.randint(key, (ITEMS, batch_size), 0, SYMBOLS)
    blanks = jnp.full((silence + ITEMS, batch_size), blank)
    xs = jnp.concatenate([symbols, blanks]).at[-ITEMS - 1].set(signal)
    mask = jnp.ones((num_steps, batch_size), bool)
    return Batch(xs, jnp.concatenate([blanks, symbols]), mask)

  baseline = ITEMS * math.log(SYMBOLS) / num_steps
  return Task((), (), batch, cross_entropy, "nats", baseline, SYMBOLS + 1, SYMBOLS + 2)


def train(runs: Sequence[Run], num_updates: int = UPDATES) -> Float[np.ndarray, "runs updates"]:
  """Returns the loss before each update of each run; the batches depend on the seed alone."""
  task = short_copy(BATCH_SIZE)
  model = DeepRNN([lstm(HIDDEN_SIZE)], task.output_size, task.vocabulary_size)
  optimizer = make_optimizer("adam", LEARNING_RATE, CLIP_NORM)

  def keys(run: Run) -> Key[Array, " keys"]:
    return jax.random.split(jax.random.key(run.seed), 3)

  def start(run: Run, data: PyTree) -> TrainState:
    params_key, data_key, _ = keys(run)
    return init_state(model, optimizer, params_key, task.batch(data, data_key).xs)

  def advance(
    run: Run, state: TrainState, data: PyTree
  ) -> tuple[TrainState, Float[Array, " updates"]]:
    _, data_key, detach_key = keys(run)
    estimator = h_detach(run.probability)
    return updates(
      model, optimizer, task, state, data, data_key, CALL, detach_key, estimator=estimator
    )

  calls = itertools.islice(train_runs(start, advance, runs), max(1, num_updates // CALL))
  return np.concatenate([losses for _, losses in calls], axis=1)


def smoothed(losses: Float[np.ndarray, "*runs updates"]) -> Float[np.ndarray, "*runs calls"]:
  """Returns the mean loss of each call as a share of the baseline."""
  means = losses.reshape(*losses.shape[:-1], -1, CALL).mean(axis=-1)
  return means / short_copy(1).baseline


def updates_to_solve(
  curves: Float[np.ndarray, "*runs calls"],
) -> Integer[np.ndarray, "*runs"]:
  """Returns the number of updates until the task is solved, or one call more than were made."""
  solved = curves <= SOLVED
  first = np.where(solved.any(axis=-1), solved.argmax(axis=-1), curves.shape[-1])
  return CALL * (first + 1)


def relapses(curves: Float[np.ndarray, "*runs calls"]) -> Float[np.ndarray, "*runs"]:
  """Returns the share of calls that are unsolved after the first one that is solved, else 1."""
  solved = curves <= SOLVED
  later = np.logical_or.accumulate(solved, axis=-1)
  count = later.sum(axis=-1)
  return np.where(count > 0, (later & ~solved).sum(axis=-1) / np.maximum(count, 1), 1.0)


def checks_of(curves: Float[np.ndarray, "probabilities seeds calls"]) -> list[Check]:
  """Returns the checks that compare p = 0.25 with p = 0."""
  count, unsteady = updates_to_solve(curves), relapses(curves).mean(axis=1)
  solved = (count <= CALL * curves.shape[-1]).mean(axis=1)
  none, some = PROBABILITIES.index(0.0), PROBABILITIES.index(0.25)
  medians = np.median(count, axis=1)
  return [
    at_least("p = 0.25: share of seeds that solve the task", solved[some], max(0.5, solved[none])),
    at_most("updates to solve, p = 0.25/p = 0, medians", medians[some] / medians[none], 1),
    at_most(
      "updates to solve, p = 0.25/p = 0, worst seeds", count[some].max() / count[none].max(), 1
    ),
    at_most(
      "share of unsolved calls after the first solved one, p = 0.25 − p = 0, means",
      unsteady[some] - unsteady[none],
      0,
    ),
  ]


def run() -> Outcome:
  """Trains an LSTM with each probability of detaching and each seed."""
  runs = [Run(np.uint32(seed), np.float32(p)) for p in PROBABILITIES for seed in SEEDS]
  losses = train(runs).reshape(len(PROBABILITIES), len(SEEDS), -1)
  curves = smoothed(losses)
  count, unsteady = updates_to_solve(curves), relapses(curves)
  table = [
    {
      "p": p,
      "seed": seed,
      "updates to solve": int(count[i, j]) if count[i, j] <= losses.shape[-1] else "not solved",
      "unsolved calls after the first solved one": float(unsteady[i, j]),
      f"loss of the last {CALL}/baseline": float(curves[i, j, -1]),
    }
    for i, p in enumerate(PROBABILITIES)
    for j, seed in enumerate(SEEDS)
  ]
  notes = [
    "The paper copies 10 of 8 symbols over 100 and 300 steps with 128 units, batches of 100 and up "
    "to 600,000 updates, and detaches h in all examples of a batch alike. At 100 steps it reports "
    "faster convergence with h-detach, at 300 steps also that LSTMs without it are unstable.",
    "The forget bias is 1 at initialization; in the authors' code it is uniform around 0.",
    "The delay was chosen before the first run, by training with p = 0 alone and two other seeds: "
    "with a silence of 40 their loss was 0.36 and 0.16 of the baseline after 4000 updates.",
    "Two explanations of the missed checks were tested. The first is that the path through h "
    "carries little of the gradient here. This is not so: with seeds 0 and 2 the median gradient "
    "norm is 1.6 and 1.5 for p = 0, 0.8 and 0.6 for p = 0.25, and 72 and 69 % of the updates are "
    "clipped against 34 and 23 %. The second is that the delay is too short. With a silence of 40 "
    "and seeds 0 and 1, the task is solved after 5500 and 6500 updates for p = 0, and after 5400 "
    "and 5000 for p = 0.25. Steadiness cannot be compared there: in 6500 updates, 1 of 11 calls "
    "and 0 of 1 call after the first solved one, that one included, are unsolved for p = 0, and 2 "
    "of 12 and 3 of 16 for p = 0.25. At a silence of 20, too, the check of steadiness compares "
    "few unsolved calls.",
  ]
  return Outcome(table, checks_of(curves), functools.partial(draw, curves=curves), notes)


def draw(
  figure: matplotlib.figure.Figure, curves: Float[np.ndarray, "probabilities seeds calls"]
) -> None:
  """Draws the loss of every run against the number of updates, one panel per probability."""
  axes = figure.subplots(1, len(PROBABILITIES), sharex=True, sharey=True)
  steps = (np.arange(curves.shape[-1]) + 0.5) * CALL
  for axis, p, own in zip(axes, PROBABILITIES, curves, strict=True):
    for curve in own:
      axis.semilogy(steps, curve, color="#0072B2", lw=1, alpha=0.8)
    axis.axhline(SOLVED, color="#D55E00", ls="--", lw=1, label="solved")
    axis.axhline(1, color=style.GRAY, ls=":", lw=1, label="baseline")
    axis.set_title(f"p = {p:g}", fontsize=style.MEDIUM)
    axis.set_xlabel("update")
  axes[0].set_ylabel(f"loss/baseline, mean of {CALL} updates")
  axes[0].legend(frameon=False, fontsize=style.SMALL, loc="lower left")


figure = Figure(
  title="h-detach: speed and steadiness of an LSTM that learns to copy",
  setting=f"{ITEMS} of {SYMBOLS} symbols, silence {SILENCE}, LSTM of {HIDDEN_SIZE} units, batch "
  f"{BATCH_SIZE}, Adam {LEARNING_RATE:g}, clip norm {CLIP_NORM:g}, {UPDATES} updates; solved: mean "
  f"loss of {CALL} updates at most {100 * SOLVED:g} % of the baseline",
  source="Kanuparthi et al., 2019, section 4.1, https://arxiv.org/abs/1810.03023",
  seconds=300,
  run=run,
  seeds=SEEDS,
)
