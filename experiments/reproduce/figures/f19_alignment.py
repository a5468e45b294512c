"""F19. Gradient estimators against backpropagation through time, during training."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Array, Float, Key

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
from experiments.reproduce.training import train_runs, updates
from rnn_jax.cells import leaky
from rnn_jax.estimators import Comparison, estimator_bias, make_estimator
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DeepRNN
from rnn_jax.optimizers import make_optimizer
from rnn_jax.tasks import Batch, Task
from rnn_jax.training import TrainState, init_state
from rnn_jax.types import AnyArray, Number, Params

NUM_STEPS, FIRST, SECOND = 30, 3, 6  # T, t₁, t₂
HIDDEN_SIZE, ALPHA, BATCH_SIZE, LEARNING_RATE = 32, 0.5, 32, 1e-3
# The estimators are compared before each of CALLS calls, which make CALL updates each.
CALL, CALLS = 400, 6
WINDOWS, NUM_KEYS = 16, 32
ONE_STEP_KEYS = 2000
SEEDS = (0, 1, 2, 3, 4)
NAMES = ("rtrl", "tbptt5", "snap1", "rflo", "kf_rtrl", "uoro1")
RANDOM = ("kf_rtrl", "uoro1")
# Entropies of the target: given nothing, x_{t−t₁}, and both; see `add_task`.
COIN, QUARTER = math.log(2), -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
GUESS = -0.625 * math.log(0.625) - 0.375 * math.log(0.375)
FIRST_ONLY = (GUESS - 0.875 * math.log(0.875) - 0.125 * math.log(0.125)) / 2
FLOOR = (COIN + 2 * QUARTER) / 4


class Record(NamedTuple):
  """What a run records in a call, or what all runs record, with axes of calls and seeds in front.

  Attributes:
    cosine: cos(ĝ, g) of each estimator and window, the mean over keys.
    kept: ⟨mean ĝ, g⟩ / ‖g‖².
    loss: the loss before each update.
  """

  cosine: Float[AnyArray, "*runs estimators windows"]
  kept: Float[AnyArray, "*runs estimators windows"]
  loss: Float[AnyArray, "*runs updates"]


def add_task(batch_size: int, num_steps: int = NUM_STEPS) -> Task:
  """Returns the Add task of the paper: a sum of two earlier inputs is the target's probability.

    x_t ~ Bernoulli(1/2),  P(target_t = 1) = 1/2 + x_{t−t₁}/2 − x_{t−t₂}/4

  Inputs are one-hot. The loss counts from t = t₂ on.
  """

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    input_key, target_key = jax.random.split(key)
    x = jax.random.bernoulli(input_key, 0.5, (num_steps, batch_size)).astype(int)
    p = 0.5 + 0.5 * jnp.roll(x, FIRST, axis=0) - 0.25 * jnp.roll(x, SECOND, axis=0)
    targets = jax.random.bernoulli(target_key, p).astype(int)
    mask = jnp.broadcast_to(jnp.arange(num_steps)[:, None] >= SECOND, x.shape)
    return Batch(jax.nn.one_hot(x, 2), targets, mask)

  return Task((), (), batch, cross_entropy, "nats", GUESS, 2, None)


def compare(
  model: DeepRNN, params: Params, key: Key[Array, ""], windows: int, num_keys: int
) -> tuple[Float[Array, "estimators windows"], Float[Array, "estimators windows"]]:
  """Returns (cosine, kept) of each estimator for single examples, as in `Record`.

  As in the paper, the gradient is that of a single step's loss, here the last step of a window.
  """
  task, variables = add_task(1), {"params": params}

  def one(key: Key[Array, ""]) -> tuple[Float[Array, " estimators"], ...]:
    data_key, own_key = jax.random.split(key)
    example = task.batch((), data_key)

    def loss(ys: Array) -> Array:
      logits: Any = model.apply(variables, ys, method="readout")
      return task.loss(logits, example.targets)[-1, 0]

    cosines, kept = [], []
    for name in NAMES:
      estimator = make_estimator(name)
      found = estimator_bias(
        model.cells,
        model.cell_params(variables),
        example.xs,
        loss,
        estimator=estimator,
        key=own_key,
        num_keys=num_keys if estimator.random else 1,
        num_lags=1,
      )
      cosines.append(found.total.cosine)
      kept.append(found.lags[0].kept[0])
    return jnp.stack(cosines), jnp.stack(kept)

  cosines, kept = jax.lax.map(one, jax.random.split(key, windows))
  return cosines.T, kept.T


def train(
  seeds: Sequence[int] = SEEDS,
  calls: int = CALLS,
  call: int = CALL,
  windows: int = WINDOWS,
  num_keys: int = NUM_KEYS,
) -> Record:
  """Trains with backpropagation through time; returns records with axes [calls, seeds, ...]."""
  task = add_task(BATCH_SIZE)
  cell = leaky(HIDDEN_SIZE, alpha=ALPHA, activation="tanh")
  model = DeepRNN([cell], task.output_size, task.vocabulary_size)
  optimizer = make_optimizer("adam", LEARNING_RATE)

  def keys(seed: Number) -> Key[Array, " keys"]:
    return jax.random.split(jax.random.key(seed), 3)

  def start(seed: Number, data: tuple[()]) -> TrainState:
    return init_state(model, optimizer, keys(seed)[0], task.batch(data, keys(seed)[1]).xs)

  def advance(seed: Number, state: TrainState, data: tuple[()]) -> tuple[TrainState, Record]:
    _, data_key, window_key = keys(seed)
    window_key = jax.random.fold_in(window_key, state.step)
    found = compare(model, state.params, window_key, windows, num_keys)
    state, losses = updates(model, optimizer, task, state, data, data_key, call)
    return state, Record(*found, losses)

  runs = [np.uint32(seed) for seed in seeds]
  records = [record for _, record in itertools.islice(train_runs(start, advance, runs), calls)]
  return Record(*(np.stack(a) for a in zip(*records, strict=True)))


def uoro_variance(delta: Float[Array, " N"], slopes: Float[Array, " N"]) -> Float[Array, ""]:
  """Returns the relative variance E ‖ĝ − g‖² / ‖g‖² of UORO's estimate after one step.

  I_t is then a matrix with the row φ′(a_i) (x, 1) for unit i. The estimate is (δᵀν) νᵀI, and

    E ‖ĝ‖² / ‖g‖² = ‖δ‖² Σ_i φ′(a_i)² / Σ_i δ_i² φ′(a_i)²

  Args:
    delta: δ.
    slopes: φ′(a).
  """
  return jnp.sum(delta**2) * jnp.sum(slopes**2) / jnp.sum((delta * slopes) ** 2) - 1


@functools.partial(jax.jit, static_argnames="num_keys")
def one_step(
  seed: Number, num_keys: int = ONE_STEP_KEYS
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
  """Returns (variance of UORO, its closed form, cosine of KF-RTRL) in a window of one step.

  KF-RTRL is exact there, since I_t is itself a Kronecker product.
  """
  cell = leaky(HIDDEN_SIZE, alpha=ALPHA, activation="tanh")
  params_key, delta_key, key = jax.random.split(jax.random.key(seed), 3)
  params = cell.init(params_key, 2)
  delta = jax.random.normal(delta_key, (HIDDEN_SIZE,))
  xs = jax.nn.one_hot(jnp.ones((1, 1), int), 2)

  def measure(name: str) -> Comparison:
    return estimator_bias(
      [cell],
      [params],
      xs,
      lambda ys: ys[0, 0] @ delta,
      estimator=make_estimator(name),
      key=key,
      num_keys=num_keys,
      num_lags=1,
    ).total

  slopes = 1 - jnp.tanh(params["w_x"][1] + params["b"]) ** 2
  variance = measure("uoro1").standard_deviation ** 2
  return variance, uoro_variance(delta, slopes), measure("kf_rtrl").cosine


def checks_of(record: Record) -> list[Check]:
  """Returns the checks on the records of all calls and seeds."""
  cosine, kept, loss = map(np.asarray, record)
  by_seed = dict(zip(NAMES, cosine.mean(axis=(0, 3)).T, strict=True))
  median = {name: float(np.median(found)) for name, found in by_seed.items()}
  exact = cosine[:, :, NAMES.index("rtrl")]
  checks = [at_least("rtrl: smallest cosine", exact.min(), 1 - 1e-4)]
  for name in RANDOM:
    own = kept[:, :, NAMES.index(name)].ravel()
    distance = abs(own.mean() - 1) / (own.std(ddof=1) / math.sqrt(own.size))
    checks.append(at_most(f"{name}: |mean ⟨ĝ, g⟩/‖g‖² − 1|, in standard errors", distance, 3))
  checks.append(at_least("rflo: mean cosine, worst seed", by_seed["rflo"].min(), 0.2))
  checks.append(at_least("uoro1: mean cosine, worst seed", by_seed["uoro1"].min(), 0))
  for above, below in (
    ("snap1", "rflo"),
    ("rflo", "kf_rtrl"),
    ("rflo", "uoro1"),
    ("kf_rtrl", "uoro1"),
  ):
    name = f"cosine of {above} − {below}, medians over seeds"
    checks.append(at_least(name, median[above] - median[below], 0))
  final = loss[-1].mean(axis=1).max()
  checks.append(at_most(f"loss of the last {loss.shape[2]}, worst seed", final, FIRST_ONLY))
  return checks


def run() -> Outcome:
  """Compares each estimator's gradients with exact ones during training, and for one step."""
  record = train()
  measured, formula, cosine = np.array([one_step(np.uint32(seed)) for seed in SEEDS]).T
  checks = [
    *checks_of(record),
    relative(
      "one step, uoro1: variance/closed form, mean over seeds", (measured / formula).mean(), 1, 0.05
    ),
    absolute("one step, kf_rtrl: cosine, worst seed", cosine.min(), 1, 1e-5),
  ]
  table = []
  for i, name in enumerate(NAMES):
    own = record.cosine[:, :, i].mean(axis=2)
    table.append(
      {
        "estimator": name,
        "mean cosine": float(np.median(own.mean(axis=0))),
        "before training": float(np.median(own[0])),
        "after training": float(np.median(own[-1])),
        "⟨ĝ, g⟩/‖g‖²": float(record.kept[:, :, i].mean()),
      }
    )
  notes = [
    f"The target's entropy is {GUESS:.4f} nats, {FIRST_ONLY:.4f} given x at lag t₁, and "
    f"{FLOOR:.4f} given both inputs.",
    "That deterministic estimators are above random ones follows the paper, which reports that "
    "alignments cluster by type of estimator. It also reports that low alignment does not explain "
    "how well random estimators train. No number of its figure is used. That KF-RTRL is above "
    "UORO is our own expectation. That SnAp-1 is above RFLO is expected because it also keeps the "
    "diagonal of the recurrent path (Menick et al., 2021, https://arxiv.org/abs/2006.07232).",
    "The paper's networks have 32 units, too, but are trained online, with an update after each "
    "step.",
  ]
  return Outcome(table, checks, functools.partial(draw, cosine=np.asarray(record.cosine)), notes)


def draw(
  figure: matplotlib.figure.Figure, cosine: Float[np.ndarray, "calls seeds estimators windows"]
) -> None:
  """Draws the mean cosine of each estimator against the updates, and one point per seed."""
  left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
  colors = ("#000000", "#CC79A7", "#0072B2", "#009E73", "#E69F00", "#D55E00")
  steps = np.arange(len(cosine)) * CALL
  means = cosine.mean(axis=3)
  for i, (name, color, marker) in enumerate(zip(NAMES, colors, "osDP^v", strict=True)):
    median = np.median(means[:, :, i], axis=1)
    left.plot(steps, median, color=color, marker=marker, ms=5, lw=1.2)
    left.fill_between(
      steps, means[:, :, i].min(axis=1), means[:, :, i].max(axis=1), color=color, alpha=0.12, lw=0
    )
    points = means[:, :, i].mean(axis=0)
    right.plot(np.full(len(points), i), points, marker, color=color, ms=5, alpha=0.6, label=name)
  left.axhline(0, color=style.GRAY, lw=0.6)
  right.axhline(0, color=style.GRAY, lw=0.6)
  left.set_xlabel("update (line: median over seeds; band: all seeds)")
  left.set_ylabel("cosine to the gradient of BPTT")
  right.set_xlabel("mean, by seed")
  right.set_xticks(range(len(NAMES)), NAMES, rotation=60)


figure = Figure(
  title="Gradient estimators against backpropagation through time",
  setting=f"Add task, t₁ = {FIRST}, t₂ = {SECOND}, windows of {NUM_STEPS} steps; leaky tanh "
  f"network of {HIDDEN_SIZE} units, α = {ALPHA}; trained by BPTT, batch {BATCH_SIZE}, Adam "
  f"{LEARNING_RATE:g}, compared every {CALL} updates up to {CALL * (CALLS - 1)}; gradients of the "
  f"last step's loss, {WINDOWS} single examples, {NUM_KEYS} keys for a random estimator",
  source="Marschall, Cho and Savin, 2020, section 5, https://arxiv.org/abs/1907.02649",
  seconds=180,
  run=run,
  seeds=SEEDS,
)
