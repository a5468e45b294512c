"""The task of a user's own data: arrays of sequences and targets, from an .npz file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from rnn_jax import checks
from rnn_jax.losses import binary_cross_entropy, cross_entropy, squared_error
from rnn_jax.tasks.data_file_arrays import ARRAYS, Examples, checked_examples, read_arrays
from rnn_jax.tasks.examples import check_batch_size, draw, last_step
from rnn_jax.tasks.task import Batch, Task
from rnn_jax.text import entropy

# The loss of each kind of targets (labels, classes, values), and its unit.
_LOSSES: Mapping[str, tuple[Callable[[Array, Array], Array], str]] = {
  "b": (binary_cross_entropy, "nats"),
  "i": (cross_entropy, "nats"),
  "f": (squared_error, "squared error"),
}


class DataFile(NamedTuple):
  """The contents of a data file, checked.

  Attributes:
    name: path of the file.
    sha256: SHA-256 hash of the file's bytes, in hexadecimal, which identifies the data.
    train, held_out: the sequences to train on, and those to evaluate on.
    every_step: whether there is a target at every step, or only at the last one.
    baseline: loss of predicting the frequencies of the training part's classes or of each of its
      labels, in nats, or the mean of its values: the classes' entropy, the labels' entropies or the
      values' variances, summed over labels or outputs. Steps of padding do not count.
    output_size: number of classes, or K, or O.
    vocabulary_size: number of tokens, padding included; None if xs are vectors.
  """

  name: str
  sha256: str
  train: Examples
  held_out: Examples
  every_step: bool
  baseline: float
  output_size: int
  vocabulary_size: int | None


def data_file(sequence_length: int, batch_size: int | None, data: DataFile) -> Task:
  """Builds the task of a user's own data, from `load_data_file`.

  With targets at every step, the mask is True after each sequence's padding, otherwise only at the
  last step. All sequences have T steps and end at the last one, as sweeps and their measures
  require. The network therefore reads the padding, and the carry is not reset after it.

  Args:
    sequence_length: T, which must be that of the data.
    batch_size: B, number of sequences per batch, drawn without repeats; None for all of them. A
      held-out batch has all held-out sequences if they are fewer than B.
    data: the data.
  Returns:
    The Task, whose batches have xs [T, B, D] or tokens [T, B], and targets [T, B] (classes),
    [T, B, O] (values) or bool [T, B, K] (labels). The loss is the cross-entropy of classes, the
    squared error of values, or the binary cross-entropy summed over labels.
  Raises:
    TypeError, ValueError: if an argument has the wrong type or is out of range.
  """
  checks.integer("sequence_length", sequence_length)
  checks.instance("data", data, DataFile, "load_data_file")
  num_steps = data.train.xs.shape[1]
  if sequence_length != num_steps:
    raise ValueError(
      f"sequence_length must be {num_steps}, the time steps of {data.name}, got {sequence_length}."
    )
  check_batch_size(batch_size, len(data.train.xs), "train")
  every_step = data.every_step

  def batch(examples: Examples, key: Key[Array, ""]) -> Batch:
    chosen = draw(key, examples.lengths.shape[0], batch_size)
    xs, targets, lengths = (jnp.asarray(a)[chosen] for a in examples)
    if not every_step:
      targets = jnp.broadcast_to(targets[None], (num_steps, *targets.shape))
      return Batch(jnp.swapaxes(xs, 0, 1), targets, last_step(num_steps, len(chosen)))
    left = jnp.arange(num_steps, 0, -1, dtype=jnp.int32)  # steps up to the end, this one included
    mask = left[:, None] <= lengths[None]
    return Batch(jnp.swapaxes(xs, 0, 1), jnp.swapaxes(targets, 0, 1), mask)

  loss, unit = _LOSSES[data.train.targets.dtype.kind]
  unit += " per step" * every_step
  sizes = data.output_size, data.vocabulary_size
  return Task(data.train, data.held_out, batch, loss, unit, data.baseline, *sizes)


def load_data_file(source: str | Path) -> DataFile:
  """Loads sequences and their targets from an .npz file written by `numpy.savez`.

    xs       vectors [N, T, D], or integer tokens [N, T] from 0
    targets  classes, integers from 0: [N] for one at the last step, [N, T] for one at every step;
             values, floats: [N, O] at the last step, [N, T, O] at every step;
             or K labels, booleans, any number of them True: [N, K] at the last step, [N, T, K] at
             every step
    lengths  optional, [N]: number of steps of each sequence, from 1 to T. The steps of xs and
             targets after these are ignored, whatever they hold.

  `test_xs`, `test_targets` and `test_lengths` are the held-out sequences, with the same T. Without
  them, a tenth of the sequences, rounded up, is held out: a random choice that is the same in every
  run and version.

  Sequences are moved to the end of the T steps, so that all of them end at step T. The steps before
  them are padding. Vectors are converted to float32, without scaling.

  Args:
    source: path of the file. Pickled objects are not read.
  Raises:
    TypeError: if `source` is not a path.
    ValueError: if the file cannot be read, or an array is missing, unknown, or not as described;
      the message names the array.
  """
  path = checks.path("data_file", source)
  arrays, sha256 = read_arrays(path)
  try:
    return _checked(str(path), sha256, arrays)
  except ValueError as error:
    raise ValueError(f"data_file {path}: {error}") from None


def _checked(name: str, sha256: str, arrays: Mapping[str, np.ndarray]) -> DataFile:
  """Returns the DataFile of these arrays; `name` is the file's.

  Raises:
    ValueError: if an array is missing, unknown, or not as `load_data_file` describes.
  """
  tests = tuple(f"test_{name}" for name in ARRAYS)
  for found in arrays:
    checks.choice("array", found, (*ARRAYS, *tests))
  train = checked_examples(arrays, *ARRAYS)
  if any(test in arrays for test in tests):
    held_out = checked_examples(arrays, *tests)
    for own, test, label in zip(train[:2], held_out[:2], ARRAYS, strict=False):
      if own.shape[1:] != test.shape[1:] or own.dtype != test.dtype:
        raise ValueError(
          f"test_{label} must have the kind and shape of {label}, except for the number of "
          f"sequences: {checks.shown(own)}, got {checks.shown(test)}."
        )
  else:
    train, held_out = _split(train)
  every_step = train.targets.ndim == (2 if train.targets.dtype == np.int32 else 3)
  own = _counted(train, every_step)
  if own.dtype == np.int32:
    if own.min() > 0:
      raise ValueError(f"targets must be classes from 0, got {own.min()} to {own.max()}.")
    output_size = 1 + max(int(part.targets.max()) for part in (train, held_out))
    baseline = entropy(np.bincount(own))
  elif own.dtype == np.bool_:
    output_size = own.shape[1]
    baseline = sum(entropy(np.bincount(label)) for label in own.T)
  else:
    output_size = own.shape[1]
    baseline = float(np.sum(np.var(own, axis=0, dtype=np.float64)))
  if baseline == 0:
    raise ValueError("targets must differ between training sequences or steps, but are all equal.")
  vocabulary_size = None
  if train.xs.dtype == np.int32:
    padding = 1 + max(int(part.xs.max()) for part in (train, held_out))
    padded = any(np.any(part.lengths < part.xs.shape[1]) for part in (train, held_out))
    vocabulary_size = padding + padded
  fill = vocabulary_size - 1 if vocabulary_size is not None else 0
  train, held_out = (_moved_to_the_end(part, fill, every_step) for part in (train, held_out))
  about = every_step, baseline, output_size, vocabulary_size
  return DataFile(name, sha256, train, held_out, *about)


def _split(whole: Examples) -> tuple[Examples, Examples]:
  """Returns (train, held out): a tenth of the sequences, rounded up, is held out."""
  count = len(whole.xs)
  if count < 2:
    raise ValueError("xs must hold at least 2 sequences, so that one can be held out, got 1.")
  # NumPy guarantees that RandomState draws the same numbers in all versions.
  order = np.random.RandomState(0).permutation(count)
  cut = math.ceil(count / 10)
  train, held_out = (
    Examples(*(a[np.sort(part)] for a in whole)) for part in (order[cut:], order[:cut])
  )
  return train, held_out


def _counted(part: Examples, every_step: bool) -> np.ndarray:
  """Returns the targets whose loss counts, [M], [M, O] or [M, K]."""
  if not every_step:
    return part.targets
  return part.targets[np.arange(part.xs.shape[1]) < part.lengths[:, None]]


def _moved_to_the_end(part: Examples, fill: int, every_step: bool) -> Examples:
  """Returns the sequences with their padding before them; `fill` is the padding of xs."""
  num_steps = part.xs.shape[1]
  if np.all(part.lengths == num_steps):
    return part
  source = np.arange(num_steps) - (num_steps - part.lengths[:, None])  # the step in the file

  def moved(values: np.ndarray, fill: int) -> np.ndarray:
    steps = source.reshape(source.shape + (1,) * (values.ndim - 2))
    found = np.take_along_axis(values, np.maximum(steps, 0), axis=1)
    return np.where(steps >= 0, found, np.asarray(fill, values.dtype))

  targets = moved(part.targets, 0) if every_step else part.targets
  return Examples(moved(part.xs, fill), targets, part.lengths)
