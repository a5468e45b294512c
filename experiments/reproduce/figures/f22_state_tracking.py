"""F22. State tracking: parity and S₃ by linear recurrences, and what their eigenvalues decide.

The linear recurrences are h' = A(x) h + b(x). In minGRU, A is diagonal with eigenvalues in (0, 1).
In DeltaNet, A = I − β kᵀ k has one eigenvalue 1 − β, in (0, 1) or in (−1, 1); all others are 1.
With one unit per head, A is diagonal. With two steps per token, the matrix of a token is a product
of two such matrices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Bool, Float, Integer, PyTree

from experiments.plotting import style
from experiments.reproduce.figure import Check, Figure, Outcome, absolute, at_least, at_most
from experiments.reproduce.training import SeedAndRate, train_and_test
from rnn_jax import unroll
from rnn_jax.cells import delta_net, elman, mingru
from rnn_jax.modules import DeepRNN
from rnn_jax.tasks import Batch, Task, parity, s3
from rnn_jax.types import Array, Cell

HIDDEN_SIZE, NUM_HEADS = 64, 8
BATCH_SIZE, CLIP_NORM = 32, 1.0
SEEDS, LEARNING_RATES = (0, 1, 2), (0.003, 0.01)
# A score is the mean over the lengths from FIRST to LAST, as in the paper.
FIRST, LAST, SEQUENCES = 40, 256, 256
# In the paper, scores on parity are near 0 with positive eigenvalues, and 1 with negative ones.
AT_CHANCE, SOLVED = 0.1, 0.9
# On S₃, a network that knows only the sign of the permutation scores (1/3 − 1/6)/(5/6) = 0.2. The
# limit is higher, because short products can be memorized.
ONLY_SIGN = 0.3
ONES = 200  # length of the sequences of the closed forms


class Setting(NamedTuple):
  """A task, the length of its training sequences, and the number of updates."""

  task: Callable[[int, int], Task]
  length: int
  updates: int


class Method(NamedTuple):
  """A cell, the number of steps that it makes for each token, and the color of its line."""

  cell: Cell
  steps: int
  color: str


POSITIVE, DIAGONAL, REFLECTION = "DeltaNet (0, 1)", "DeltaNet, diagonal (−1, 1)", "DeltaNet (−1, 1)"
PRODUCT = "DeltaNet (−1, 1), 2 steps per token"
MINGRU, ELMAN = "minGRU, diagonal (0, 1)", "Elman"
SETTINGS = {"parity": Setting(parity, 40, 800), "S₃": Setting(s3, 20, 1500)}


def methods(size: int, heads: int) -> dict[str, Method]:
  """Returns the methods by name, with cells of `size` units and DeltaNets of `heads` heads."""
  reflection = delta_net(size, num_heads=heads, negative_eigenvalues=True)
  return {
    MINGRU: Method(mingru(size), 1, "#999999"),
    POSITIVE: Method(delta_net(size, num_heads=heads), 1, "#CC79A7"),
    DIAGONAL: Method(delta_net(size, num_heads=size, negative_eigenvalues=True), 1, "#E69F00"),
    REFLECTION: Method(reflection, 1, "#56B4E9"),
    PRODUCT: Method(reflection, 2, "#0072B2"),
    ELMAN: Method(elman(size), 1, "#000000"),
  }


# The limits of the best score, on each task, of the methods that are trained on it.
LIMITS = {
  "parity": {
    MINGRU: AT_CHANCE,
    POSITIVE: AT_CHANCE,
    DIAGONAL: SOLVED,
    REFLECTION: SOLVED,
    ELMAN: SOLVED,
  },
  "S₃": {DIAGONAL: ONLY_SIGN, REFLECTION: ONLY_SIGN, PRODUCT: SOLVED, ELMAN: SOLVED},
}


def spread(task: Task, steps: int) -> Task:
  """Returns the task with `steps` tokens for each token x: x·steps, …, x·steps + steps − 1.

  The answer is due at the last of them. A DeltaNet on this task has the state-transition matrices
  of DeltaProduct, products of `steps` generalized Householder matrices per token.
  """
  assert task.vocabulary_size is not None

  def batch(data: PyTree, key: Array) -> Batch:
    xs, targets, mask, _ = task.batch(data, key)
    offsets = jnp.arange(steps, dtype=xs.dtype)[None, :, None]
    tokens = (xs[:, None] * steps + offsets).reshape(-1, xs.shape[1])
    due = jnp.repeat(mask, steps, axis=0) & (jnp.arange(len(tokens)) % steps == steps - 1)[:, None]
    return Batch(tokens, jnp.repeat(targets, steps, axis=0), due)

  return task._replace(batch=batch, vocabulary_size=task.vocabulary_size * steps)


def train(
  setting: Setting, method: Method, runs: Sequence[SeedAndRate]
) -> Float[np.ndarray, "runs lengths"]:
  """Returns the score of each run at each length from 1 to LAST, on fresh sequences.

    score = (accuracy − chance) / (1 − chance)

  As cells are causal, the score at length t is that at step t of longer sequences.
  """
  task = spread(setting.task(setting.length, BATCH_SIZE), method.steps)
  test = spread(setting.task(LAST, SEQUENCES), method.steps)
  model = DeepRNN([method.cell], task.output_size, task.vocabulary_size)

  def score(right: Bool[Array, "T B"], _: Batch) -> Float[Array, " lengths"]:
    return jnp.mean(right, axis=1, dtype=float)[method.steps - 1 :: method.steps]

  accuracy = train_and_test(model, task, test, runs, setting.updates, CLIP_NORM, score)
  chance = 1 / task.output_size
  return (accuracy - chance) / (1 - chance)


def respond(
  logit: float, negative: bool, ones: Integer[np.ndarray, " T"]
) -> Float[np.ndarray, " T"]:
  """Returns y_t of a DeltaNet of one unit, with handmade params, on a sequence of zeros and ones.

    token 1: S' = (1 − β) S + β/2      token 0: S' = S      y = S'

  With β = 2, S' = 1 − S, so y is the parity of the ones so far.

  Args:
    logit: the logit of β at token 1. The sigmoid of a large number is 1 in floating point.
    negative: whether β is up to 2 instead of 1, as the option `negative_eigenvalues` says.
    ones: the tokens.
  """
  cell = delta_net(1, negative_eigenvalues=negative)
  with jax.enable_x64(True):
    # The columns are q, k, v and β. Since q and k are large, they have unit norm.
    w_x = jnp.asarray([[1e9, 1e9, 0.0, -800.0], [1e9, 1e9, 0.5, logit]], float)
    _, ys = unroll(cell, {"w_x": w_x}, jnp.asarray(ones)[:, None])
    return np.asarray(ys[:, 0, 0])


def closed_forms() -> list[Check]:
  """Returns the checks of the eigenvalue −1 on random bits, and of 0.9 on a run of ones."""
  bits = np.random.default_rng(0).integers(0, 2, ONES)
  error = np.abs(respond(800.0, True, bits) - np.cumsum(bits) % 2).max()
  decay = 0.9
  gaps = np.diff(respond(math.log(1 / decay - 1), False, np.ones(ONES, int)))
  exact = (1 - decay) / 2 * decay ** np.arange(1, ONES)
  return [
    absolute("eigenvalue −1, by hand: |y − parity|, maximum", error, 0, 1e-9),
    at_most(
      "eigenvalue 0.9, n ones: |y(n + 1) − y(n)| against 0.05 · 0.9ⁿ, largest relative error",
      np.abs(gaps / exact - 1).max(),
      1e-6,
    ),
  ]


def run(
  settings: Mapping[str, Setting] = SETTINGS,
  size: int = HIDDEN_SIZE,
  heads: int = NUM_HEADS,
  seeds: Sequence[int] = SEEDS,
) -> Outcome:
  """Trains the methods on both tasks, and checks the best run of each, as the paper does."""
  checks, table = closed_forms(), []
  curves: dict[tuple[str, str], Float[np.ndarray, " lengths"]] = {}
  for task, limits in LIMITS.items():
    for name, limit in limits.items():
      runs = [SeedAndRate(np.uint32(s), np.float32(rate)) for rate in LEARNING_RATES for s in seeds]
      found = train(settings[task], methods(size, heads)[name], runs)
      score = found[:, FIRST - 1 :].mean(axis=1).reshape(len(LEARNING_RATES), len(seeds))
      rate, _ = np.unravel_index(score.argmax(), score.shape)
      best = curves[task, name] = found[score.argmax()]
      table.append(
        {
          "task": task,
          "cell": name,
          "best score": float(score.max()),
          "median over seeds": float(np.median(score[rate])),
          "learning rate": LEARNING_RATES[rate],
          "best run at the training length": float(best[settings[task].length - 1]),
        }
      )
      check = at_least if limit == SOLVED else at_most
      checks.append(check(f"{task}, {name}: best score", float(score.max()), limit))
  notes = [
    "The paper trains larger networks on parity at lengths up to 40 and tests them at 40 to 256. "
    "With eigenvalues in [0, 1] they guess; with [−1, 1] they have perfect scores (its figure 1).",
    "A recurrence with real eigenvalues cannot track the powers of a 3-cycle, which has order 3, "
    "as the paper proves. A product of two reflections can. What is left of S₃ is the sign of the "
    "permutation, with a score of 0.2.",
    "DeltaNet (−1, 1) on parity, and with 2 steps per token on S₃, has a score of 1 at the "
    "training length and somewhat beyond it, and loses the state at greater lengths. Too few "
    "updates were tested as explanation, at a rate of 0.01. With 3200 updates on parity, the "
    "three seeds have scores of 0.97, 0.99 and 0.93. With 6000 updates on S₃, they have scores of "
    "0.42, 0.47 and 0.53, and at least 0.99 up to lengths of 83 to 95. So too few updates explain "
    "the missed check on parity, but only a part of that on S₃. With 3000 updates on S₃ at T = 40 "
    "instead of 20, scores are 0.85, 0.94 and 0.89, at least 0.99 up to lengths of 159 to 193.",
  ]
  return Outcome(table, checks, functools.partial(draw, curves=curves, settings=settings), notes)


def draw(
  figure: matplotlib.figure.Figure,
  curves: Mapping[tuple[str, str], Float[np.ndarray, " lengths"]],
  settings: Mapping[str, Setting],
) -> None:
  """Draws the score of the best run of each method against the length, one panel per task."""
  axes = figure.subplots(1, len(LIMITS), sharey=True)
  colors = {name: method.color for name, method in methods(1, 1).items()}
  # Later lines are thinner, so that lines of equal score remain visible.
  widths = dict(zip(colors, np.linspace(4.0, 0.8, len(colors)), strict=True))
  for axis, task in zip(axes, LIMITS, strict=True):
    for (of, name), curve in curves.items():
      if of == task:
        lengths = np.arange(1, len(curve) + 1)
        axis.plot(lengths, curve, color=colors[name], lw=widths[name])
    axis.axvline(settings[task].length, color=style.GRAY, ls="--", lw=0.8)
    axis.set_title(f"{task}, training up to the dashed line", fontsize=style.MEDIUM)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("length of the sequence")
  axes[0].set_ylabel("(accuracy − chance) / (1 − chance)")
  for name, color in colors.items():
    axes[0].plot([], [], color=color, label=name)
  figure.legend(loc="outside lower center", frameon=False, fontsize=style.SMALL, ncols=3)


figure = Figure(
  title="State tracking: what the eigenvalues of a linear recurrence decide",
  setting=f"one layer of {HIDDEN_SIZE} units, DeltaNet with {NUM_HEADS} heads; Adam with rates "
  f"{LEARNING_RATES[0]:g} and {LEARNING_RATES[1]:g}, batch {BATCH_SIZE}, clip norm {CLIP_NORM:g}; "
  + ", ".join(f"{name}: T = {s.length}, {s.updates} updates" for name, s in SETTINGS.items())
  + f"; best run by the mean score at lengths {FIRST} to {LAST}, {SEQUENCES} sequences",
  source="Grazzi et al., 2025, https://arxiv.org/abs/2411.12537; Merrill et al., 2024, "
  "https://arxiv.org/abs/2404.08819; two steps per token: Siems et al., 2025, "
  "https://arxiv.org/abs/2502.10297",
  seconds=300,
  run=run,
  seeds=SEEDS,
)
