"""Tasks: inputs, targets and baselines."""

from __future__ import annotations

import functools
import inspect
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.modules import DecoderInputs
from rnn_jax.tasks import (
  TASKS,
  adding,
  charlm,
  copy_memory,
  digits,
  reverse,
  sequential_digits,
  sort,
  spelling,
  tagging,
  temporal_order,
)
from rnn_jax.text import Corpus, build_vocabulary

T, B = 30, 4


def corpus_of(text):
  vocabulary = build_vocabulary(text)
  return Corpus("tiny", np.frombuffer(text, np.uint8), vocabulary, "")


TEXT = b"To be, or not to be, that is the question: whether 'tis nobler in the mind"
PYTHON = b"\n".join(b"%s = %d  # a line" % (bytes([97 + i]) * (i + 1), i) for i in range(10))
MADE = {
  **{name: functools.partial(make, T, B) for name, make in TASKS.items()},
  "sequential_digits": lambda: sequential_digits(64, B),
  "charlm": lambda: charlm(T, B, corpus_of(TEXT)),
  "digits": lambda: digits(B),
  "pooled_digits": lambda: sequential_digits(64, B, pooled=True),
  "reverse": lambda: reverse(T, B),
  "sort": lambda: sort(T, B),
  "spelling": lambda: spelling(B),
  "tagging": lambda: tagging(T, B, corpus_of(PYTHON)),
}


def drawn(task, seed=0):
  return jax.jit(task.batch)(task.data, jax.random.key(seed))


@pytest.fixture(scope="module", params=MADE)
def made(request):
  """Returns (task, `key -> batch`)."""
  task = MADE[request.param]()
  batch = jax.jit(task.batch)
  return task, lambda key: jax.device_get(batch(task.data, key))


def test_batch_has_the_documented_shapes_and_dtypes(made):
  task, batch_by = made
  batch = batch_by(jax.random.key(0))
  inputs = batch.xs.tokens if isinstance(batch.xs, DecoderInputs) else batch.xs
  steps = len(batch.mask)
  assert (batch.mask.shape, batch.mask.dtype) == ((steps, B), np.bool_)
  assert np.any(batch.mask)
  if task.vocabulary_size is None:
    assert (inputs.ndim, inputs.dtype) == (3, np.float32)
    assert inputs.shape[1] == B
  else:
    assert (inputs.shape, inputs.dtype) == ((steps, B), np.int32)
    assert 0 <= np.min(inputs) <= np.max(inputs) < task.vocabulary_size
  if batch.targets.dtype == np.float32:
    assert batch.targets.shape == (steps, B, task.output_size)
  else:
    assert (batch.targets.shape, batch.targets.dtype) == ((steps, B), np.int32)
    assert 0 <= np.min(batch.targets) <= np.max(batch.targets) < task.output_size


def test_the_mask_is_true_on_valid_steps_alone(made):
  batch = made[1](jax.random.key(0))
  if batch.lengths is not None:
    assert batch.lengths.dtype == np.int32
    np.testing.assert_array_equal(batch.mask, np.arange(len(batch.mask))[:, None] < batch.lengths)


def test_decoders_read_the_target_one_step_late(made):
  batch = made[1](jax.random.key(0))
  if isinstance(batch.xs, DecoderInputs):
    np.testing.assert_array_equal(batch.xs.tokens[0], 0)
    np.testing.assert_array_equal(batch.xs.tokens[1:], batch.targets[:-1])
    # <eos> ends a sequence, and is nowhere else in it.
    for target, valid in zip(batch.targets.T, batch.mask.T, strict=True):
      length = 1 + list(target).index(0)
      assert not np.any(target[length:])
      np.testing.assert_array_equal(valid, np.arange(len(target)) < length)


def test_loss_is_one_number_per_step_and_example(made):
  task, batch_by = made
  batch = batch_by(jax.random.key(0))
  losses = task.loss(jnp.zeros((*batch.mask.shape, task.output_size)), batch.targets)
  assert losses.shape == batch.mask.shape
  if batch.targets.dtype == np.int32:
    np.testing.assert_allclose(losses, math.log(task.output_size), rtol=1e-6)


def test_batch_depends_on_the_key_alone(made):
  first, same, other = (made[1](jax.random.key(seed)) for seed in (0, 0, 1))
  chex.assert_trees_all_equal(first, same)
  if isinstance(first.xs, DecoderInputs):
    first, other = (batch._replace(xs=batch.xs.source) for batch in (first, other))
  assert not np.array_equal(first.xs, other.xs)


def test_batch_can_be_mapped_over_keys(made):
  task, batch_by = made
  keys = jax.random.split(jax.random.key(0), 2)
  mapped = jax.jit(jax.vmap(lambda key: task.batch(task.data, key)))(keys)
  for i, key in enumerate(keys):
    chex.assert_trees_all_equal(jax.tree.map(lambda a, i=i: a[i], mapped), batch_by(key))


# Adding


@pytest.mark.parametrize("length", [2, 5, 30])
def test_adding_marks_one_number_in_each_half_and_targets_their_sum(length):
  xs, targets, mask, _ = drawn(adding(length, 500))
  values, marks = np.moveaxis(xs, -1, 0)
  assert values.min() >= 0
  assert values.max() < 1
  assert set(np.unique(marks)) <= {0, 1}
  np.testing.assert_array_equal(marks[: length // 2].sum(axis=0), 1)
  np.testing.assert_array_equal(marks[length // 2 :].sum(axis=0), 1)
  assert np.all(marks.any(axis=1))  # every position is marked in some example
  np.testing.assert_allclose(
    targets[..., 0], np.tile((values * marks).sum(0), (length, 1)), rtol=1e-6
  )
  np.testing.assert_array_equal(mask, np.arange(length)[:, None] == np.full(500, length - 1))


def test_adding_baseline_is_the_variance_of_the_target():
  task = adding(10, 20_000)
  target = np.asarray(drawn(task).targets[-1, :, 0], np.float64)
  assert task.baseline == 1 / 6
  # The sum has a triangular distribution: σ is 0.0029 for the sample mean, 0.0014 for the variance.
  assert np.mean(target) == pytest.approx(1, abs=0.012)
  assert np.var(target) == pytest.approx(1 / 6, abs=0.006)
  losses = task.loss(jnp.ones((1, 20_000, 1)), target[None, :, None].astype(np.float32))
  assert np.mean(losses) == pytest.approx(task.baseline, abs=0.006)


# Copy memory


@pytest.mark.parametrize("length", [21, 50])
def test_copy_memory_shows_ten_symbols_and_targets_them_after_the_signal(length):
  xs, targets, mask, _ = drawn(copy_memory(length, 200))
  blank, signal = 8, 9
  shown = xs[:10]
  assert set(np.unique(shown)) == set(range(8))
  expected = [blank] * (length - 21) + [signal] + [blank] * 10
  np.testing.assert_array_equal(xs[10:], np.tile(expected, (200, 1)).T)
  np.testing.assert_array_equal(targets[:-10], blank)
  np.testing.assert_array_equal(targets[-10:], shown)
  assert np.all(mask)


def test_copy_memory_baseline_is_a_uniform_guess_at_the_last_ten_steps():
  task = copy_memory(70, B)
  assert task.baseline == pytest.approx(10 * math.log(8) / 70)
  assert task.baseline == pytest.approx(0.2971, abs=5e-5)  # 50 blank steps
  targets = np.asarray(drawn(task).targets)
  logits = np.full((70, B, 9), -1e9, np.float32)
  logits[:-10, :, 8] = 0
  logits[-10:, :, :8] = 0
  assert np.mean(task.loss(logits, targets)) == pytest.approx(task.baseline, rel=1e-5)


# Temporal order


def test_temporal_order_hides_two_signals_and_targets_their_order():
  length, batch_size = 50, 2000
  batch = drawn(temporal_order(length, batch_size))
  xs, targets, mask = map(np.asarray, (batch.xs, batch.targets, batch.mask))
  signals = xs >= 4
  positions = np.argwhere(signals.T)[:, 1].reshape(batch_size, 2)
  assert set(positions[:, 0]) == set(range(5, 10))
  assert set(positions[:, 1]) == set(range(20, 25))
  first, second = xs[positions.T, np.arange(batch_size)] - 4
  np.testing.assert_array_equal(targets, np.tile(2 * first + second, (length, 1)))
  counts = np.bincount(targets[-1])
  assert len(counts) == 4
  np.testing.assert_allclose(counts / batch_size, 0.25, atol=0.04)  # 4 σ
  assert set(np.unique(xs)) == set(range(6))
  np.testing.assert_array_equal(mask, np.arange(length)[:, None] == np.full(batch_size, length - 1))


def test_temporal_order_baseline_is_a_guess_among_four():
  assert temporal_order(10, B).baseline == math.log(4)


# Characters


def test_charlm_targets_are_the_next_characters_of_the_text():
  corpus = corpus_of(TEXT)
  batch = drawn(charlm(8, 50, corpus))
  np.testing.assert_array_equal(batch.xs[1:], batch.targets[:-1])
  for x, target in zip(np.transpose(batch.xs), np.transpose(batch.targets), strict=True):
    window = corpus.vocabulary.decode(np.append(x, target[-1]))
    assert window in TEXT


def test_charlm_windows_cover_the_text_from_start_to_end():
  text = bytes(range(12))
  batch = drawn(charlm(8, 500, corpus_of(text)))
  assert set(np.asarray(batch.xs[0])) == {0, 1, 2, 3}
  assert set(np.asarray(batch.targets[-1])) == {8, 9, 10, 11}


def test_charlm_accepts_a_text_one_character_longer_than_the_window():
  batch = drawn(charlm(3, 2, corpus_of(b"abcd")))
  np.testing.assert_array_equal(batch.xs, [[0, 0], [1, 1], [2, 2]])
  np.testing.assert_array_equal(batch.targets, [[1, 1], [2, 2], [3, 3]])


def test_charlm_baseline_is_the_unigram_entropy():
  task = charlm(2, 1, corpus_of(b"aaaabbcd"))
  assert task.baseline == pytest.approx(1.75 * math.log(2))  # ½·1 + ¼·2 + 2·⅛·3 bits
  assert (task.vocabulary_size, task.output_size) == (4, 4)


def test_charlm_reads_the_standard_library_by_default():
  task = charlm(10, 2)
  assert task.data.dtype == np.uint8
  assert 100 < task.vocabulary_size <= 256
  assert 2 < task.baseline < math.log(task.vocabulary_size)


def test_every_task_takes_a_length_and_a_batch_size_first():
  for make in TASKS.values():
    assert list(inspect.signature(make).parameters)[:2] == ["sequence_length", "batch_size"]
