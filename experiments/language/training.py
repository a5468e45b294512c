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

from experiments.language.settings import CALL, LINES, Settings, optimizer
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
    seconds: since the end of the first call, which compiles.
    params: of the model, NumPy arrays.
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


def train(
  settings: Settings,
  model: DeepRNN,
  read: Callable[[int], Windows],
  held_out: Source | None,
  on_call: Callable[[int, float], None],
) -> Iterator[Evaluation]:
  """Trains a model, and evaluates it as often as the settings say.

  Args:
    settings: how.
    model: the network.
    read: `i -> Windows`, the i-th `CALL` windows of the text.
    held_out: what to be judged by; None for nothing.
    on_call: called with (updates so far, latest loss).
  Yields:
    An evaluation every so many updates, and after the last; the training ends early after one
    whose loss is not finite.
  """
  devices = sharing(settings.batch_size)
  count = len(devices)
  about = Device(np.full(count, settings.seed, np.uint32), np.arange(count, dtype=np.uint32))
  start = jax.jit(functools.partial(_start, settings, model))(np.uint32(settings.seed))
  state = jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], count, axis=0), start)
  carries = _carries(model, settings.batch_size, count)
  advance = map_runs(functools.partial(_advance, settings, model, count), devices)
  judge = make_judge(model, settings, settings.batch_size)
  begin, losses, norms = math.nan, [], []
  for i in range(settings.steps // CALL):
    (state, carries), (loss, grad_norm) = advance(about, (state, carries), read(i))
    begin = time.monotonic() if i == 0 else begin
    step = (i + 1) * CALL
    losses.append(float(np.mean(loss[0])))
    norms.append(float(np.max(grad_norm[0])))
    on_call(step, losses[-1])
    sound = math.isfinite(losses[-1])
    if step % settings.evaluate_every and step < settings.steps and sound:
      continue
    params = jax.tree.map(lambda a: np.asarray(a[0]), state.params)
    seconds = time.monotonic() - begin
    judged = None if held_out is None else judge(params, held_out)
    yield Evaluation(step, float(np.mean(losses)), max(norms), judged, seconds, params)
    losses, norms = [], []
    if not sound:
      return


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
