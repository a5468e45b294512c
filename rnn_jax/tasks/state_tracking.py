"""State-tracking tasks: parity, the word problems of groups, and the flip-flop."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from rnn_jax import checks
from rnn_jax.losses import cross_entropy, squared_error
from rnn_jax.tasks.task import Batch, Task


def parity(sequence_length: int, batch_size: int) -> Task:
  """Builds the parity task: say at every step whether the number of ones so far is odd.

    x_t ~ uniform on {0, 1};  target at t: (x_1 + … + x_t) mod 2

  This is the word problem of S₂. The baseline predicts both classes with equal probability, which
  costs ln 2 nats. A network that misses a bit does no better from then on.

  Published setting: T from 1 to 40 in training, up to 500 in tests, and an answer at the last step
  only. Here all sequences have T steps. The targets at earlier steps take the place of the shorter
  sequences, without which networks learn nothing.

  Args:
    sequence_length: T.
    batch_size: B.
  Returns:
    The Task, whose batches have tokens [T, B] from a vocabulary of 2, targets [T, B] in 2 classes,
    and a mask that is True at every step.
  Raises:
    TypeError, ValueError: if an argument is not an integer of at least 1.
  References:
    Delétang et al., 2023, https://arxiv.org/abs/2207.02098
    Grazzi et al., 2025 (which linear recurrences can solve it), https://arxiv.org/abs/2411.12537
  """
  return group_word_problem(sequence_length, batch_size, 2)


def s3(sequence_length: int, batch_size: int) -> Task:
  """Builds the word problem of S₃, the 6 permutations of 3 items; see `group_word_problem`."""
  return group_word_problem(sequence_length, batch_size, 3)


def s5(sequence_length: int, batch_size: int) -> Task:
  """Builds the word problem of S₅, the 120 permutations of 5 items; see `group_word_problem`."""
  return group_word_problem(sequence_length, batch_size, 5)


def group_word_problem(sequence_length: int, batch_size: int, degree: int = 5) -> Task:
  """Builds the word problem of the symmetric group S_n: multiply permutations, at every step.

    x_t = g_t ~ uniform on S_n;  target at t: the product g_1 g_2 … g_t,  (g h)(i) = g(h(i))

  Tokens and classes number the permutations of 0 … n − 1 in lexicographic order; 0 is the identity.
  S₅, unlike S₃, is not solvable, so its word problem is complete for NC¹: transformers and diagonal
  state-space models of a fixed depth cannot solve it for all T (unless TC⁰ = NC¹).

  The baseline predicts all n! products with equal probability, which costs ln n! nats.

  Published setting: T from 2 to 20, with S₅ among other groups.

  Args:
    sequence_length: T.
    batch_size: B.
    degree: n, from 2 to 6. The word problem of S₂ is `parity`.
  Returns:
    The Task, whose batches have tokens [T, B] from a vocabulary of n!, targets [T, B] in n!
    classes, and a mask that is True at every step.
  Raises:
    TypeError, ValueError: if an argument is not an integer, or out of range.
  References:
    Merrill, Petty and Sabharwal, 2024, https://arxiv.org/abs/2404.08819
    Grazzi et al., 2025, https://arxiv.org/abs/2411.12537
  """
  checks.integer("sequence_length", sequence_length)
  checks.integer("batch_size", batch_size)
  if checks.integer("degree", degree, minimum=2) > 6:
    raise ValueError(f"degree must be at most 6, got {degree}.")
  shape, order = (sequence_length, batch_size), math.factorial(degree)
  products = _multiplication_table(degree)

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    xs = jax.random.randint(key, shape, 0, order, jnp.int32)
    table = jnp.asarray(products)
    identity = jnp.zeros((batch_size,), jnp.int32)
    _, targets = jax.lax.scan(lambda product, x: (table[product, x],) * 2, identity, xs)
    return Batch(xs, targets, jnp.ones(shape, bool))

  return Task((), (), batch, cross_entropy, "nats per step", math.log(order), order, order)


def _multiplication_table(degree: int) -> Int[np.ndarray, "order order"]:
  """Returns int32 [n!, n!], whose row g and column h hold the number of the product g h."""
  elements = np.array(list(itertools.permutations(range(degree))))
  # The digits of a number to the base n; permutations in lexicographic order have ascending ones.
  digits = degree ** np.arange(degree)[::-1]
  table = np.searchsorted(elements @ digits, elements[:, elements] @ digits)
  return table.astype(np.int32)


def flip_flop(
  sequence_length: int, batch_size: int, num_bits: int = 3, pulse_probability: float = 0.05
) -> Task:
  """Builds the n-bit flip-flop: output each bit's latest pulse, at every step.

    x_ti = ±1 with probability p, else 0;  x_1i = ±1;  target y_ti = the latest x_si ≠ 0 with s ≤ t

  The baseline predicts the mean, 0, whose squared error, summed over the n bits, is n.

  Published setting: 3 bits. The paper does not state p. With p = 0.05, a bit lasts 20 steps on
  average.

  Args:
    sequence_length: T.
    batch_size: B.
    num_bits: n.
    pulse_probability: p, above 0 and at most 1.
  Returns:
    The Task, whose batches have xs and targets [T, B, n], and a mask that is True at every step.
  Raises:
    TypeError, ValueError: if an argument has the wrong type, or is out of range.
  References:
    Sussillo and Barak, 2013, https://doi.org/10.1162/NECO_a_00409
  """
  checks.integer("sequence_length", sequence_length)
  checks.integer("batch_size", batch_size)
  checks.integer("num_bits", num_bits)
  checks.number("pulse_probability", pulse_probability, above=0, maximum=1)
  shape = sequence_length, batch_size, num_bits

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    pulse_key, sign_key = jax.random.split(key)
    pulses = jax.random.bernoulli(pulse_key, pulse_probability, shape).at[0].set(True)
    signs = jax.random.rademacher(sign_key, shape, jnp.float32)
    xs = jnp.where(pulses, signs, jnp.zeros_like(signs))
    _, targets = jax.lax.scan(lambda y, x: (jnp.where(x == 0, y, x),) * 2, xs[0], xs)
    return Batch(xs, targets, jnp.ones(shape[:2], bool))

  return Task((), (), batch, squared_error, "squared error", float(num_bits), num_bits, None)
