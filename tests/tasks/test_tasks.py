"""Tests of the properties that all tasks share: shapes, masks, losses, and the role of the key."""

from __future__ import annotations

import functools
import inspect
import math
import re
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from rnn_jax.modules import DecoderInputs
from rnn_jax.tasks import (
  TASKS,
  DataFile,
  charlm,
  data_file,
  digits,
  permuted_digits,
  reverse,
  selective_copying,
  sequential_digits,
  sort,
  spelling,
  tagging,
)
from rnn_jax.tasks.data_file import Examples
from rnn_jax.text import Corpus, build_vocabulary

T, B = 30, 4


def corpus_of(text):
  vocabulary = build_vocabulary(text)
  return Corpus("tiny", np.frombuffer(text, np.uint8), vocabulary, "")


TEXT = b"To be, or not to be, that is the question: whether 'tis nobler in the mind"

PYTHON = b"\n".join(b"%s = %d  # a line" % (bytes([97 + i]) * (i + 1), i) for i in range(10))

EXAMPLES = Examples(
  np.random.default_rng(0).normal(size=(20, T, 3)).astype(np.float32),
  np.arange(20, dtype=np.int32) % 2,
  np.full(20, T, np.int32),
)
PARTS = Examples(*(a[:12] for a in EXAMPLES)), Examples(*(a[12:] for a in EXAMPLES))
DATA = DataFile("data.npz", "", *PARTS, False, math.log(2), 2, None)

MADE = {
  **{name: functools.partial(make, T, B) for name, make in TASKS.items()},
  "data_file": lambda: data_file(T, B, DATA),
  "permuted_digits": lambda: permuted_digits(64, B),
  "selective_copying": lambda: selective_copying(32, B),
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
  """Each task in turn, paired with its jitted function `key -> batch`."""
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
    # A sequence ends at its first <eos>, token 0. The padding after it is also <eos>.
    for target, valid in zip(batch.targets.T, batch.mask.T, strict=True):
      length = 1 + list(target).index(0)
      assert not np.any(target[length:])
      np.testing.assert_array_equal(valid, np.arange(len(target)) < length)


def test_loss_is_one_number_per_step_and_example(made):
  task, batch_by = made
  batch = batch_by(jax.random.key(0))
  outputs = np.zeros((*batch.mask.shape, task.output_size), np.float32)
  losses = jax.jit(task.loss)(outputs, batch.targets)
  assert losses.shape == batch.mask.shape
  if batch.targets.dtype == np.int32:
    np.testing.assert_allclose(losses, math.log(task.output_size), rtol=1e-6)


def test_batch_depends_on_the_key_alone(made):
  first, same, other = (made[1](jax.random.key(seed)) for seed in (0, 0, 1))
  chex.assert_trees_all_equal(first, same)
  if isinstance(first.xs, DecoderInputs):
    first, other = (batch._replace(xs=batch.xs.source) for batch in (first, other))
  assert not np.array_equal(first.xs, other.xs)


def test_held_out_batches_show_nothing_of_the_training_data(made):
  task, batch_by = made
  if not jax.tree.leaves(task.data):  # batches depend on the key alone
    assert task.held_out == ()
    return
  batch = jax.jit(task.batch)
  seen, held_out = set(), set()
  for seed in range(20):
    key = jax.random.key(seed)
    before, after = batch_by(key), jax.device_get(batch(task.held_out, key))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert len(after.mask) == len(before.mask)
    assert task.loss(np.zeros((*after.mask.shape, task.output_size)), after.targets).ndim == 2
    seen |= shown(before)
    held_out |= shown(after)
  assert held_out
  assert not held_out & seen


def shown(batch):
  """Returns what the sequences of a batch show, each as bytes."""
  xs = batch.xs.source if isinstance(batch.xs, DecoderInputs) else np.swapaxes(batch.xs, 0, 1)
  return {np.ascontiguousarray(x).tobytes() for x in xs}


@pytest.mark.parametrize("make", [digits, spelling, functools.partial(sequential_digits, 64)])
@pytest.mark.parametrize("part", ["train", "test"])
def test_the_test_part_is_held_out_whatever_the_part(make, part):
  task, test = make(None, part), make(None, "test")
  chex.assert_trees_all_equal(task.held_out, test.data)
  batch = jax.eval_shape(task.batch, task.held_out, jax.random.key(0))
  assert batch.mask.shape[1] == len(test.data.digits)  # None: all of the part


def test_a_held_out_part_smaller_than_a_batch_is_shown_whole():
  task = tagging(T, 8, corpus_of(PYTHON))
  batch = task.batch(task.held_out, jax.random.key(0))
  assert batch.mask.shape == (T, 2)
  assert sorted(batch.lengths.tolist()) == sorted(task.held_out.lengths.tolist())


def test_batch_can_be_mapped_over_keys(made):
  task, batch_by = made
  keys = jax.random.split(jax.random.key(0), 2)
  mapped = jax.device_get(jax.jit(jax.vmap(lambda key: task.batch(task.data, key)))(keys))
  for i, key in enumerate(keys):
    chex.assert_trees_all_equal(jax.tree.map(lambda a, i=i: a[i], mapped), batch_by(key))


def test_a_batch_is_the_same_with_and_without_jit(made):
  task, batch_by = made
  key = jax.random.key(0)
  chex.assert_trees_all_close(jax.device_get(task.batch(task.data, key)), batch_by(key), rtol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_tasks_of_sweeps_have_full_sequences_and_a_target_at_the_last_step(name):
  task = MADE[name]()
  batch = drawn(task)
  assert batch.lengths is None
  assert len(batch.xs) == len(batch.mask)
  assert np.all(batch.mask[-1])


def test_every_task_takes_a_length_and_a_batch_size_first():
  for make in TASKS.values():
    assert list(inspect.signature(make).parameters)[:2] == ["sequence_length", "batch_size"]


def test_the_readme_of_sweeps_lists_the_tasks():
  text = (Path(__file__).parents[2] / "experiments/sweep/README.md").read_text()
  table = text.partition("## Tasks\n")[2].partition("\n## ")[0]
  rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
  assert re.findall(r"`(\w+)`", "".join(rows)) == sorted(TASKS)
