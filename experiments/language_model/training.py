"""Training of a language model, with each batch split over the local devices, and its evaluation.

Each of the B examples of a batch is a lane: a stream of windows with its own carry, which is passed
from window to window. Each of `count` devices has B / count lanes, its share of the batch. One
device evaluates, so that a text's loss does not depend on the number of devices.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.language_model.settings import CHUNK, LINES, Settings, optimizer
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import map_runs, psum, shard, spread
from rnn_jax.tasks import Batch
from rnn_jax.text import Source, Windows, evaluation_windows
from rnn_jax.training import TrainState, init_state
from rnn_jax.types import Carry, Params
from rnn_jax.windows import train_windows

Tree = TypeVar("Tree")
Carries = tuple[Carry, ...]  # one carry per layer

# Time steps per call of the evaluation. Longer windows are no faster: the carry is passed on step
# by step, and the logits no longer fit into a CPU's cache.
_EVALUATION_WINDOW = 512


class Evaluation(NamedTuple):
  """A model's losses after some number of updates, in nats per token.

  Attributes:
    step: number of updates so far.
    loss: mean loss of the training batches since the previous evaluation. It is not the loss of
      these params on a text: the params changed from batch to batch, dropout was applied, and
      windows started from new carries.
    grad_norm: largest gradient norm, before clipping, since the previous evaluation.
    text_loss: loss of the params on the held-out text or, if nothing is held out, on the training
      text, as `make_evaluate` computes it. The best params are those with the lowest one.
    seconds: training time so far, without evaluations, and without the first `CHUNK` updates after
      each start, which include the compilation.
    params: the model's params as NumPy arrays; None if they were not kept.
  """

  step: int
  loss: float
  grad_norm: float
  text_loss: float
  seconds: float
  params: Params | None


class Progress(NamedTuple):
  """A training's progress so far, which can be resumed on any number of devices.

  A field must not be renamed, because its name is part of the leaves' names in old checkpoints.

  Attributes:
    state: params, optimizer state and step, which are equal on all devices.
    carries: each layer's carry, with a leading axis of all B lanes, [B, ...].
    losses: float64, mean training loss of each chunk since the last evaluation.
    grad_norms: float64, largest gradient norm of each of these chunks.
    seconds: training time so far, measured as in `Evaluation`.
  """

  state: TrainState
  carries: Carries
  losses: Float[np.ndarray, " chunks"]
  grad_norms: Float[np.ndarray, " chunks"]
  seconds: np.float64


class Chunk(NamedTuple):
  """The result of a chunk: `CHUNK` updates, made in one call of the compiled program.

  Attributes:
    step: number of updates so far.
    loss: mean training loss of the chunk.
    evaluation: the evaluation after the chunk; None if none was due.
    progress: `() -> Progress`, the progress after this chunk. It must be called before the next
      chunk is taken from `train`, because it returns the latest progress.
  """

  step: int
  loss: float
  evaluation: Evaluation | None
  progress: Callable[[], Progress]


def best_evaluation(evaluations: Sequence[Evaluation]) -> Evaluation | None:
  """Returns the first evaluation with the lowest `text_loss`; None if none is finite."""
  finite = [e for e in evaluations if e.text_loss < math.inf]
  return min(finite, key=lambda e: e.text_loss, default=None)


def train(
  settings: Settings,
  model: DeepRNN,
  read: Callable[[int], Windows],
  evaluated: Source,
  resumed_from: Progress | None = None,
) -> Iterator[Chunk]:
  """Trains a model, evaluates it at regular intervals, and yields after every `CHUNK` updates.

  Args:
    settings: how to train.
    model: the network.
    read: `i -> Windows`, the i-th batch of `CHUNK` windows of the text.
    evaluated: the text to evaluate on.
    resumed_from: progress of an interrupted training; None to start from fresh params.
  Yields:
    The result of each chunk, with an evaluation every `evaluate_every` updates and after the last
    one. If a chunk's loss is not finite, the chunk is evaluated, too, and training stops.
  """
  devices = devices_for(settings.batch_size)
  count = len(devices)
  start = _initial_progress(settings, model) if resumed_from is None else resumed_from
  # The initial state and carries have the sharding of the program's results, so that the program
  # compiles only once.
  initial = _repeat(start.state, count), _split_lanes(start.carries, count)
  state, carries = spread(initial, devices)
  losses, norms = list(start.losses), list(start.grad_norms)
  advance = map_runs(functools.partial(_advance, settings, model, count), devices)
  evaluate = make_evaluate(model, settings)
  shares = _Share(np.full(count, settings.seed, np.uint32), np.arange(count, dtype=np.uint32))
  clock_zero = math.nan

  def progress() -> Progress:
    seconds = np.float64(time.monotonic() - clock_zero)
    kept = np.array(losses, np.float64), np.array(norms, np.float64), seconds
    return Progress(_first(state), _join_lanes(carries), *kept)

  for i in range(int(start.state.step) // CHUNK, settings.steps // CHUNK):
    (state, carries), (loss, grad_norm) = advance(shares, (state, carries), read(i))
    if math.isnan(clock_zero):  # starts the clock after the first call, which compiles
      clock_zero = time.monotonic() - float(start.seconds)
    step, evaluation = (i + 1) * CHUNK, None
    losses.append(float(np.mean(loss[0])))
    norms.append(float(np.max(grad_norm[0])))
    latest, finite = losses[-1], math.isfinite(losses[-1])
    if step % settings.evaluate_every == 0 or step == settings.steps or not finite:
      params, seconds = _first(state.params), time.monotonic() - clock_zero
      text_loss = evaluate(params, evaluated)
      clock_zero = time.monotonic() - seconds  # the evaluation's time is not training time
      mean, largest = float(np.mean(losses)), float(max(norms))
      evaluation = Evaluation(step, mean, largest, text_loss, seconds, params)
      # Otherwise training ends here. If it is resumed for more steps, the next evaluation is of
      # these updates, too.
      if step % settings.evaluate_every == 0:
        losses, norms = [], []
    yield Chunk(step, latest, evaluation, progress)
    if not finite:
      return


def progress_like(settings: Settings, model: DeepRNN, step: int) -> Progress:
  """Returns a Progress with the structure, shapes and dtypes of the one after `step` updates."""
  initial = functools.partial(_initial_state, settings, model)
  state = jax.eval_shape(initial, np.uint32(settings.seed))
  carries = jax.eval_shape(lambda: model.initial_carries(settings.batch_size))
  kept = np.zeros(step % settings.evaluate_every // CHUNK)
  return Progress(state, carries, kept, kept, np.float64(0))


def make_evaluate(model: DeepRNN, settings: Settings) -> Callable[[Params, Source], float]:
  """Returns a function that computes a text's mean loss in nats per token.

  All losses on a text that the language model reports are computed by this function. The text is
  read as one stream from its start, with one carry, so that the loss depends on nothing but params
  and text. Every token counts except the first, which has no predecessor. A model
  trained on single lines (`reading="lines"`) starts each line from a new carry, as in training; it
  predicts the first token, too, from an `<eos>`.

  Args:
    model: the network.
    settings: the settings that it was trained with.
  Returns:
    `evaluate(params, text) -> loss`; it is compiled only once, even for texts of different lengths.
  """
  run = jax.jit(functools.partial(_evaluate, model))
  by_line = settings.reading == LINES

  def evaluate(params: Params, source: Source) -> float:
    params, carries = jax.device_put(params), model.initial_carries(1)
    total, tokens = 0.0, 0
    for windows in evaluation_windows(source, 1, _EVALUATION_WINDOW, 1, by_line):
      carries, loss = run(params, carries, windows)
      total, tokens = total + float(loss), tokens + int(np.sum(windows.mask))
    return total / tokens

  return evaluate


def devices_for(batch_size: int) -> list[jax.Device]:
  """Returns the local devices to use: the largest number of them that splits a batch equally."""
  devices = jax.local_devices()
  return devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)]


class _Share(NamedTuple):
  """The arguments that identify one device's share of the batch.

  Attributes:
    seed: the training's random seed, equal on all devices.
    index: the share's index, from 0 to the number of devices − 1.
  """

  seed: Any
  index: Any


def _initial_state(settings: Settings, model: DeepRNN, seed: Array) -> TrainState:
  tokens = jnp.zeros((1, 1), jnp.int32)
  return init_state(model, optimizer(settings), jax.random.key(seed), tokens)


def _initial_progress(settings: Settings, model: DeepRNN) -> Progress:
  state = jax.jit(functools.partial(_initial_state, settings, model))(np.uint32(settings.seed))
  carries = jax.tree.map(np.asarray, model.initial_carries(settings.batch_size))
  return Progress(state, carries, np.zeros(0), np.zeros(0), np.float64(0))


def _repeat(tree: Tree, count: int) -> Tree:
  """Repeats every leaf along a new leading axis of devices: [...] -> [count, ...]."""
  return jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], count, axis=0), tree)


def _first(tree: Tree) -> Tree:
  """Returns the first device's copy of every leaf: [count, ...] -> [...]."""
  return jax.tree.map(lambda a: np.asarray(a[0]), tree)


def _split_lanes(carries: Carries, count: int) -> Carries:
  """Splits the batch axis of every leaf over the devices: [B, ...] -> [count, B / count, ...]."""
  return jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), carries)


def _join_lanes(carries: Carries) -> Carries:
  """Undoes `_split_lanes`, on the host: [count, B / count, ...] -> [B, ...]."""
  return jax.tree.map(lambda a: np.asarray(a).reshape(-1, *a.shape[2:]), carries)


def _advance(
  settings: Settings,
  model: DeepRNN,
  count: int,
  share: _Share,
  old: tuple[TrainState, Carries],
  windows: Windows,
) -> tuple[tuple[TrainState, Carries], tuple[Float[Array, " windows"], Float[Array, " windows"]]]:
  """Runs `CHUNK` updates on one of the `count` devices that share each batch.

  Args:
    settings: how to train.
    model: the network.
    count: number of devices.
    share: this device's share of the batch.
    old: the train state, and this device's carries [B / count, ...].
    windows: the windows of the whole batch.
  Returns:
    (new state and carries), (loss, gradient norm); loss and norm are those of the whole batch, one
    per window.
  """
  state, carries = old
  part = shard(windows, count)
  # Each device has its own key, because its examples need their own dropout and zoneout masks.
  key = jax.random.fold_in(jax.random.key(share.seed), share.index + 1)
  state, carries, metrics = train_windows(
    model,
    optimizer(settings),
    cross_entropy,
    state,
    Batch(part.tokens, part.targets, part.mask),
    settings.window,
    carries,
    resets=part.resets,
    key=key,
    psum=functools.partial(psum, count=count),
  )
  return (state, carries), (metrics.loss, metrics.grad_norm)


def _evaluate(
  model: DeepRNN, params: Params, carries: Carries, windows: Windows
) -> tuple[Carries, Float[Array, ""]]:
  """Returns the carries after a window, and the loss summed over its valid steps."""
  apply: Callable[..., Any] = model.apply
  carries, logits = apply({"params": params}, windows.tokens, carries, resets=windows.resets)
  return carries, jnp.sum(jnp.where(windows.mask, cross_entropy(logits, windows.targets), 0.0))
