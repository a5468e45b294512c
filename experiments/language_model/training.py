"""Trains a language model, its batch shared by all devices, and judges it on held-out text."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.language_model.settings import CALL, LINES, Settings, optimizer
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import map_runs, psum, shard
from rnn_jax.tasks import Batch
from rnn_jax.text import Source, Windows, evaluation_windows
from rnn_jax.training import TrainState, init_state, train_windows
from rnn_jax.types import Array


class Device(NamedTuple):
  """What a device has of its own."""

  seed: Any
  place: Any


class Evaluation(NamedTuple):
  """Where the training stands.

  Attributes:
    step: updates so far.
    loss: mean training loss in nats a token since the evaluation before.
    grad_norm: the largest gradient norm before clipping since then.
    validation_loss: in nats a token; None where nothing is held out.
    seconds: of training, without the first call of each start, which compiles.
    params: of the model, NumPy arrays; None where they are not known any more.
  """

  step: int
  loss: float
  grad_norm: float
  validation_loss: float | None
  seconds: float
  params: Any

  @property
  def judged_by(self) -> float:
    """The loss on what is held out, or in training where nothing is."""
    return self.loss if self.validation_loss is None else self.validation_loss


class Partial(NamedTuple):
  """What a training has come to, and goes on from, on any number of devices.

  Attributes:
    state: the train state; all devices have the same.
    carries: of all lanes, [B, ...].
    losses: [calls since the last evaluation], mean training loss of each, float64.
    grad_norms: the largest gradient norm of each.
    seconds: as in `Evaluation`.
  """

  state: TrainState
  carries: Any
  losses: Any
  grad_norms: Any
  seconds: Any


class Call(NamedTuple):
  """What a call of the compiled program, `CALL` updates, has led to.

  Attributes:
    step: updates so far.
    loss: mean training loss in the call.
    evaluation: after it; None where it was no time for one.
    partial: `() -> Partial`, to be called before the next call.
  """

  step: int
  loss: float
  evaluation: Evaluation | None
  partial: Callable[[], Partial]


def train(
  settings: Settings,
  model: DeepRNN,
  read: Callable[[int], Windows],
  held_out: Source | None,
  begun: Partial | None = None,
) -> Iterator[Call]:
  """Trains a model, and evaluates it as often as the settings say.

  Args:
    settings: how.
    model: the network.
    read: `i -> Windows`, the i-th `CALL` windows of the text.
    held_out: what to be judged by; None for nothing.
    begun: what an earlier training has come to; None to begin.
  Yields:
    Each call. There is an evaluation every so many updates, and after the last; the training ends
    early after a call whose loss is not finite.
  """
  devices = sharing(settings.batch_size)
  count = len(devices)
  about = Device(np.full(count, settings.seed, np.uint32), np.arange(count, dtype=np.uint32))
  if begun is None:
    begun = _begin(settings, model)
  state = jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], count, axis=0), begun.state)
  carries = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), begun.carries)
  losses, norms = list(begun.losses), list(begun.grad_norms)
  advance = map_runs(functools.partial(_advance, settings, model, count), devices)
  judge = make_judge(model, settings, settings.batch_size)
  began = math.nan

  def partial() -> Partial:
    lanes = jax.tree.map(lambda a: np.asarray(a).reshape(-1, *a.shape[2:]), carries)
    kept = np.array(losses), np.array(norms), np.float64(time.monotonic() - began)
    return Partial(jax.tree.map(lambda a: np.asarray(a[0]), state), lanes, *kept)

  for i in range(int(begun.state.step) // CALL, settings.steps // CALL):
    (state, carries), (loss, grad_norm) = advance(about, (state, carries), read(i))
    if math.isnan(began):
      began = time.monotonic() - float(begun.seconds)
    step, evaluation = (i + 1) * CALL, None
    losses.append(float(np.mean(loss[0])))
    norms.append(float(np.max(grad_norm[0])))
    latest, sound = losses[-1], math.isfinite(losses[-1])
    if step % settings.evaluate_every == 0 or step == settings.steps or not sound:
      params = jax.tree.map(lambda a: np.asarray(a[0]), state.params)
      seconds = time.monotonic() - began
      judged = None if held_out is None else judge(params, held_out)
      mean = float(np.mean(losses))
      evaluation = Evaluation(step, mean, float(max(norms)), judged, seconds, params)
      losses, norms = [], []
    yield Call(step, latest, evaluation, partial)
    if not sound:
      return


def partial_like(settings: Settings, model: DeepRNN, step: int) -> Partial:
  """Shapes of what a training has come to after so many updates."""
  begin = jax.eval_shape(functools.partial(_start, settings, model), np.uint32(settings.seed))
  carries = jax.eval_shape(lambda: model.initial_carries(settings.batch_size))
  kept = np.zeros(step % settings.evaluate_every // CALL)
  return Partial(begin, carries, kept, kept, np.float64(0))


def make_judge(
  model: DeepRNN, settings: Settings, batch_size: int
) -> Callable[[Any, Source], float]:
  """`(params, text) -> loss`, the mean in nats a token, the carry handed on in lanes.

  A model that was trained on single lines begins each with a new carry here too.

  Args:
    model: the network.
    settings: how it was trained.
    batch_size: number of lanes.
  Returns:
    The function; it compiles once, for all texts.
  """
  devices = sharing(batch_size)
  count = len(devices)
  run = map_runs(functools.partial(_evaluate, model, count), devices)
  by_line = settings.reading == LINES

  def judge(params: Any, source: Source) -> float:
    everywhere = jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], count, axis=0), params)
    carries, total, tokens = _carries(model, batch_size, count), 0.0, 0.0
    for windows in evaluation_windows(source, batch_size, settings.window, CALL, by_line):
      carries, (loss, number) = run(everywhere, carries, windows)
      total, tokens = total + float(loss[0]), tokens + float(number[0])
    return total / tokens

  return judge


def sharing(batch_size: int) -> list[Any]:
  """As many devices as can share a batch equally."""
  devices = jax.local_devices()
  return devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)]


def _start(settings: Settings, model: DeepRNN, seed: Array) -> TrainState:
  tokens = jnp.zeros((1, 1), jnp.int32)
  return init_state(model, optimizer(settings), jax.random.key(seed), tokens)


def _begin(settings: Settings, model: DeepRNN) -> Partial:
  state = jax.jit(functools.partial(_start, settings, model))(np.uint32(settings.seed))
  carries = jax.tree.map(np.asarray, model.initial_carries(settings.batch_size))
  return Partial(state, carries, (), (), 0.0)


def _carries(model: DeepRNN, batch_size: int, count: int) -> Any:
  """Zeros for each device's share of the lanes."""
  carries = model.initial_carries(batch_size // count)
  return jax.tree.map(lambda a: np.zeros((count, *a.shape), a.dtype), carries)


def _advance(
  settings: Settings, model: DeepRNN, count: int, device: Device, old: Any, windows: Windows
) -> tuple[Any, tuple[Array, Array]]:
  """`CALL` updates, on one device of `count`."""
  state, carries = old
  part = shard(windows, count)
  # Each device draws masks for its own examples.
  key = jax.random.fold_in(jax.random.key(device.seed), device.place + 1)
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
  model: DeepRNN, count: int, params: Any, carries: Any, windows: Windows
) -> tuple[Any, tuple[Array, Array]]:
  """(carries, (sum of losses, number of tokens) on all devices)."""
  part = shard(windows, count)
  apply: Callable[..., Any] = model.apply
  carries, logits = apply({"params": params}, part.tokens, carries, resets=part.resets)
  losses = jnp.where(part.mask, cross_entropy(logits, part.targets), 0.0)
  return carries, psum((jnp.sum(losses), jnp.sum(part.mask, dtype=losses.dtype)), count)
