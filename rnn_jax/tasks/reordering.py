"""One sequence in, another one out: the same symbols in another order."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from rnn_jax import checks
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DecoderInputs
from rnn_jax.tasks.baselines import guess_entropy
from rnn_jax.tasks.task import Batch, Task
from rnn_jax.types import Array

NUM_SYMBOLS = 8  # tokens 1 … 8; token 0 is <eos>


def reverse(sequence_length: int, batch_size: int) -> Task:
  """Encoder–decoder: a sequence of symbols, read to its end, is generated backwards.

    source  s_1 … s_L                    s_i one of 8 symbols, L from 1 to T, all as likely
    target  s_L … s_1  <eos>

  The baseline guesses each of the symbols alike, and knows how often the sequences that get to a
  step end there. It costs (ln T + ln 8 · (T + 1)/2) / ((T + 3)/2): the length, and the symbols, of
  a sequence, by the mean number of its steps.

  Args:
    sequence_length: T, the longest source.
    batch_size: B.
  Returns:
    The Task: xs DecoderInputs(source tokens [T, B], source_lengths [B], tokens [T + 1, B]), targets
    [T + 1, B], loss at all steps up to the `<eos>`, which is token 0 and starts a sequence too.
  References:
    Sutskever, Vinyals and Le, 2014, https://arxiv.org/abs/1409.3215
  """

  def reversed_(source: Array, lengths: Array) -> Array:
    steps = jnp.arange(source.shape[0], dtype=jnp.int32)[:, None]
    return jnp.take_along_axis(source, jnp.maximum(lengths[None] - 1 - steps, 0), axis=0)

  def counts(length: int) -> np.ndarray:
    return np.outer(length - np.arange(length), np.ones(NUM_SYMBOLS)) / NUM_SYMBOLS

  return _reordering(sequence_length, batch_size, reversed_, counts)


def sort(sequence_length: int, batch_size: int) -> Task:
  """Encoder–decoder: a sequence of symbols, read to its end, is generated in order.

    source  s_1 … s_L                    s_i one of 8 symbols, L from 1 to T, all as likely
    target  the same, smallest first, then <eos>

  The baseline knows how often each symbol comes first, second … in order, and how often the
  sequences that get to a step end there. With n_sa the probability that step s exists and its
  symbol is a, it costs −Σ n_sa ln(n_sa / Σ_a n_sa) / Σ n_sa.

  Args:
    sequence_length: T, the longest source.
    batch_size: B.
  Returns:
    The Task, as that of `reverse`.
  References:
    Vinyals, Bengio and Kudlur, 2015, https://arxiv.org/abs/1511.06391
  """

  def ordered(source: Array, lengths: Array) -> Array:
    del lengths  # what is past the end has no place among the symbols
    return jnp.sort(jnp.where(source > 0, source, NUM_SYMBOLS + 1), axis=0)

  def counts(length: int) -> np.ndarray:
    # The symbol at step s is at most a where more than s of L are: P(Bin(L, p) > s), p = a / 8.
    # Over all L up to T these add up to Σ_{k > s} P(Bin(T + 1, p) > k) / p.
    p = np.arange(1, NUM_SYMBOLS + 1) / NUM_SYMBOLS
    more = special.bdtrc(np.arange(1, length + 1)[:, None], length + 1, p) / p
    at_most = np.cumsum(more[::-1], axis=0)[::-1]
    return np.maximum(np.diff(at_most, axis=1, prepend=0), 0)  # not below it by rounding

  return _reordering(sequence_length, batch_size, ordered, counts)


def _reordering(
  sequence_length: int,
  batch_size: int,
  reordered: Callable[[Array, Array], Array],
  counts: Callable[[int], np.ndarray],
) -> Task:
  """The task.

  Args:
    sequence_length: T.
    batch_size: B.
    reordered: `(source [T, B], lengths [B]) -> [T, B]`, whatever past the end.
    counts: `T -> [T, 8]`, how often each symbol occurs at each step, of one sequence a length.
  """
  checks.integer("sequence_length", sequence_length)
  checks.integer("batch_size", batch_size)
  shape = sequence_length, batch_size

  def batch(data: tuple[()], key: Array) -> Batch:
    del data
    symbols_key, lengths_key = jax.random.split(key)
    lengths = jax.random.randint(lengths_key, (batch_size,), 1, sequence_length + 1, jnp.int32)
    steps = jnp.arange(sequence_length + 1, dtype=jnp.int32)[:, None]
    symbols = jax.random.randint(symbols_key, shape, 1, NUM_SYMBOLS + 1, jnp.int32)
    source = jnp.where(steps[:-1] < lengths[None], symbols, 0)
    sequence = jnp.where(steps[:-1] < lengths[None], reordered(source, lengths), 0)
    end = jnp.zeros((1, batch_size), jnp.int32)
    tokens, targets = jnp.concatenate([end, sequence]), jnp.concatenate([sequence, end])
    return Batch(DecoderInputs(source, lengths, tokens), targets, steps <= lengths[None])

  ends = np.minimum(np.arange(sequence_length + 1), 1)
  answers = np.column_stack([ends, np.pad(counts(sequence_length), ((0, 1), (0, 0)))])
  size = NUM_SYMBOLS + 1
  return Task((), batch, cross_entropy, "nats per symbol", guess_entropy(answers), size, size)
