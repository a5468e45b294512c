"""Sequence-to-sequence tasks: generate the symbols of the source in another order."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from rnn_jax import checks
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DecoderInputs
from rnn_jax.tasks.baselines import guess_entropy
from rnn_jax.tasks.task import Batch, Task

NUM_SYMBOLS = 8  # tokens 1 … 8; token 0 is <eos>

Source = Int[Array, "T B"]
Lengths = Int[Array, " B"]


def reverse(sequence_length: int, batch_size: int) -> Task:
  """Builds an encoder–decoder task: generate the source's symbols in reverse order.

    source  s_1 … s_L                    s_i one of 8 symbols, L uniform from 1 to T
    target  s_L … s_1  <eos>

  The baseline predicts `<eos>` with its true probability at each step, i.e. the share of sequences
  that end there among those that reach the step, and the 8 symbols with equal probability. Its loss
  is

    (ln T + ln 8 · (T + 1)/2) / ((T + 3)/2),

  the entropy of a sequence's length and symbols, divided by the mean number of steps.

  Args:
    sequence_length: T, the length of the longest source.
    batch_size: B.
  Returns:
    The Task, whose batches have xs = DecoderInputs(source [T, B], source_lengths [B], tokens
    [T + 1, B]), targets [T + 1, B], and a mask that is True up to and including the `<eos>`. Token
    0 is `<eos>`, which is also the start token; tokens 1 … 8 are the symbols.
  Raises:
    TypeError, ValueError: if an argument is not an integer of at least 1.
  References:
    Sutskever, Vinyals and Le, 2014, https://arxiv.org/abs/1409.3215
  """

  def reverse_source(source: Source, lengths: Lengths) -> Source:
    steps = jnp.arange(source.shape[0], dtype=jnp.int32)[:, None]
    return jnp.take_along_axis(source, jnp.maximum(lengths[None] - 1 - steps, 0), axis=0)

  return _task(sequence_length, batch_size, reverse_source, _reverse_counts)


def sort(sequence_length: int, batch_size: int) -> Task:
  """Builds an encoder–decoder task: generate the source's symbols in ascending order.

    source  s_1 … s_L                    s_i one of 8 symbols, L uniform from 1 to T
    target  s_1 … s_L sorted, smallest first, then <eos>

  The baseline predicts, at each step, how often each symbol and `<eos>` occur there in sorted
  sequences. Its loss is

    −Σ n_sa ln(n_sa / Σ_a n_sa) / Σ n_sa,

  where n_sa is the probability that a target reaches step s and has token a there.

  Args:
    sequence_length: T, the length of the longest source.
    batch_size: B.
  Returns:
    The Task, whose batches have the same shapes and tokens as those of `reverse`.
  Raises:
    TypeError, ValueError: if an argument is not an integer of at least 1.
  References:
    Vinyals, Bengio and Kudlur, 2015, https://arxiv.org/abs/1511.06391
  """

  def sort_source(source: Source, lengths: Lengths) -> Source:
    del lengths  # unused: padding is made larger than all symbols, so that it is sorted to the end
    return jnp.sort(jnp.where(source > 0, source, NUM_SYMBOLS + 1), axis=0)

  return _task(sequence_length, batch_size, sort_source, _sort_counts)


def _reverse_counts(length: int) -> Float[np.ndarray, "T 8"]:
  return np.outer(length - np.arange(length), np.ones(NUM_SYMBOLS)) / NUM_SYMBOLS


def _sort_counts(length: int) -> Float[np.ndarray, "T 8"]:
  from scipy import special  # imported here because it takes a quarter of a second

  # In a sorted sequence of length L, the symbol at step s is at most a if and only if more than s
  # symbols are at most a. The probability of this is P(Bin(L, p) > s), with p = a / 8. Its sum over
  # all lengths L from 1 to T is Σ_{k > s} P(Bin(T + 1, p) > k) / p.
  p = np.arange(1, NUM_SYMBOLS + 1) / NUM_SYMBOLS
  more = special.bdtrc(np.arange(1, length + 1)[:, None], length + 1, p) / p
  at_most = np.cumsum(more[::-1], axis=0)[::-1]
  # Rounding errors can make a difference negative.
  return np.maximum(np.diff(at_most, axis=1, prepend=0), 0)


def _task(
  sequence_length: int,
  batch_size: int,
  reorder: Callable[[Source, Lengths], Source],
  counts: Callable[[int], Float[np.ndarray, "T 8"]],
) -> Task:
  """Builds the task of generating the source's symbols in the order given by `reorder`.

  Args:
    sequence_length: T, the length of the longest source.
    batch_size: B.
    reorder: `(source [T, B], lengths [B]) -> targets [T, B]`; its values past a sequence's length
      are ignored.
    counts: `T -> [T, 8]`; entry [t, s] is the expected number of targets with symbol s at step t,
      given one source of each length 1 … T.
  """
  checks.integer("sequence_length", sequence_length)
  checks.integer("batch_size", batch_size)
  shape = sequence_length, batch_size

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    symbols_key, lengths_key = jax.random.split(key)
    lengths = jax.random.randint(lengths_key, (batch_size,), 1, sequence_length + 1, jnp.int32)
    steps = jnp.arange(sequence_length + 1, dtype=jnp.int32)[:, None]
    symbols = jax.random.randint(symbols_key, shape, 1, NUM_SYMBOLS + 1, jnp.int32)
    source = jnp.where(steps[:-1] < lengths[None], symbols, 0)
    sequence = jnp.where(steps[:-1] < lengths[None], reorder(source, lengths), 0)
    end = jnp.zeros((1, batch_size), jnp.int32)
    tokens, targets = jnp.concatenate([end, sequence]), jnp.concatenate([sequence, end])
    return Batch(DecoderInputs(source, lengths, tokens), targets, steps <= lengths[None])

  ends = np.minimum(np.arange(sequence_length + 1), 1)
  answers = np.column_stack([ends, np.pad(counts(sequence_length), ((0, 1), (0, 0)))])
  size, baseline = NUM_SYMBOLS + 1, guess_entropy(answers)
  return Task((), (), batch, cross_entropy, "nats per symbol", baseline, size, size)
