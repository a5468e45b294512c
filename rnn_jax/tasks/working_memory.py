"""Working-memory tasks from neuroscience: compare two stimuli that are shown one after the other.

Each phase takes its published share of a trial, so T sets the time scale.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from rnn_jax import checks
from rnn_jax.losses import cross_entropy
from rnn_jax.tasks.examples import last_step
from rnn_jax.tasks.task import Batch, Task


def delayed_xor(sequence_length: int, batch_size: int) -> Task:
  """Builds the delayed XOR: say at the last step whether two pulses differ in sign.

    x_t1 = a for T/6 steps from step T/6,  x_t2 = b for T/6 steps that begin T/30 steps after the
    first pulse, else 0;  a, b ~ uniform on {−1, +1};  target at t = T: 1 if a ≠ b, else 0

  The first pulse is far from the last step, and no linear function of the inputs predicts the
  target.

  The baseline predicts both classes with equal probability, which costs ln 2 nats.

  Published setting: T = 300: pulses of 50 steps, 10 steps between them, 140 steps after them. (In
  the paper, the output follows a target signal over the last of these steps.)

  Args:
    sequence_length: T, at least 6.
    batch_size: B.
  Returns:
    The Task, whose batches have xs [T, B, 2], targets [T, B] in 2 classes, and a mask that is True
    at the last step only.
  Raises:
    TypeError, ValueError: if an argument is not an integer, or too small.
  References:
    Kim, Li and Sejnowski, 2019, https://doi.org/10.1073/pnas.1905926116
  """
  checks.integer("sequence_length", sequence_length, minimum=6)
  checks.integer("batch_size", batch_size)
  shape, pulse = (sequence_length, batch_size), sequence_length // 6
  second = 2 * pulse + sequence_length // 30

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    signs = jax.random.rademacher(key, (batch_size, 2), jnp.float32)
    xs = jnp.zeros((*shape, 2), jnp.float32)
    xs = xs.at[pulse : 2 * pulse, :, 0].set(signs[None, :, 0])
    xs = xs.at[second : second + pulse, :, 1].set(signs[None, :, 1])
    differ = (signs[:, 0] != signs[:, 1]).astype(jnp.int32)
    return Batch(xs, jnp.broadcast_to(differ[None], shape), last_step(*shape))

  return Task((), (), batch, cross_entropy, "nats", math.log(2), 2, None)


def delayed_match_to_sample(sequence_length: int, batch_size: int) -> Task:
  """Builds delayed match to sample: say at the last step whether two stimuli are the same.

    ␣ for T/5 steps, sample s for T/5, ␣ for 2T/5, test r for T/5;  target at t = T: 1 if r = s

  The sample is one of 8 stimuli. The test is the same stimulus with probability ½, otherwise one of
  the other 7.

  The baseline predicts both classes with equal probability, which costs ln 2 nats.

  Published setting: 8 directions of motion, and trials of 2.5 s in steps of 10 ms: T = 250. (The
  paper's stimuli are noisy vectors; here they are tokens.)

  Args:
    sequence_length: T, at least 5.
    batch_size: B.
  Returns:
    The Task, whose batches have tokens [T, B] from a vocabulary of 9 (8 stimuli, blank), targets
    [T, B] in 2 classes, and a mask that is True at the last step only.
  Raises:
    TypeError, ValueError: if an argument is not an integer, or too small.
  References:
    Masse et al., 2019, https://doi.org/10.1038/s41593-019-0414-3
  """
  checks.integer("sequence_length", sequence_length, minimum=5)
  checks.integer("batch_size", batch_size)
  num_stimuli = blank = 8
  shape = sequence_length, batch_size
  onset, delay, test = (i * sequence_length // 5 for i in (1, 2, 4))

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    sample_key, match_key, other_key = jax.random.split(key, 3)
    samples = jax.random.randint(sample_key, (batch_size,), 0, num_stimuli, jnp.int32)
    match = jax.random.bernoulli(match_key, shape=(batch_size,))
    shift = jax.random.randint(other_key, (batch_size,), 1, num_stimuli, jnp.int32)
    others = (samples + shift) % num_stimuli
    xs = jnp.full(shape, blank, jnp.int32).at[onset:delay].set(samples[None])
    xs = xs.at[test:].set(jnp.where(match, samples, others)[None])
    targets = jnp.broadcast_to(match.astype(jnp.int32)[None], shape)
    return Batch(xs, targets, last_step(*shape))

  return Task((), (), batch, cross_entropy, "nats", math.log(2), 2, num_stimuli + 1)
