"""Trains a network on a sequence problem of one shape, and judges it on what it has not seen.

  python -m experiments.sequence_problem --flagfile=experiments/flagfiles/many_to_one.flags

The output folder receives result.json, in place of an older one: the settings, the loss beside its
baseline, the accuracy beside a published one where there is one, and some examples.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from rich.console import Console

from experiments.cli import command_line, progress
from experiments.networks import cell_table
from experiments.runtime import compilation_cache, exits, files, provenance
from experiments.sequence_problem import evaluation
from experiments.sequence_problem import settings as problem_settings
from experiments.sequence_problem.settings import Problem, Settings
from rnn_jax.training import TrainState, init_state, make_optimizer, update
from rnn_jax.types import Array

_CHUNK = 50  # updates in a call: enough to hide its cost, few enough to show progress


class Keys(NamedTuple):
  """A random key for each purpose."""

  params: Array
  data: Array
  masks: Array
  judging: Array


def define_flags() -> None:
  """All flags of this program."""
  problem_settings.define()
  flags.DEFINE_string("output_dir", "results/sequence_problem", "Folder for result.json.")


def main(arguments: list[str]) -> None:
  """Trains and judges what the flags describe."""
  values = flags.FLAGS
  try:
    with command_line.errors_in_one_line("--output_dir could not be written"):
      if values.list_cells:
        cell_table.show()
        return
      command_line.check_no_arguments(arguments)
      folder = command_line.folder("output_dir")
      settings = problem_settings.given()
      problem = problem_settings.make_problem(settings)
      settings = dataclasses.replace(settings, layers=problem.layers)
      folder.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryFile(dir=folder):
        pass  # an OSError now is better than one after the training
      _run(settings, problem, folder)
  except KeyboardInterrupt:
    exits.interrupted("Nothing was written.")


def _run(settings: Settings, problem: Problem, folder: Path) -> None:
  keys = Keys(*jax.random.split(jax.random.key(settings.seed), 4))
  begin = time.monotonic()
  title = settings.problem
  with progress.show(settings.steps, 0, Console(), title=title, unit="updates") as report:
    report("compiling", 0, None)
    params, loss = train(settings, problem, keys, functools.partial(report, "training"))
  verdict = evaluation.judge(settings, problem, params, keys.judging)
  result = {
    **verdict,
    "training_loss": loss,
    "seconds": time.monotonic() - begin,
    "settings": dataclasses.asdict(settings),
    "versions": provenance.versions((*provenance.PACKAGES, "scikit-learn")),
    "git": provenance.git(),
  }
  files.write_json(folder / "result.json", result)
  print("\n".join(evaluation.lines(verdict)))
  print(f"{result['seconds']:.0f} s. All of it is in {folder / 'result.json'}.")


def train(
  settings: Settings,
  problem: Problem,
  keys: Keys,
  on_chunk: Callable[[float, float], None],
) -> tuple[Any, float]:
  """Trains the network.

  Args:
    settings: how.
    problem: task and network.
    keys: random keys.
    on_chunk: called with (updates so far, mean loss since the last call).
  Returns:
    (params, mean loss of the last updates).
  Raises:
    ValueError: the loss is not finite.
  """
  task, model = problem.train, problem.model
  optimizer = make_optimizer("adam", settings.learning_rate, settings.clip_norm)
  learn: Callable[..., Any] = functools.partial(update, model, optimizer, task.loss)

  @jax.jit
  def start(data: Any) -> TrainState:
    return init_state(model, optimizer, keys.params, task.batch(data, keys.data).xs)

  @functools.partial(jax.jit, donate_argnums=0)
  def advance(state: TrainState, data: Any, count: Array) -> tuple[TrainState, Array]:
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

  state, loss, done = start(task.data), math.nan, 0
  while done < settings.steps:
    count = min(_CHUNK, settings.steps - done)
    state, mean = advance(state, task.data, jnp.asarray(count, jnp.int32))
    done, loss = done + count, float(mean)
    if not math.isfinite(loss):
      raise ValueError(
        f"The training diverged before update {done}; try a smaller --learning_rate, got "
        f"{settings.learning_rate:g}, or --clip_norm, got {settings.clip_norm or 'none'}."
      )
    on_chunk(done, loss)
  return state.params, loss


if __name__ == "__main__":
  compilation_cache.use("auto")
  define_flags()
  command_line.run(main)
