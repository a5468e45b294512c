"""Tasks on images of digits: classify a whole image, classify pixel by pixel, spell the digit."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from rnn_jax import checks
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DecoderInputs
from rnn_jax.tasks.baselines import count_answers, guess_entropy
from rnn_jax.tasks.examples import PARTS, Part, check_batch_size, draw
from rnn_jax.tasks.task import Batch, Task
from rnn_jax.text import entropy

NUM_PIXELS = 64
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = "".join(sorted(set("".join(NAMES))))  # letter i is token i + 1; token 0 is <eos>


class Images(NamedTuple):
  """Images of handwritten digits, with the digit that each image shows.

  Attributes:
    pixels: float32 [N, 64], from 0 (paper) to 1 (ink), row by row.
    digits: int32 [N], from 0 to 9.
  """

  pixels: Float[np.ndarray, "N 64"]
  digits: Int[np.ndarray, " N"]


def load_images(part: Part) -> Images:
  """Returns the train or the test part of scikit-learn's 1797 handwritten digits, 8×8 pixels each.

  The first 898 images are for training, and the other 899 for testing. An example in
  scikit-learn's documentation uses the same split; its support vector machine classifies 97 % of
  the test part correctly.

  Raises:
    ValueError: if `part` is neither `train` nor `test`.
    ImportError: if scikit-learn is not installed.
  References:
    The data, https://archive.ics.uci.edu/dataset/80
    The example,
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
      "The digits come with scikit-learn, which is not installed: pip install scikit-learn."
    ) from None
  found = load_digits()
  return Images((found.data / 16).astype(np.float32), found.target.astype(np.int32))


def digits(batch_size: int | None, part: Part = "train") -> Task:
  """Builds a one-to-one task: classify a whole image in a single step, which needs no memory.

    x_1 = the 64 pixels;  target at t = 1: the digit, class 0 … 9

  The baseline loss is −Σ p ln p with p the digits' frequencies in the training split: the loss of
  always predicting these.

  Args:
    batch_size: B, number of images per batch, drawn without repeats; None for the whole split.
    part: `train` or `test`, as in `load_images`: the images in `data`. The held-out images are
      those of the test part in both cases.
  Returns:
    The Task, whose batches have xs [1, B, 64] and targets [1, B].
  Raises:
    TypeError, ValueError: if an argument is out of range.
    ImportError: if scikit-learn is not installed.
  """
  return _classification(batch_size, part, 1, pooled=True)


def sequential_digits(
  sequence_length: int, batch_size: int | None, part: Part = "train", *, pooled: bool = False
) -> Task:
  """Builds a many-to-one task: classify an image that is read pixel by pixel, row by row.

    x_t = pixel t;  target at t = 64: the digit, class 0 … 9

  The baseline loss is −Σ p ln p with p the digits' frequencies in the training split: the loss of
  always predicting these.

  Args:
    sequence_length: T, which must be 64.
    batch_size: B, number of images per batch, drawn without repeats; None for the whole split.
    part: `train` or `test`, as in `load_images`: the images in `data`. The held-out images are
      those of the test part in both cases.
    pooled: whether the network has a single output per sequence. If True, targets and mask are
      [1, B].
  Returns:
    The Task, whose batches have xs [64, B, 1], targets [64, B], and a mask that is True at the last
    step only.
  Raises:
    TypeError, ValueError: if an argument is out of range.
    ImportError: if scikit-learn is not installed.
  References:
    Le, Jaitly and Hinton, 2015 (with 28×28 pixels), https://arxiv.org/abs/1504.00941
  """
  checks.integer("sequence_length", sequence_length)
  if sequence_length != NUM_PIXELS:
    raise ValueError(
      f"sequence_length must be {NUM_PIXELS}, the pixels of an image, got {sequence_length}."
    )
  checks.boolean("pooled", pooled)
  return _classification(batch_size, part, NUM_PIXELS, pooled)


def permuted_digits(
  sequence_length: int, batch_size: int | None, part: Part = "train", *, pooled: bool = False
) -> Task:
  """Builds `sequential_digits` with the pixels of all images in the same random order.

    x_t = pixel π(t),  π a fixed permutation of the 64 pixels;  target at t = 64: the digit

  Neighboring pixels are then read at distant steps, so the digit depends on longer memories. π is
  the same in all runs and versions.

  Args:
    sequence_length, batch_size, part, pooled: see `sequential_digits`.
  Returns:
    The Task, with the baseline, batches and held-out images of `sequential_digits`.
  Raises:
    TypeError, ValueError, ImportError: as in `sequential_digits`.
  References:
    Le, Jaitly and Hinton, 2015 (with 28×28 pixels), https://arxiv.org/abs/1504.00941
  """
  task = sequential_digits(sequence_length, batch_size, part, pooled=pooled)
  # NumPy promises that the numbers of a RandomState are the same in all its versions.
  order = np.random.RandomState(0).permutation(NUM_PIXELS)

  def permuted(images: Images) -> Images:
    return images._replace(pixels=images.pixels[:, order])

  return task._replace(data=permuted(task.data), held_out=permuted(task.held_out))


def _classification(batch_size: int | None, part: Part, num_steps: int, pooled: bool) -> Task:
  images = load_images(part)
  check_batch_size(batch_size, len(images.digits), part)
  outputs = 1 if pooled else num_steps

  def batch(data: Images, key: Key[Array, ""]) -> Batch:
    chosen = draw(key, data.digits.shape[0], batch_size)
    count = len(chosen)
    xs = jnp.asarray(data.pixels)[chosen].T.reshape(num_steps, -1, count)
    targets = jnp.broadcast_to(jnp.asarray(data.digits)[chosen][None], (outputs, count))
    mask = jnp.zeros((outputs, count), bool).at[-1].set(True)
    return Batch(xs.transpose(0, 2, 1), targets, mask)

  baseline = entropy(np.bincount(load_images("train").digits))
  held_out = load_images("test")
  return Task(images, held_out, batch, cross_entropy, "nats", baseline, len(NAMES), None)


def spelling(batch_size: int | None, part: Part = "train") -> Task:
  """Builds a one-to-many task: spell the English name of the digit that an image shows.

    source  the 64 pixels
    tokens  <eos>  t  w  o               target  t  w  o  <eos>

  The baseline loss is that of predicting, at each position of a name, each letter's frequency at
  this position in the training part.

  Args:
    batch_size: B, number of images per batch, drawn without repeats; None for the whole split.
    part: `train` or `test`, as in `load_images`: the images in `data`. The held-out images are
      those of the test part in both cases.
  Returns:
    The Task, whose batches have xs = DecoderInputs(source [B, 64], None, tokens [6, B]), targets
    [6, B], and a mask that is True up to and including the `<eos>`, i.e. for 4 to 6 steps. Token 0
    is `<eos>`, which is also the start token; token i + 1 is `LETTERS[i]`.
  Raises:
    TypeError, ValueError: if an argument is out of range.
    ImportError: if scikit-learn is not installed.
  """
  images = load_images(part)
  check_batch_size(batch_size, len(images.digits), part)
  names, lengths = _spelled_names()
  num_steps = names.shape[1]

  def batch(data: Images, key: Key[Array, ""]) -> Batch:
    chosen = draw(key, data.digits.shape[0], batch_size)
    shown = jnp.asarray(data.digits)[chosen]
    targets, ends = jnp.asarray(names)[shown].T, jnp.asarray(lengths)[shown]
    tokens = jnp.concatenate([jnp.zeros_like(targets[:1]), targets[:-1]])
    mask = jnp.arange(num_steps, dtype=jnp.int32)[:, None] < ends[None]
    return Batch(DecoderInputs(jnp.asarray(data.pixels)[chosen], None, tokens), targets, mask)

  size = len(LETTERS) + 1
  shown = load_images("train").digits
  valid = np.arange(num_steps)[None] < lengths[shown][:, None]
  steps = np.broadcast_to(np.arange(num_steps), valid.shape)
  baseline = guess_entropy(count_answers(steps[valid], names[shown][valid], num_steps, size))
  held_out = load_images("test")
  return Task(images, held_out, batch, cross_entropy, "nats per letter", baseline, size, size)


def _spelled_names() -> tuple[Int[np.ndarray, "10 T"], Int[np.ndarray, " 10"]]:
  """Returns each digit's name as tokens, padded with <eos>, and its length including one <eos>."""
  lengths = np.array([len(name) + 1 for name in NAMES], np.int32)
  names = np.zeros((len(NAMES), max(lengths)), np.int32)
  for row, name in zip(names, NAMES, strict=True):
    row[: len(name)] = [LETTERS.index(letter) + 1 for letter in name]
  return names, lengths
