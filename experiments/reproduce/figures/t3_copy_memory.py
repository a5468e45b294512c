"""T3. Copy memory: LSTMs with chrono initialization and with a forget bias of 1."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Bool, Float, Key, PyTree

from experiments.plotting import style
from experiments.reproduce.figure import Figure, Outcome, at_least, at_most
from experiments.reproduce.training import train_runs, updates
from rnn_jax.cells import lstm
from rnn_jax.initializers import chrono_bias
from rnn_jax.modules import DeepRNN
from rnn_jax.optimizers import make_optimizer
from rnn_jax.tasks import copy_memory
from rnn_jax.training import TrainState, init_state
from rnn_jax.types import AnyArray, Array, Number

# SILENCE is the number of steps between the symbols and their recall. LONGEST is T_max of the
# chrono initialization: 3/2 · SILENCE, as in the paper.
SILENCE, LONGEST = 50, 75
HIDDEN_SIZE, BATCH_SIZE, LEARNING_RATE = 64, 32, 1e-3
# CALL is the number of updates in a call of `advance`. The final loss is the mean loss of the last
# CALL updates.
UPDATES, CALL = 6000, 100
SEEDS = (0, 1, 2)
SOLVED = 0.02
NAMES = ("forget bias 1", f"chrono({LONGEST})")


class Run(NamedTuple):
  """The values that distinguish the runs of one compiled program."""

  seed: Number
  chrono: bool | Bool[AnyArray, ""]


def train(
  seeds: tuple[int, ...], num_updates: int, hidden_size: int = HIDDEN_SIZE
) -> Float[np.ndarray, "seeds 2 updates"]:
  """Returns the loss before each update; axis 1 is the initial bias: standard, then chrono.

  The two runs of a seed have the same kernels and see the same batches.
  """
  task = copy_memory(SILENCE + 20, BATCH_SIZE)
  model = DeepRNN([lstm(hidden_size)], task.output_size, task.vocabulary_size)
  optimizer = make_optimizer("adam", LEARNING_RATE)

  def keys(run: Run) -> Key[Array, " keys"]:
    return jax.random.split(jax.random.key(run.seed), 3)

  def start(run: Run, data: PyTree) -> TrainState:
    params_key, data_key, bias_key = keys(run)
    state = init_state(model, optimizer, params_key, task.batch(data, data_key).xs)
    layer = state.params["layers_0"]["cell"]
    forget = chrono_bias(LONGEST)(bias_key, (hidden_size,))
    # The blocks are those of the gates i, f, g, o.
    chrono = jnp.concatenate([-forget, forget, jnp.zeros(2 * hidden_size)])
    layer = {**layer, "b": jnp.where(run.chrono, chrono, layer["b"])}
    return dataclasses.replace(state, params={**state.params, "layers_0": {"cell": layer}})

  def advance(
    run: Run, state: TrainState, data: PyTree
  ) -> tuple[TrainState, Float[Array, " updates"]]:
    return updates(model, optimizer, task, state, data, keys(run)[1], CALL)

  runs = [Run(np.uint32(seed), chrono) for seed in seeds for chrono in (False, True)]
  calls = itertools.islice(train_runs(start, advance, runs), max(1, num_updates // CALL))
  losses = np.concatenate([losses for _, losses in calls], axis=1)
  return losses.reshape(len(seeds), 2, -1)


def run(
  num_updates: int = UPDATES, seeds: tuple[int, ...] = SEEDS, hidden_size: int = HIDDEN_SIZE
) -> Outcome:
  """Trains an LSTM with each initialization and each seed."""
  baseline = copy_memory(SILENCE + 20, 1).baseline
  losses = train(seeds, num_updates, hidden_size)
  final = losses[:, :, -CALL:].mean(axis=2)
  table = [
    {"initialization": name, "seed": seed, f"loss of the last {CALL}": float(final[i, j])}
    for j, name in enumerate(NAMES)
    for i, seed in enumerate(seeds)
  ]
  standard, chrono = np.median(final, axis=0)
  checks = [
    *(at_most(f"{n}, worst seed", np.max(final[:, j]), baseline) for j, n in enumerate(NAMES)),
    at_most("chrono − standard, medians over seeds", chrono - standard, 0.0),
    *(at_least(f"{n}, best seed", np.min(final[:, j]), SOLVED) for j, n in enumerate(NAMES)),
  ]
  notes = [
    f"The baseline is 10 ln 8 / (T + 20) = {baseline:.4f} nats per step at silence T = {SILENCE}. "
    f"The medians are {standard:.4f} and {chrono:.4f}. A single earlier run ended at 0.250 and "
    "0.243; its first number has not been reproduced. Clipping does not explain the difference: "
    "seed 0 with clip norm 1 ends at 0.289 and 0.247.",
    "In the paper, with silences of 500 and 2000 steps, 128 units and longer training, chrono ends "
    "far below the baseline, and the standard bias stays at it.",
  ]

  return Outcome(table, checks, functools.partial(draw, losses=losses, baseline=baseline), notes)


def draw(
  figure: matplotlib.figure.Figure, losses: Float[np.ndarray, "seeds 2 updates"], baseline: float
) -> None:
  """Draws the loss of every run against the number of updates."""
  axis = figure.subplots()
  for j, (name, color) in enumerate(zip(NAMES, ("#0072B2", "#D55E00"), strict=True)):
    for i, curve in enumerate(losses[:, j]):
      smooth = curve.reshape(-1, CALL).mean(axis=1)
      label = name if i == 0 else None
      axis.plot((np.arange(len(smooth)) + 0.5) * CALL, smooth, color=color, lw=1.2, label=label)
  axis.axhline(baseline, color=style.GRAY, ls="--", lw=1, label="baseline")
  axis.set_ylim(0, 1.5 * baseline)
  axis.set_xlabel("update")
  axis.set_ylabel(f"nats per step, mean of {CALL} updates")
  axis.legend(frameon=False, fontsize=style.SMALL)


figure = Figure(
  title="Copy memory: chrono initialization against a forget bias of 1",
  setting=f"silence {SILENCE}, LSTM of {HIDDEN_SIZE} units, batch {BATCH_SIZE}, Adam "
  f"{LEARNING_RATE:g}, no clipping, {UPDATES} updates",
  source="Tallec and Ollivier, 2018, section 4, https://arxiv.org/abs/1804.11188",
  seconds=80,
  run=run,
  seeds=SEEDS,
)
