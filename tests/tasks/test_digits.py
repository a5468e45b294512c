"""Tests of the tasks on images of digits: parts of the data, batches, targets and baselines."""

from __future__ import annotations

import math
import sys

import jax
import numpy as np
import pytest

from rnn_jax.tasks import digits, sequential_digits, spelling
from rnn_jax.tasks import digits as one_to_one
from rnn_jax.tasks.digits import LETTERS, NAMES, load_images

TRAIN, TEST = load_images("train"), load_images("test")


def drawn(task, seed=0):
  return jax.tree.map(np.asarray, jax.jit(task.batch)(task.data, jax.random.key(seed)))


def test_train_and_test_parts_together_are_all_images_of_scikit_learn():
  from sklearn.datasets import load_digits

  found = load_digits()
  pixels = np.concatenate([TRAIN.pixels, TEST.pixels])
  np.testing.assert_array_equal(pixels * 16, found.data)
  np.testing.assert_array_equal(np.concatenate([TRAIN.digits, TEST.digits]), found.target)
  assert (len(TRAIN.digits), len(TEST.digits)) == (898, 899)
  assert pixels.dtype == np.float32
  assert (pixels.min(), pixels.max()) == (0, 1)


def test_no_image_of_one_part_is_in_the_other():
  assert not {row.tobytes() for row in TRAIN.pixels} & {row.tobytes() for row in TEST.pixels}


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_batch_of_all_examples_is_the_whole_part_once(part):
  images = load_images(part)
  batch = drawn(digits(None, part))
  shown = sorted(zip(map(bytes, batch.xs[0]), batch.targets[0].tolist(), strict=True))
  expected = sorted(zip(map(bytes, images.pixels), images.digits.tolist(), strict=True))
  assert shown == expected


def test_sequential_digits_show_one_pixel_per_step_and_mask_all_but_the_last():
  number = {row.tobytes(): digit for row, digit in zip(TEST.pixels, TEST.digits, strict=True)}
  batch = drawn(sequential_digits(64, 200, "test"))
  assert batch.xs.shape == (64, 200, 1)
  rows = [np.ascontiguousarray(row).tobytes() for row in batch.xs[..., 0].T]
  assert len(set(rows)) == 200
  np.testing.assert_array_equal(batch.targets, [[number[row] for row in rows]] * 64)
  np.testing.assert_array_equal(batch.mask, np.arange(64)[:, None] == np.full(200, 63))


def test_pooled_digits_have_the_last_steps_target_alone():
  whole, pooled = (drawn(sequential_digits(64, 50, pooled=flag)) for flag in (False, True))
  np.testing.assert_array_equal(whole.xs, pooled.xs)
  np.testing.assert_array_equal(whole.targets[-1:], pooled.targets)
  assert pooled.mask.shape == (1, 50)
  assert np.all(pooled.mask)


def test_spelling_targets_the_name_of_the_digit_shown():
  number = {row.tobytes(): digit for row, digit in zip(TRAIN.pixels, TRAIN.digits, strict=True)}
  batch = drawn(spelling(100))
  assert batch.targets.shape == (6, 100)
  assert batch.xs.source_lengths is None
  seen = set()
  steps = batch.mask.sum(axis=0)
  for image, target, length in zip(batch.xs.source, batch.targets.T, steps, strict=True):
    name = NAMES[number[image.tobytes()]]
    assert "".join(LETTERS[token - 1] for token in target[: length - 1]) == name
    seen.add(name)
  assert seen == set(NAMES)


def test_baseline_of_the_class_is_the_entropy_of_the_training_part():
  counts = [list(TRAIN.digits).count(digit) for digit in range(10)]
  entropy = -sum(n / 898 * math.log(n / 898) for n in counts)
  for task in (digits(1), digits(1, "test"), sequential_digits(64, 1, pooled=True)):
    assert task.baseline == pytest.approx(entropy, rel=1e-12)


def test_baseline_of_spelling_is_the_entropy_of_the_letter_at_each_position():
  names = [NAMES[digit] + "." for digit in TRAIN.digits]
  total = steps = 0
  for i in range(6):
    letters = [name[i] for name in names if len(name) > i]
    total -= sum(math.log(letters.count(letter) / len(letters)) for letter in letters)
    steps += len(letters)
  assert spelling(1).baseline == pytest.approx(total / steps, rel=1e-12)


def test_without_scikit_learn_the_error_names_the_package(monkeypatch):
  sys.modules[one_to_one.__module__]._all_images.cache_clear()
  monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
  with pytest.raises(ImportError, match=r"scikit-learn.*pip install scikit-learn"):
    digits(1)
