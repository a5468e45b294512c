"""F5. Bias of truncated gradients on real text, and the loss after training with them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import matplotlib.figure
import numpy as np
from jaxtyping import Float, Key, PyTree

from experiments.plotting import style
from experiments.reproduce.figure import Figure, Outcome, absolute
from experiments.reproduce.training import train_runs, updates
from rnn_jax.cells import make_cell
from rnn_jax.gradient_flow import TruncationBias, truncation_bias
from rnn_jax.losses import masked_mean
from rnn_jax.modules import DeepRNN
from rnn_jax.optimizers import make_optimizer
from rnn_jax.tasks import charlm
from rnn_jax.text import STANDARD_LIBRARY, Corpus, load_corpus
from rnn_jax.training import TrainState, init_state
from rnn_jax.types import Array, Number, Params

CELLS = ("elman", "lstm")
LENGTH, HIDDEN_SIZE, BATCH_SIZE = 100, 64, 32
TRUNCATIONS = (1, 2, 5, 10, 20, 50, LENGTH)
UPDATES, CALL, LEARNING_RATE, CLIP_NORM = 400, 50, 0.02, 1.0
SEEDS = (0, 1)
WHEN = ("before", "after")


class Run(NamedTuple):
  """The numbers that distinguish the runs of one compiled program."""

  seed: Number
  truncation: Number


class Found(NamedTuple):
  """The measurements of one cell, averaged over seeds.

  Attributes:
    cosine: cosine between the gradient truncated at k and the full gradient, for K values of k,
      before and after training without truncation.
    error: relative error of the truncated gradient, at the same two times.
    loss: mean loss of the last updates when trained with each k.
  """

  cosine: Float[np.ndarray, "2 K"]
  error: Float[np.ndarray, "2 K"]
  loss: Float[np.ndarray, " K"]


def measure(
  name: str,
  corpus: Corpus,
  truncations: tuple[int, ...],
  length: int,
  seeds: tuple[int, ...],
  num_updates: int,
) -> Found:
  """Trains a cell with each truncation and seed, and measures the bias of truncated gradients.

  The bias is measured at initialization, and with the params that were trained without truncation.
  """
  task = charlm(length, BATCH_SIZE, corpus)
  model = DeepRNN([make_cell(name, HIDDEN_SIZE)], task.output_size, task.vocabulary_size)
  optimizer = make_optimizer("adam", LEARNING_RATE, CLIP_NORM)
  apply: Callable[..., Any] = model.apply

  def keys(seed: Number) -> Key[Array, " keys"]:
    return jax.random.split(jax.random.key(seed), 3)

  def start(run: Run, data: PyTree) -> TrainState:
    params_key, data_key, _ = keys(run.seed)
    return init_state(model, optimizer, params_key, task.batch(data, data_key).xs)

  def advance(
    run: Run, state: TrainState, data: PyTree
  ) -> tuple[TrainState, Float[Array, " updates"]]:
    return updates(
      model,
      optimizer,
      task,
      state,
      data,
      keys(run.seed)[1],
      min(CALL, num_updates),
      truncation=run.truncation,
    )

  @jax.jit
  def bias(params: Params, seed: Number, data: PyTree) -> TruncationBias:
    batch = task.batch(data, keys(seed)[2])

    def loss(ys: Float[Array, "T B H"]) -> Float[Array, ""]:
      outputs = apply({"params": params}, ys, method=DeepRNN.readout)
      return masked_mean(task.loss(outputs, batch.targets), batch.mask)

    return truncation_bias(
      *model.trunk({"params": params}, batch.xs), loss, truncations=truncations
    )

  runs = [Run(np.uint32(seed), np.int32(k)) for seed in seeds for k in truncations]
  calls = train_runs(start, advance, runs, task.data)
  *_, (states, losses) = itertools.islice(calls, max(1, num_updates // CALL))
  biases = []
  for i, seed in enumerate(seeds):
    last = (i + 1) * len(truncations) - 1  # index of the run without truncation
    first = jax.jit(start)(runs[last], task.data)
    trained = jax.tree.map(lambda a, place=last: a[place], states)
    biases += [bias(state.params, seed, task.data) for state in (first, trained)]
  cosine, error = (
    np.mean(np.reshape(values, (len(seeds), 2, -1)), axis=0)
    for values in ([b.cosine for b in biases], [b.relative_error for b in biases])
  )
  return Found(cosine, error, np.asarray(losses).mean(axis=1).reshape(len(seeds), -1).mean(axis=0))


def run(
  source: str = STANDARD_LIBRARY,
  truncations: tuple[int, ...] = TRUNCATIONS,
  length: int = LENGTH,
  seeds: tuple[int, ...] = SEEDS,
  num_updates: int = UPDATES,
) -> Outcome:
  """Measures each truncation's bias, and the loss after training with it, for each of CELLS.

  Args:
    source: path of a text file, or `stdlib` for the source of Python's standard library.
    truncations: ascending values of k; the last is T.
    length: T, the number of steps of a sequence.
    seeds: seeds of params and batches.
    num_updates: number of updates of each run.
  """
  corpus = load_corpus(source)
  found = {name: measure(name, corpus, truncations, length, seeds, num_updates) for name in CELLS}
  table = [
    {
      "cell": name,
      "k": k,
      "cosine before": float(of.cosine[0, i]),
      "relative error before": float(of.error[0, i]),
      "cosine after": float(of.cosine[1, i]),
      "relative error after": float(of.error[1, i]),
      f"loss after training with k, mean of the last {CALL}": float(of.loss[i]),
    }
    for name, of in found.items()
    for i, k in enumerate(truncations)
  ]
  checks = [
    check
    for name, of in found.items()
    for check in (
      absolute(
        f"{name}, k = T: |cosine − 1|, largest", np.max(np.abs(of.cosine[:, -1] - 1)), 0, 1e-5
      ),
      absolute(f"{name}, k = T: relative error, largest", of.error[:, -1].max(), 0, 1e-5),
    )
  ]
  notes = [
    "Before: at initialization. After: with the params of the run trained without truncation. "
    "Gradients are cut before steps k, 2k, …, so the gradient of a step's loss reaches back "
    "(k − 1) / 2 steps on average.",
    "After the same number of updates, the loss is lowest at k = "
    + ", ".join(f"{truncations[np.argmin(of.loss)]} ({name})" for name, of in found.items())
    + ": in a short training, a biased gradient may learn more than the exact one.",
    f"Text: {corpus.name}, {len(corpus.text)} bytes, SHA-256 {corpus.sha256[:16]}…, without its "
    "held-out end.",
  ]

  return Outcome(
    table, checks, functools.partial(draw, found=found, truncations=truncations), notes
  )


def draw(
  figure: matplotlib.figure.Figure, found: Mapping[str, Found], truncations: tuple[int, ...]
) -> None:
  """Draws cosine, relative error and loss against the truncation k."""
  axes = figure.subplots(1, 3)
  styles = style.cell_styles(found)
  for name, of in found.items():
    look = {"color": styles[name].color, "marker": styles[name].marker, "ms": 4}
    for axis, values in ((axes[0], of.cosine), (axes[1], of.error)):
      for row, when, line in zip(values, WHEN, ("--", "-"), strict=True):
        axis.plot(truncations, row, line, label=f"{name}, {when}", **look)
    axes[2].plot(truncations, of.loss, label=name, **look)
  for axis, label in zip(
    axes, ("cosine", "relative error", "loss after training, nats"), strict=True
  ):
    axis.set_xscale("log")
    axis.set_xlabel("truncation k, in steps", fontsize=style.MEDIUM)
    axis.set_title(label, fontsize=style.MEDIUM)
    axis.tick_params(labelsize=style.SMALL)
  axes[0].legend(frameon=False, fontsize=style.SMALL)


figure = Figure(
  title="Truncated gradients on real text: direction, norm, and loss after training",
  setting=f"character model, T = {LENGTH}, {HIDDEN_SIZE} units, batch {BATCH_SIZE}, Adam "
  f"{LEARNING_RATE:g}, clip norm {CLIP_NORM:g}, {UPDATES} updates; source of "
  "Python's standard library",
  source="own measurement; after Aicher et al., 2019, https://arxiv.org/abs/1905.07473",
  seconds=50,
  run=run,
  seeds=SEEDS,
)
