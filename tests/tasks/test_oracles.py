"""Tests of tasks by an oracle that solves each one, and by the guess of the baseline."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import numpy as np
import pytest

from rnn_jax.losses import accuracy
from rnn_jax.tasks import (
  TASKS,
  group_word_problem,
  permuted_digits,
  sequential_digits,
)
from rnn_jax.tasks.digits import load_images
from rnn_jax.tasks.teacher_student import make_teacher

T = 64


def adding(xs):
  return (xs[..., 0] * xs[..., 1]).sum(axis=0)[None, :, None] * np.ones((len(xs), 1, 1))


def copy_memory(xs):
  return np.concatenate([np.full_like(xs[:-10], 8), xs[:10]])


def temporal_order(xs):
  signals = [[token - 4 for token in x if token >= 4] for x in xs.T]
  return np.tile([2 * first + second for first, second in signals], (len(xs), 1))


def parity(xs):
  return np.cumsum(xs, axis=0) % 2


def products(degree):
  """Returns the oracle of a word problem, which composes permutations as Python functions."""
  elements = list(itertools.permutations(range(degree)))

  def solve(xs):
    def prefixes(x):
      total = tuple(range(degree))
      for g in (elements[token] for token in x):
        total = tuple(total[g[i]] for i in range(degree))
        yield elements.index(total)

    return np.array([list(prefixes(x)) for x in xs.T]).T

  return solve


def flip_flop(xs):
  ys = np.copy(xs)
  for t in range(1, len(ys)):
    ys[t] = np.where(ys[t] == 0, ys[t - 1], ys[t])
  return ys


def associative_recall(xs):
  pairs = len(xs) // 16
  ys = np.zeros_like(xs)
  for x, y in zip(xs.T, ys.T, strict=True):
    value_of = dict(zip(x[0 : 2 * pairs : 2], x[1 : 2 * pairs : 2], strict=True))
    y[2 * pairs :] = [value_of.get(token, 32) - 32 for token in x[2 * pairs :]]
  return ys


def selective_copying(xs):
  symbols = np.array([[token for token in x if token < 14] for x in xs.T]).T
  return np.concatenate([np.zeros_like(xs[16:]), symbols])


def delayed_xor(xs):
  first, second = np.sign(xs.sum(axis=0)).T
  return np.tile(first != second, (len(xs), 1)).astype(np.int32)


def delayed_match_to_sample(xs):
  shown = [[token for token in x if token < 8] for x in xs.T]
  return np.tile([x[0] == x[-1] for x in shown], (len(xs), 1)).astype(np.int32)


def teacher_student(xs):
  eigenvalues, readout = make_teacher(100.0)
  response = (eigenvalues ** np.arange(len(xs))[:, None] @ readout).real
  ys = [np.convolve(x, response)[: len(x)] for x in np.asarray(xs[..., 0], np.float64).T]
  return np.transpose(ys)[..., None]


def look_up(order):
  """Returns the oracle of digits that are read in a given order, which knows all images."""
  images = [load_images(part) for part in ("train", "test")]
  digit_of = {
    pixels[order].tobytes(): digit
    for part in images
    for pixels, digit in zip(part.pixels, part.digits, strict=True)
  }
  return lambda xs: np.tile(
    [digit_of[np.ascontiguousarray(x).tobytes()] for x in xs[..., 0].T], (len(xs), 1)
  )


def permuted_pixels():
  """Returns the order of `permuted_digits`, found from what it shows for the same key."""
  plain, permuted = (
    np.asarray(make(64, None).batch(make(64, None).data, jax.random.key(0)).xs[..., 0])
    for make in (sequential_digits, permuted_digits)
  )
  # Corner pixels are blank in all images, so some pixels are equal; any of them will do.
  columns = {}
  for i, column in enumerate(plain):
    columns.setdefault(column.tobytes(), []).append(i)
  return [columns[column.tobytes()].pop() for column in permuted]


ORACLES = {
  "adding": adding,
  "associative_recall": associative_recall,
  "copy_memory": copy_memory,
  "delayed_match_to_sample": delayed_match_to_sample,
  "delayed_xor": delayed_xor,
  "flip_flop": flip_flop,
  "parity": parity,
  "permuted_digits": lambda xs: look_up(permuted_pixels())(xs),
  "s3": products(3),
  "s5": products(5),
  "selective_copying": selective_copying,
  "sequential_digits": lambda xs: look_up(list(range(64)))(xs),
  "teacher_student": teacher_student,
  "temporal_order": temporal_order,
}
# Each example's loss is that of guessing among equally likely classes, or of the mean, which is 0.
UNIFORM = {
  *("associative_recall", "delayed_match_to_sample", "delayed_xor", "flip_flop", "parity"),
  *("s3", "s5", "selective_copying", "teacher_student", "temporal_order"),
}


@functools.cache
def drawn(name, held_out=False, batch_size=32, seed=0):
  task = TASKS[name](T, batch_size)
  data = task.held_out if held_out else task.data
  return task, jax.device_get(jax.jit(task.batch)(data, jax.random.key(seed)))


def masked(task, batch, outputs):
  """Returns each example's mean loss, and the mean loss over all steps that count."""
  losses = np.where(batch.mask, task.loss(outputs, batch.targets), 0).astype(np.float64)
  return losses.sum(axis=0) / batch.mask.sum(axis=0), losses.sum() / batch.mask.sum()


def test_all_tasks_that_can_be_solved_have_an_oracle():
  # No oracle knows the next character, or a user's data.
  assert ORACLES.keys() == TASKS.keys() - {"charlm", "data_file"}


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("name", ORACLES)
def test_an_oracle_has_a_loss_of_0(name, held_out):
  task, batch = drawn(name, held_out, seed=int(held_out))
  answers = ORACLES[name](batch.xs)
  if batch.targets.dtype == np.int32:
    outputs = 100 * np.eye(task.output_size, dtype=np.float32)[answers]
    right = accuracy(outputs, batch.targets)
    np.testing.assert_array_equal(np.asarray(right)[batch.mask], 1)
  else:
    outputs = answers.astype(np.float32)
  _, loss = masked(task, batch, outputs)
  assert loss < 1e-10
  assert loss < 1e-9 * task.baseline


@pytest.mark.parametrize("name", sorted(UNIFORM))
def test_the_guess_that_knows_no_inputs_has_the_baseline_loss(name):
  task, batch = drawn(name, batch_size=2000)
  outputs = np.zeros((*batch.mask.shape, task.output_size), np.float32)
  losses, loss = masked(task, batch, outputs)
  error = losses.std() / math.sqrt(len(losses))
  assert loss == pytest.approx(task.baseline, rel=1e-6, abs=4 * error)
  if batch.targets.dtype != np.int32:
    assert error < 0.05 * task.baseline  # the comparison above means something
    mean = np.asarray(batch.targets, np.float64).mean(axis=1)
    assert np.abs(mean).max() < 5 * np.asarray(batch.targets).std() / math.sqrt(len(losses))


@pytest.mark.parametrize(
  "name", sorted(UNIFORM - {"associative_recall", "flip_flop", "teacher_student"})
)
def test_no_answer_is_likelier_than_another_at_any_step(name):
  task, batch = drawn(name, batch_size=2000)
  p = 1 / task.output_size
  for target, valid in zip(batch.targets, batch.mask, strict=True):
    if np.any(valid):
      counts = np.bincount(target[valid], minlength=task.output_size)
      expected = p * valid.sum()
      # 120 classes at 64 steps are 7680 comparisons; a normal variable passes 6 once in 5 · 10⁸.
      np.testing.assert_allclose(counts, expected, atol=6 * math.sqrt(expected * (1 - p)) + 1)


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_the_words_of_two_permutations_are_all_products_of_the_group(degree):
  task = group_word_problem(2, 4000, degree)
  xs, targets, _, _ = jax.device_get(jax.jit(task.batch)((), jax.random.key(0)))
  table = products(degree)(xs)
  np.testing.assert_array_equal(targets, table)
  assert len({tuple(x) for x in xs.T}) == math.factorial(degree) ** 2
  assert task.baseline == math.log(math.factorial(degree))
