"""Images of digits: as one vector, pixel by pixel, and spelled out."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DecoderInputs
from rnn_jax.tasks.baselines import count_answers, guess_entropy
from rnn_jax.tasks.examples import PARTS, Part, check_batch_size, draw
from rnn_jax.tasks.task import Batch, Task
from rnn_jax.text import entropy
from rnn_jax.types import Array

NUM_PIXELS = 64
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = "".join(sorted(set("".join(NAMES))))  # token 0 is <eos>, then these


class Images(NamedTuple):
  """Images and the digits that they show.

  Attributes:
    pixels: float32 [N, 64], from 0 (paper) to 1 (ink), row by row.
    digits: int32 [N].
  """

  pixels: np.ndarray
  digits: np.ndarray


def load_images(part: Part) -> Images:
  """The 1797 handwritten digits, 8×8 pixels, that come with scikit-learn.

  The first 898 are for training and the other 899 for testing, as in scikit-learn's own example of
  recognising them, whose support vector machine finds 97 % of the second half.

  Raises:
    ValueError: an unknown part.
    ImportError: scikit-learn is not installed.
  References:
    https://archive.ics.uci.edu/dataset/80; the example,
    https://scikit-learn.org/stable/auto_examples/classification/plot_digits_classification.html
  """
  checks.choice("part", part, PARTS)
  images = _all_images()
  half = len(images.digits) // 2
  where = slice(half) if part == "train" else slice(half, None)
  return Images(images.pixels[where], images.digits[where])


@functools.cache
def _all_images() -> Images:
  try:
    from sklearn.datasets import load_digits
  except ImportError:
    raise ImportError(
      "Digits come with scikit-learn, which must be installed: pip install scikit-learn."
    ) from None
  found = load_digits()
  return Images((found.data / 16).astype(np.float32), found.target.astype(np.int32))


def digits(batch_size: int | None, part: Part = "train") -> Task:
  """One to one: which digit does an image show? There is nothing to remember.

    x_1 = the 64 pixels;  class 0 … 9 at t = 1

  The baseline knows how often each digit occurs in the training part: −Σ p ln p.

  Args:
    batch_size: B different images; None for all of the part.
    part: `train` or `test`, see `load_images`.
  Returns:
    The Task: xs [1, B, 64], targets [1, B].
  Raises:
    TypeError, ValueError: an argument out of range.
    ImportError: scikit-learn is not installed.
  """
  return _classified(batch_size, part, 1, pooled=True)


def sequential_digits(
  sequence_length: int, batch_size: int | None, part: Part = "train", *, pooled: bool = False
) -> Task:
  """Many to one: which digit does an image show that is read pixel by pixel, row by row?

    x_t = pixel t;  class 0 … 9 at t = 64

  The baseline knows how often each digit occurs in the training part: −Σ p ln p.

  Args:
    sequence_length: T, which must be 64.
    batch_size: B different images; None for all of the part.
    part: `train` or `test`, see `load_images`.
    pooled: for a network that gives one output for all steps; targets are then [1, B].
  Returns:
    The Task: xs [64, B, 1], targets [64, B], loss at the last step only.
  Raises:
    TypeError, ValueError: an argument out of range.
    ImportError: scikit-learn is not installed.
  References:
    with 28×28 pixels, Le, Jaitly and Hinton, 2015, https://arxiv.org/abs/1504.00941
  """
  checks.integer("sequence_length", sequence_length)
  if sequence_length != NUM_PIXELS:
    raise ValueError(
      f"sequence_length must be {NUM_PIXELS}, the pixels of an image, got {sequence_length}."
    )
  return _classified(batch_size, part, NUM_PIXELS, pooled)


def _classified(batch_size: int | None, part: Part, num_steps: int, pooled: bool) -> Task:
  images = load_images(part)
  count = check_batch_size(batch_size, len(images.digits), part)
  outputs = 1 if pooled else num_steps

  def batch(data: Images, key: Array) -> Batch:
    places = draw(key, data.digits.shape[0], count)
    xs = jnp.asarray(data.pixels)[places].T.reshape(num_steps, -1, count)
    targets = jnp.broadcast_to(jnp.asarray(data.digits)[places][None], (outputs, count))
    mask = jnp.zeros((outputs, count), bool).at[-1].set(True)
    return Batch(xs.transpose(0, 2, 1), targets, mask)

  baseline = entropy(np.bincount(load_images("train").digits))
  return Task(images, batch, cross_entropy, "nats", baseline, len(NAMES), None)


def spelling(batch_size: int | None, part: Part = "train") -> Task:
  """One to many: the English name of the digit that an image shows, letter by letter.

    source  the 64 pixels
    tokens  <eos>  t  w  o               target  t  w  o  <eos>

  The baseline knows how often each letter occurs at each place of the training part's names.

  Args:
    batch_size: B different images; None for all of the part.
    part: `train` or `test`, see `load_images`.
  Returns:
    The Task: xs DecoderInputs(source [B, 64], None, tokens [6, B]), targets [6, B], loss at all
    steps up to the `<eos>`, 4 to 6. Token 0 is `<eos>`, also the start token; `LETTERS` the others.
  Raises:
    TypeError, ValueError: an argument out of range.
    ImportError: scikit-learn is not installed.
  """
  images = load_images(part)
  count = check_batch_size(batch_size, len(images.digits), part)
  num_steps = max(map(len, NAMES)) + 1
  lengths = np.array([len(name) + 1 for name in NAMES], np.int32)
  spelled = np.zeros((len(NAMES), num_steps), np.int32)
  for row, name in zip(spelled, NAMES, strict=True):
    row[: len(name)] = [LETTERS.index(letter) + 1 for letter in name]

  def batch(data: Images, key: Array) -> Batch:
    places = draw(key, data.digits.shape[0], count)
    shown = jnp.asarray(data.digits)[places]
    targets, ends = jnp.asarray(spelled)[shown].T, jnp.asarray(lengths)[shown]
    tokens = jnp.concatenate([jnp.zeros_like(targets[:1]), targets[:-1]])
    mask = jnp.arange(num_steps, dtype=jnp.int32)[:, None] < ends[None]
    return Batch(DecoderInputs(jnp.asarray(data.pixels)[places], None, tokens), targets, mask)

  shown = load_images("train").digits
  valid = np.arange(num_steps)[None] < lengths[shown][:, None]
  steps = np.broadcast_to(np.arange(num_steps), valid.shape)
  size = len(LETTERS) + 1
  baseline = guess_entropy(count_answers(steps[valid], spelled[shown][valid], num_steps, size))
  return Task(images, batch, cross_entropy, "nats per letter", baseline, size, size)
