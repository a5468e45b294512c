"""Recall tasks: associative recall and selective copying."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from rnn_jax import checks
from rnn_jax.losses import cross_entropy
from rnn_jax.tasks.examples import draw_each
from rnn_jax.tasks.task import Batch, Task

_POWER = 0.01  # a of the power law i^(a − 1) of the distances between pairs and queries


def associative_recall(
  sequence_length: int,
  batch_size: int,
  num_pairs: int | None = None,
  vocabulary_size: int | None = None,
) -> Task:
  """Builds multi-query associative recall: answer each of D keys with the value paired with it.

    input   k_1 v_1 … k_D v_D  ␣ k_i ␣ ␣ ␣ k_j ␣ …  k_l       k ∈ 1 … V/2 − 1,  v ∈ V/2 … V − 1
    target                       v_i       v_j      v_l        ␣ = 0

  All keys are distinct, and so are all values. Each key is queried once, in random order. The
  queries take D of the ⌊(T − 2D)/2⌋ slots after the pairs; slots are two steps apart. The i-th slot
  is chosen with a probability proportional to i^(0.01 − 1), so most queries come early. The last
  query is always at the last step, which is the only difference from the paper's code.

  The baseline predicts all values with equal probability, which costs ln(V/2) nats.

  Published setting: V = 8192, and D = T/16 for T = 64, 128 and 256.

  Args:
    sequence_length: T, at least 4 D.
    batch_size: B.
    num_pairs: D. If None, T/16 rounded down, but at least 1.
    vocabulary_size: V, large enough for D keys. If None, the smallest power of two with at least
      4 D keys. (With the paper's V, the readout takes most of a small network's time.)
  Returns:
    The Task, whose batches have tokens [T, B] from a vocabulary of V, targets [T, B] (class c is
    the value V/2 + c), and a mask that is True at the queries only.
  Raises:
    TypeError, ValueError: if an argument is not an integer, or out of range.
  References:
    Arora et al., 2023, https://arxiv.org/abs/2312.04927
  """
  checks.integer("sequence_length", sequence_length, minimum=4)
  checks.integer("batch_size", batch_size)
  if num_pairs is None:
    num_pairs = max(1, sequence_length // 16)
  checks.integer("num_pairs", num_pairs)
  checks.integer("sequence_length", sequence_length, minimum=4 * num_pairs)
  if vocabulary_size is None:
    vocabulary_size = 1 << (8 * num_pairs + 1).bit_length()
  checks.integer("vocabulary_size", vocabulary_size, minimum=2 * num_pairs + 2)
  first_value = vocabulary_size // 2
  num_values = vocabulary_size - first_value
  num_slots = (sequence_length - 2 * num_pairs) // 2
  slots = sequence_length - 1 - 2 * np.arange(num_slots)[::-1]  # ascending; the last one is T − 1
  log_odds = (_POWER - 1) * np.log(np.arange(1, num_slots, dtype=np.float32))

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    key_key, value_key, order_key, slot_key = jax.random.split(key, 4)
    keys = 1 + draw_each(key_key, first_value - 1, num_pairs, batch_size)
    values = draw_each(value_key, num_values, num_pairs, batch_size)
    order = draw_each(order_key, num_pairs, num_pairs, batch_size)
    # Gumbel top-k trick: the largest values of log p_i + noise are a draw without replacement.
    noise = jax.random.gumbel(slot_key, (batch_size, num_slots - 1), jnp.float32)
    early = jax.lax.top_k(noise + log_odds[None], num_pairs - 1)[1]
    chosen = jnp.pad(early, ((0, 0), (0, 1)), constant_values=num_slots - 1)
    at = jnp.arange(batch_size)[:, None], jnp.asarray(slots, jnp.int32)[chosen]
    pairs = jnp.stack([keys, first_value + values], axis=-1).reshape(batch_size, -1)
    blank = jnp.zeros((batch_size, sequence_length), jnp.int32)
    queries = jnp.take_along_axis(keys, order, axis=1)
    xs = blank.at[:, : 2 * num_pairs].set(pairs).at[at].set(queries)
    targets = blank.at[at].set(jnp.take_along_axis(values, order, axis=1))
    mask = jnp.zeros(blank.shape, bool).at[at].set(True)
    return Batch(xs.T, targets.T, mask.T)

  baseline = math.log(num_values)
  return Task((), (), batch, cross_entropy, "nats", baseline, num_values, vocabulary_size)


def selective_copying(sequence_length: int, batch_size: int) -> Task:
  """Builds selective copying: repeat sixteen symbols that are scattered among blanks.

    input   ␣ ␣ s_1 ␣ s_2 ␣ ␣ ␣ s_3 … s_16 ␣ ␣   ! × 16         s_i one of 14 symbols, ␣ the blank,
    target                                       s_1 … s_16      ! the signal

  The symbols' positions are drawn uniformly from the S = T − 16 steps before the signals. Delaying
  the input by a fixed number of steps, which solves `copy_memory`, does not solve this task.

  The baseline predicts the 14 symbols with equal probability, which costs ln 14 nats.

  Published setting: S = 4096, i.e. T = 4112, and a vocabulary of 16.

  Args:
    sequence_length: T = S + 16, at least 32.
    batch_size: B.
  Returns:
    The Task, whose batches have tokens [T, B] from a vocabulary of 16 (14 symbols, blank, signal),
    targets [T, B] in 14 classes, and a mask that is True at the last 16 steps.
  Raises:
    TypeError, ValueError: if an argument is not an integer, or too small.
  References:
    Gu and Dao, 2023, https://arxiv.org/abs/2312.00752
  """
  num_symbols, items = 14, 16
  checks.integer("sequence_length", sequence_length, minimum=2 * items)
  checks.integer("batch_size", batch_size)
  blank, signal = num_symbols, num_symbols + 1
  before = sequence_length - items

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    symbol_key, position_key = jax.random.split(key)
    symbols = jax.random.randint(symbol_key, (items, batch_size), 0, num_symbols, jnp.int32)
    positions = jnp.sort(draw_each(position_key, before, items, batch_size), axis=1).T
    xs = jnp.full((sequence_length, batch_size), blank, jnp.int32)
    xs = xs.at[positions, jnp.arange(batch_size)[None]].set(symbols).at[before:].set(signal)
    targets = jnp.zeros_like(xs).at[before:].set(symbols)
    mask = jnp.zeros(xs.shape, bool).at[before:].set(True)
    return Batch(xs, targets, mask)

  sizes = num_symbols, num_symbols + 2
  return Task((), (), batch, cross_entropy, "nats", math.log(num_symbols), *sizes)
