"""T4. A character model that memorizes 10,000 characters, as in Dive into Deep Learning."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Float, Integer, Key

from experiments.plotting import style as plot_style
from experiments.reproduce.figure import Figure, Outcome, at_most
from experiments.reproduce.training import train_runs
from rnn_jax.cells import make_cell
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DeepRNN
from rnn_jax.optimizers import make_optimizer
from rnn_jax.tasks import Batch
from rnn_jax.text import STANDARD_LIBRARY, build_vocabulary, entropy, histogram, load_corpus
from rnn_jax.training import TrainState, init_state
from rnn_jax.types import Array, Number
from rnn_jax.windows import train_windows

CHARACTERS = 10_000
BATCH_SIZE, WINDOW, HIDDEN_SIZE = 32, 35, 256
LEARNING_RATE, CLIP_NORM = 1.0, 1.0
EPOCHS, CALL = 500, 10  # CALL: epochs per call of `advance`
# The median over this many last epochs is checked, since the perplexity of a single epoch may jump
# at this learning rate.
TAIL = 50
SEEDS = (0, 1)
LIMITS = {"elman": 1.5, "gru": 1.2, "lstm": 1.2}


def train(
  cell: str,
  tokens: Integer[np.ndarray, " tokens"],
  seeds: tuple[int, ...],
  epochs: int,
  hidden_size: int,
) -> Float[np.ndarray, "seeds epochs"]:
  """Returns the training perplexity of every epoch.

  In each epoch, the text after a random offset below WINDOW is cut into 32 contiguous lanes, which
  are the rows of the batch. Lanes are read window by window, and each window starts from the carry
  of the one before. The book calls this "sequential partitioning".
  """
  size = int(tokens.max()) + 1
  length = (len(tokens) - WINDOW - 1) // BATCH_SIZE // WINDOW * WINDOW
  model = DeepRNN([make_cell(cell, hidden_size)], size, size)
  optimizer = make_optimizer("sgd", LEARNING_RATE, CLIP_NORM)

  def start(seed: Number, tokens: Integer[Array, " tokens"]) -> TrainState:
    del tokens
    return init_state(model, optimizer, jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))

  def epoch(
    tokens: Integer[Array, " tokens"], state: TrainState, key: Key[Array, ""]
  ) -> tuple[TrainState, Float[Array, ""]]:
    offset = jax.random.randint(key, (), 0, WINDOW)
    count = (len(tokens) - WINDOW - 1) // BATCH_SIZE
    places = offset + jnp.arange(length)[:, None] + count * jnp.arange(BATCH_SIZE)[None]
    mask = jnp.ones((length, BATCH_SIZE), bool)
    stream = Batch(tokens[places], tokens[places + 1], mask)
    state, _, metrics = train_windows(model, optimizer, cross_entropy, state, stream, WINDOW)
    return state, jnp.exp(jnp.mean(metrics.loss))

  def advance(
    seed: Number, state: TrainState, tokens: Integer[Array, " tokens"]
  ) -> tuple[TrainState, Float[Array, " epochs"]]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    return jax.lax.scan(functools.partial(epoch, tokens), state, jax.random.split(key, CALL))

  runs, data = [np.uint32(seed) for seed in seeds], jnp.asarray(tokens, jnp.int32)
  calls = itertools.islice(train_runs(start, advance, runs, data), max(1, epochs // CALL))
  return np.concatenate([perplexities for _, perplexities in calls], axis=1)


def run(
  source: str = STANDARD_LIBRARY,
  characters: int = CHARACTERS,
  seeds: tuple[int, ...] = SEEDS,
  epochs: int = EPOCHS,
  hidden_size: int = HIDDEN_SIZE,
) -> Outcome:
  """Trains each cell on the beginning of a text.

  Args:
    source: path of a text file, or `stdlib` for the source of Python's standard library.
    characters: number of characters to train on, from the beginning of the text.
    seeds: seeds for the initial params and the epochs' offsets.
    epochs: number of passes over these characters.
    hidden_size: number of units.
  """
  corpus = load_corpus(source)
  text = corpus.text[:characters]
  vocabulary = build_vocabulary(text)
  tokens = vocabulary.encode(text)
  unigram = math.exp(entropy(histogram(tokens, vocabulary.size)))
  curves = {cell: train(cell, tokens, seeds, epochs, hidden_size) for cell in LIMITS}
  table = [
    {
      "cell": cell,
      "seed": seed,
      "perplexity: first epoch": float(curve[0]),
      "last epoch": float(curve[-1]),
      f"median of the last {TAIL}": float(np.median(curve[-TAIL:])),
      "minimum": float(curve.min()),
    }
    for cell, found in curves.items()
    for seed, curve in zip(seeds, found, strict=True)
  ]
  checks = [
    at_most(
      f"{cell}, median of the last {TAIL} epochs, worst seed",
      np.median(found[:, -TAIL:], axis=1).max(),
      LIMITS[cell],
    )
    for cell, found in curves.items()
  ]
  notes = [
    f"Text: the first {len(text)} bytes of {corpus.name}, {vocabulary.size} distinct, SHA-256 of "
    f"the whole text {corpus.sha256[:16]}…; the perplexity of byte frequencies alone is "
    f"{unigram:.1f}. The book uses The Time Machine, with 28 distinct characters, and its "
    "perplexities are 1.0 to 1.5.",
    "Randomly drawn windows would not do: each starts from a zero carry, and identifying the "
    "window costs the entropy of the windows minus that of the first character, so no model gets "
    f"below {(len(tokens) / unigram) ** (1 / WINDOW):.2f}.",
  ]

  return Outcome(table, checks, functools.partial(draw, curves=curves), notes)


def draw(
  figure: matplotlib.figure.Figure, curves: Mapping[str, Float[np.ndarray, "seeds epochs"]]
) -> None:
  """Draws the training perplexity of every run against the epoch."""
  axis = figure.subplots()
  styles = plot_style.cell_styles(curves)
  for cell, found in curves.items():
    for i, curve in enumerate(found):
      style = styles[cell]
      label = cell if i == 0 else None
      axis.semilogy(
        np.arange(1, len(curve) + 1), curve, color=style.color, lw=style.width, label=label
      )
  for limit in sorted(set(LIMITS.values())):
    axis.axhline(limit, color=plot_style.GRAY, ls=":", lw=1, label=f"{limit:g}")
  axis.set_xlabel("epoch")
  axis.set_ylabel("training perplexity")
  axis.legend(frameon=False, fontsize=plot_style.SMALL)


figure = Figure(
  title="Character model on 10,000 characters",
  setting=f"{HIDDEN_SIZE} units, batch {BATCH_SIZE}, windows of {WINDOW} steps with the carry "
  f"passed on, gradient descent with learning rate {LEARNING_RATE:g}, clip norm {CLIP_NORM:g}, "
  f"{EPOCHS} epochs; source of Python's standard library",
  source="Zhang et al., Dive into Deep Learning, sections 9.5, 9.6, 10.1 and 10.2, https://d2l.ai",
  seconds=180,
  run=run,
  seeds=SEEDS,
)
