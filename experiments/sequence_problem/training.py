"""Training of a network on a sequence problem."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from experiments.sequence_problem.problem import Problem
from experiments.sequence_problem.settings import Settings
from rnn_jax.optimizers import make_optimizer
from rnn_jax.training import TrainState, init_state, update
from rnn_jax.types import Params

_CHUNK = 50  # updates per call: enough to hide the overhead of a call, few enough to show progress


class Keys(NamedTuple):
  """Random keys for initial params, batches, dropout and zoneout masks, and the evaluation."""

  params: Key[Array, ""]
  data: Key[Array, ""]
  masks: Key[Array, ""]
  evaluation: Key[Array, ""]


def train(
  settings: Settings,
  problem: Problem,
  keys: Keys,
  on_chunk: Callable[[float, float], None],
) -> tuple[Params, float]:
  """Trains the problem's network from fresh params.

  Args:
    settings: how to train.
    problem: the task and the network.
    keys: random keys.
    on_chunk: progress callback, called after every `_CHUNK` updates and after the last one, with
      (number of updates so far, mean loss since the previous call).
  Returns:
    (trained params, the mean loss that `on_chunk` was last called with).
  Raises:
    ValueError: if the loss is not finite.
  """
  task, model = problem.train, problem.model
  optimizer = make_optimizer("adam", settings.learning_rate, settings.clip_norm)
  start = jax.jit(
    lambda data: init_state(model, optimizer, keys.params, task.batch(data, keys.data).xs)
  )
  advance = jax.jit(
    functools.partial(_advance, settings, problem, optimizer, keys), donate_argnums=0
  )
  state, loss, done = start(task.data), math.nan, 0
  while done < settings.steps:
    count = min(_CHUNK, settings.steps - done)
    state, mean = advance(state, task.data, jnp.asarray(count, jnp.int32))
    done, loss = done + count, float(mean)
    if not math.isfinite(loss):
      raise ValueError(
        f"The training diverged before update {done}. Try a smaller --learning_rate, got "
        f"{settings.learning_rate:g}, or --clip_norm, got {settings.clip_norm or 'none'}."
      )
    on_chunk(done, loss)
  return state.params, loss


def _advance(
  settings: Settings,
  problem: Problem,
  optimizer: optax.GradientTransformation,
  keys: Keys,
  state: TrainState,
  data: PyTree,
  count: Int[Array, ""],
) -> tuple[TrainState, Float[Array, ""]]:
  """Runs `count` updates in a loop, and returns (new state, mean loss of these updates)."""
  task = problem.train
  learn: Callable[..., Any] = functools.partial(update, problem.model, optimizer, task.loss)

  def body(_: Array, old: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
    state, total = old
    batch = task.batch(data, jax.random.fold_in(keys.data, state.step))
    options: dict[str, Any] = {"key": jax.random.fold_in(keys.masks, state.step)}
    if settings.truncation is not None:
      options["truncation"] = settings.truncation
    state, _, metrics = learn(state, batch, **options)
    return state, total + metrics.loss

  state, total = jax.lax.fori_loop(0, count, body, (state, jnp.zeros(())))
  return state, total / count.astype(total.dtype)
