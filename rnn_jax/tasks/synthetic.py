"""Synthetic tasks with a long lag between the relevant inputs and the answer."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from rnn_jax import checks
from rnn_jax.losses import cross_entropy, squared_error
from rnn_jax.tasks.examples import last_step
from rnn_jax.tasks.task import Batch, Task


def adding(sequence_length: int, batch_size: int) -> Task:
  """Builds the adding problem: add the two marked numbers among T, and answer at the last step.

    x_t = (u_t, m_t),  u_t ~ U(0, 1),  m_t = 1 at one step i of the first half and one step j of the
    second half, else 0;  target u_i + u_j at t = T

  The baseline always predicts the mean, 1: its squared error is Var(u_i + u_j) = 1/6.

  Args:
    sequence_length: T, at least 2.
    batch_size: B.
  Returns:
    The Task, whose batches have xs [T, B, 2], targets [T, B, 1], and a mask that is True at the
    last step only.
  Raises:
    TypeError, ValueError: if an argument is not an integer, or too small.
  References:
    Hochreiter and Schmidhuber, 1997, experiment 4, https://doi.org/10.1162/neco.1997.9.8.1735
  """
  checks.integer("sequence_length", sequence_length, minimum=2)
  checks.integer("batch_size", batch_size)
  half = sequence_length // 2

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    values_key, first_key, second_key = jax.random.split(key, 3)
    values = jax.random.uniform(values_key, (sequence_length, batch_size))
    first = jax.random.randint(first_key, (batch_size,), 0, half)
    second = jax.random.randint(second_key, (batch_size,), half, sequence_length)
    marks = jax.nn.one_hot(first, sequence_length) + jax.nn.one_hot(second, sequence_length)
    marks = marks.T
    total = jnp.sum(values * marks, axis=0)
    targets = jnp.broadcast_to(total[None, :, None], (sequence_length, batch_size, 1))
    xs = jnp.stack([values, marks], axis=-1)
    return Batch(xs, targets, last_step(sequence_length, batch_size))

  return Task((), (), batch, squared_error, "squared error", 1 / 6, 1, None)


def copy_memory(sequence_length: int, batch_size: int) -> Task:
  """Builds the copy task: repeat ten symbols after a long run of blanks and a signal.

    input   s_1 … s_10  ␣ × (S − 1)  !  ␣ × 10        s_i one of 8 symbols, ␣ the blank,
    target  ␣ × (S + 10)  s_1 … s_10                  ! the signal, S = T − 20

  The baseline predicts the blanks, and a uniform distribution over the 8 symbols at the last ten
  steps, which costs 10 ln 8 / T nats per step.

  Args:
    sequence_length: T = S + 20, at least 21.
    batch_size: B.
  Returns:
    The Task, whose batches have tokens [T, B] from a vocabulary of 10 (8 symbols, blank, signal),
    targets [T, B] in 9 classes (8 symbols, blank), and a mask that is True at every step.
  Raises:
    TypeError, ValueError: if an argument is not an integer, or too small.
  References:
    Arjovsky et al., 2016, https://arxiv.org/abs/1511.06464
  """
  checks.integer("sequence_length", sequence_length, minimum=21)
  checks.integer("batch_size", batch_size)
  num_symbols, items = 8, 10
  blank, signal = num_symbols, num_symbols + 1

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    symbols = jax.random.randint(key, (items, batch_size), 0, num_symbols)
    blanks = jnp.full((sequence_length - items, batch_size), blank)
    xs = jnp.concatenate([symbols, blanks]).at[-items - 1].set(signal)
    targets = jnp.concatenate([blanks, symbols])
    return Batch(xs, targets, jnp.ones((sequence_length, batch_size), bool))

  baseline = items * math.log(num_symbols) / sequence_length
  sizes = num_symbols + 1, num_symbols + 2
  return Task((), (), batch, cross_entropy, "nats per step", baseline, *sizes)


def temporal_order(sequence_length: int, batch_size: int) -> Task:
  """Builds the temporal order task: classify the order of two signals among distractors.

    x_i, x_j ∈ {X, Y}, i ∈ [T/10, 2T/10), j ∈ [4T/10, 5T/10), elsewhere x_t ∈ {a, b, c, d};
    target at t = T: the class XX, XY, YX or YY of (x_i, x_j)

  The baseline predicts the 4 classes with equal probability, which costs ln 4 nats.

  Args:
    sequence_length: T, at least 10.
    batch_size: B.
  Returns:
    The Task, whose batches have tokens [T, B] from a vocabulary of 6, targets [T, B] in 4 classes,
    and a mask that is True at the last step only.
  Raises:
    TypeError, ValueError: if an argument is not an integer, or too small.
  References:
    Hochreiter and Schmidhuber, 1997, experiment 6a; this variant is that of Pascanu et al., 2013,
    https://arxiv.org/abs/1211.5063
  """
  checks.integer("sequence_length", sequence_length, minimum=10)
  checks.integer("batch_size", batch_size)
  distractors = 4
  tenth = sequence_length // 10

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    noise_key, signal_key, first_key, second_key = jax.random.split(key, 4)
    noise = jax.random.randint(noise_key, (sequence_length, batch_size), 0, distractors)
    signals = jax.random.randint(signal_key, (2, batch_size), 0, 2)
    first = jax.random.randint(first_key, (batch_size,), tenth, 2 * tenth)
    second = jax.random.randint(second_key, (batch_size,), 4 * tenth, 5 * tenth)
    column = jnp.arange(batch_size)
    xs = noise.at[first, column].set(distractors + signals[0])
    xs = xs.at[second, column].set(distractors + signals[1])
    order = 2 * signals[0] + signals[1]
    targets = jnp.broadcast_to(order[None], (sequence_length, batch_size))
    return Batch(xs, targets, last_step(sequence_length, batch_size))

  return Task((), (), batch, cross_entropy, "nats", math.log(4), 4, distractors + 2)
