"""Training for figures: several runs in one program, or a sweep in a process of its own."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import Float, Key, PyTree

from experiments.sweep.records import gathered
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import map_runs
from rnn_jax.tasks import Task
from rnn_jax.training import TrainState, update
from rnn_jax.types import Array

ROOT = Path(__file__).parents[2]
FLAGFILES = ROOT / "experiments" / "flagfiles"

# Pytrees: the numbers of a run, its state, and what it records.
Run = TypeVar("Run")
State = TypeVar("State")
Record = TypeVar("Record")
Tree = TypeVar("Tree")


def train_runs(
  start: Callable[[Run, PyTree], State],
  advance: Callable[[Run, State, PyTree], tuple[State, Record]],
  runs: Sequence[Run],
  data: PyTree = (),
) -> Iterator[tuple[State, Record]]:
  """Trains runs that differ only in numbers with one program: spread over devices, then in turn.

  Args:
    start: `(run, data) -> state`, pure.
    advance: `(run, state, data) -> (state, record)`, pure; makes some updates.
    runs: one pytree of numbers per run.
    data: a pytree of arrays shared by all runs.
  Yields:
    (states, records) after each call of `advance`, leaves [runs, ...], on the host; endlessly.
  """
  count = len(runs)
  devices = jax.local_devices()[:count]
  each = math.ceil(count / len(devices))
  # Slots without a run of their own repeat one; the copies are dropped.
  slots = (np.arange(each * len(devices)) % count).reshape(each, len(devices)).T

  def spread(tree: Tree) -> Tree:
    return jax.tree.map(lambda a: np.asarray(a)[slots], tree)

  def gather(tree: Tree) -> Tree:
    return jax.tree.map(
      lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:])[:count], jax.device_get(tree)
    )

  def begin(runs: Run, data: PyTree) -> State:
    return jax.lax.map(lambda run: start(run, data), runs)

  def step_all(runs: Run, states: State, data: PyTree) -> tuple[State, Record]:
    return jax.lax.map(lambda run: advance(run[0], run[1], data), (runs, states))

  stacked = jax.tree.map(lambda *a: np.stack(a), *runs)
  everywhere, states = spread(stacked), spread(jax.jit(begin)(stacked, data))
  step = map_runs(step_all, devices)
  while True:
    states, records = step(everywhere, states, data)
    yield gather(states), gather(records)


def updates(
  model: DeepRNN,
  optimizer: optax.GradientTransformation,
  task: Task,
  state: TrainState,
  data: PyTree,
  data_key: Key[Array, ""],
  count: int,
  **options: Any,
) -> tuple[TrainState, Float[Array, " count"]]:
  """Trains on fresh batches of a task; step s draws its batch from `fold_in(data_key, s)`.

  Args:
    model: the network.
    optimizer: an optax transformation.
    task: the task.
    state: the state before.
    data: the task's data.
    data_key: the run's key.
    count: number of updates.
    **options: options of `rnn_jax.training.update`.
  Returns:
    The state after, and the loss before each update.
  """

  def body(state: TrainState, _: None) -> tuple[TrainState, Float[Array, ""]]:
    batch = task.batch(data, jax.random.fold_in(data_key, state.step))
    new, _carries, metrics = update(model, optimizer, task.loss, state, batch, **options)
    return new, metrics.loss

  return jax.lax.scan(body, state, length=count)


def sweep(flagfile: str, *more: str) -> tuple[xr.Dataset, xr.Dataset]:
  """Runs `python -m experiments.sweep` in a process of its own, with a temporary folder.

  Args:
    flagfile: name of a file in experiments/flagfiles.
    *more: further flags.
  Returns:
    gradients and metrics, as `sweep/records/gathered.py` reads them.
  Raises:
    RuntimeError: the sweep failed; the message holds its last line.
  """
  with tempfile.TemporaryDirectory() as folder:
    flags = (f"--flagfile={FLAGFILES / flagfile}", *more, f"--output_dir={folder}")
    process = subprocess.run(
      (sys.executable, "-m", "experiments.sweep", *flags),
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    if process.returncode != 0:
      raise RuntimeError(f"the sweep failed: {(process.stderr.splitlines() or ['?'])[-1]}")
    return gathered.read_gradients(Path(folder)), gathered.read_metrics(Path(folder))
