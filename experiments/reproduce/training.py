"""Training for figures: several runs in one compiled program, or a sweep in a subprocess."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Bool, Float, Key, PyTree

from experiments.sweep.records import gathered, run_files, sweep_folder
from rnn_jax.modules import DeepRNN
from rnn_jax.optimizers import make_optimizer
from rnn_jax.parallel import map_runs, spread
from rnn_jax.tasks import Batch, Task
from rnn_jax.training import TrainState, init_state, update
from rnn_jax.types import Array, Number

ROOT = Path(__file__).parents[2]
FLAGFILES = ROOT / "experiments" / "flagfiles"


class SeedAndRate(NamedTuple):
  """A run of a figure that varies the seed and the learning rate in one compiled program."""

  seed: Number
  learning_rate: Number


Run = TypeVar("Run")  # a pytree of the values that vary between runs, such as the seed
State = TypeVar("State")  # the pytree of a run's params, optimizer state and the like
Record = TypeVar("Record")  # a pytree of what a run records
Tree = TypeVar("Tree")  # any pytree


def train_runs(
  start: Callable[[Run, PyTree], State],
  advance: Callable[[Run, State, PyTree], tuple[State, Record]],
  runs: Sequence[Run],
  data: PyTree = (),
) -> Iterator[tuple[State, Record]]:
  """Trains runs that differ only in numeric values, such as the seed, in one compiled program.

  The runs are spread over the local devices; those on the same device are advanced one after the
  other. Training continues until the caller stops iterating.

  Args:
    start: pure function `(run, data) -> state`, which returns a run's initial state.
    advance: pure function `(run, state, data) -> (state, record)`, which makes some updates.
    runs: one pytree of numbers per run.
    data: a pytree of arrays shared by all runs.
  Yields:
    (states, records) of all runs after each call of `advance`: NumPy arrays [runs, ...] as leaves.
  """
  count = len(runs)
  devices = jax.local_devices()[:count]
  each = math.ceil(count / len(devices))
  # All devices have the same number of slots. Surplus slots train copies of runs, which `gather`
  # drops.
  slots = (np.arange(each * len(devices)) % count).reshape(each, len(devices)).T

  def to_slots(tree: PyTree) -> PyTree[Array]:
    # Laid out like the program's results, so that the second call does not compile it again.
    return spread(jax.tree.map(lambda a: np.asarray(a)[slots], tree), devices)

  def gather(tree: Tree) -> Tree:
    return jax.tree.map(
      lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:])[:count], jax.device_get(tree)
    )

  def begin(runs: Run, data: PyTree) -> State:
    return jax.lax.map(lambda run: start(run, data), runs)

  def step_all(runs: Run, states: State, data: PyTree) -> tuple[State, Record]:
    return jax.lax.map(lambda run: advance(run[0], run[1], data), (runs, states))

  stacked = jax.tree.map(lambda *a: np.stack(a), *runs)
  everywhere, states = to_slots(stacked), to_slots(jax.jit(begin)(stacked, data))
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
  estimator_key: Key[Array, ""] | None = None,
  **options: Any,
) -> tuple[TrainState, Float[Array, " count"]]:
  """Makes `count` updates on fresh batches of a task.

  The batch at step s is drawn with the key `fold_in(data_key, s)`. A random gradient estimator gets
  the key `fold_in(estimator_key, s)`.

  Args:
    model: the network.
    optimizer: an optax transformation.
    task: the task.
    state: the train state before the updates.
    data: the task's data.
    data_key: the run's key for drawing batches.
    count: number of updates.
    estimator_key: the run's key for the random numbers of the option `estimator`; None if the
      estimator is not random.
    **options: options of `rnn_jax.training.update`.
  Returns:
    The train state after the updates, and the loss before each update.
  """

  def body(state: TrainState, _: None) -> tuple[TrainState, Float[Array, ""]]:
    batch = task.batch(data, jax.random.fold_in(data_key, state.step))
    key = None if estimator_key is None else jax.random.fold_in(estimator_key, state.step)
    new, _carries, metrics = update(
      model, optimizer, task.loss, state, batch, estimator_key=key, **options
    )
    return new, metrics.loss

  return jax.lax.scan(body, state, length=count)


def train_and_test(
  model: DeepRNN,
  task: Task,
  test: Task,
  runs: Sequence[SeedAndRate],
  count: int,
  clip_norm: float,
  score: Callable[[Bool[Array, "T B"], Batch], Float[Array, " *axes"]],
) -> Float[np.ndarray, "runs ..."]:
  """Trains each run with Adam, and scores its answers on one fresh batch.

  Args:
    model: the network.
    task: the task to learn. Its targets are classes.
    test: the task from which the batch for the score is drawn.
    runs: seeds and learning rates.
    count: number of updates.
    clip_norm: the largest global norm of the gradient.
    score: function `(right, batch) -> score`, where `right` says which answers are correct.
  Returns:
    The scores of all runs.
  """
  apply: Callable[..., Any] = model.apply

  def keys(run: SeedAndRate) -> Key[Array, " keys"]:
    return jax.random.split(jax.random.key(run.seed), 3)

  def start(run: SeedAndRate, data: PyTree) -> TrainState:
    params_key, data_key, _ = keys(run)
    optimizer = make_optimizer("adam", run.learning_rate, clip_norm)
    return init_state(model, optimizer, params_key, task.batch(data, data_key).xs)

  def advance(
    run: SeedAndRate, state: TrainState, data: PyTree
  ) -> tuple[TrainState, Float[Array, " *axes"]]:
    _, data_key, test_key = keys(run)
    optimizer = make_optimizer("adam", run.learning_rate, clip_norm)
    state, _ = updates(model, optimizer, task, state, data, data_key, count)
    batch = test.batch(data, test_key)
    _, outputs = apply({"params": state.params}, batch.xs)
    return state, score(jnp.argmax(outputs, axis=-1) == batch.targets, batch)

  _, scores = next(train_runs(start, advance, runs))
  return np.asarray(scores)


def sweep(
  flagfile: str, *more: str, folder: Path | None = None
) -> tuple[xr.Dataset, xr.Dataset, int]:
  """Runs `python -m experiments.sweep` in a subprocess, and returns what it recorded.

  Args:
    flagfile: name of a file in experiments/flagfiles.
    *more: further flags, which take precedence over those of the file.
    folder: the sweep's folder, which is kept, so that an interrupted sweep resumes; its progress is
      shown. None for a temporary folder.
  Returns:
    (gradients, metrics, earlier): the first two as from `read` in
    `experiments/sweep/records/gathered.py`, and the number of runs that an earlier sweep had
    recorded in `folder`.
  Raises:
    RuntimeError: if the sweep fails; the message ends with the last line of its error output.
    KeyboardInterrupt: if the sweep is interrupted.
  """
  with contextlib.ExitStack() as stack:
    if folder is None:
      where, output = Path(stack.enter_context(tempfile.TemporaryDirectory())), subprocess.PIPE
    else:
      where, output = folder.absolute(), None
    earlier = _recorded(where)
    flags = (f"--flagfile={FLAGFILES / flagfile}", *more, f"--output_dir={where}")
    process = subprocess.run(
      (sys.executable, "-m", "experiments.sweep", *flags),
      cwd=ROOT,
      stdout=output,
      stderr=subprocess.PIPE,
      text=True,
      check=False,
    )
    if process.returncode != 0:
      raise RuntimeError(f"the sweep failed: {(process.stderr.splitlines() or ['?'])[-1]}")
    gradients, metrics, _ = gathered.read(where)
    return gradients, metrics, earlier


def _recorded(folder: Path) -> int:
  """Returns the number of runs in a sweep's folder that have finished or diverged."""
  if not (folder / "sweep.json").is_file():
    return 0
  states = run_files.statuses(folder, sweep_folder.read_sweep(folder)["runs"])
  return sum(state.get("status") in run_files.DONE for state in states.values())
