"""The teacher–student task: imitate a fixed linear recurrent network of a given memory."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Key

from rnn_jax import checks
from rnn_jax.losses import squared_error
from rnn_jax.tasks.task import Batch, Task

_NUM_MODES = 10


def teacher_student(sequence_length: int, batch_size: int, memory: float = 100.0) -> Task:
  """Builds the teacher–student task: imitate the output of a fixed linear network, step by step.

    x_t ~ N(0, 1);  h_t = λ ∘ h_{t−1} + x_t,  target y_t = Re Σ_i c_i h_ti,  |λ_i| = e^(−1/M)

  The teacher has 10 complex modes. Its response to an input decays by a factor of e in M steps, as
  does ∂y_t/∂h_{t−k} with the lag k. The angles of λ are uniform. c is normal, scaled so that the
  variance of y_t tends to 1. For every M, the teacher has the same angles and, up to scale, the
  same c, in all runs and versions.

  The baseline predicts the mean, 0, whose squared error is the mean variance,
  (1/T) Σ_t Σ_{k<t} κ_k², with κ_k = Re Σ_i c_i λ_i^k.

  Zucchet and Orvieto study how learning from such teachers becomes harder as |λ| approaches 1. The
  number of modes and M = 100, i.e. |λ| = 0.99, are choices of this task.

  Args:
    sequence_length: T.
    batch_size: B.
    memory: M, in time steps, above 0.
  Returns:
    The Task, whose batches have xs and targets [T, B, 1], and a mask that is True at every step.
  Raises:
    TypeError, ValueError: if an argument has the wrong type, or is out of range.
  References:
    Zucchet and Orvieto, 2024, https://arxiv.org/abs/2405.21064
  """
  checks.integer("sequence_length", sequence_length)
  checks.integer("batch_size", batch_size)
  checks.number("memory", memory, above=0)
  eigenvalues, readout = make_teacher(memory)
  powers = eigenvalues ** np.arange(sequence_length)[:, None]
  response = (powers @ readout).real
  baseline = float(np.mean(np.cumsum(response**2)))
  rates, weights = eigenvalues.astype(np.complex64), readout.astype(np.complex64)

  def batch(data: tuple[()], key: Key[Array, ""]) -> Batch:
    del data
    xs = jax.random.normal(key, (sequence_length, batch_size, 1), jnp.float32)

    def step(
      h: Complex[Array, "B modes"], x: Float[Array, "B 1"]
    ) -> tuple[Complex[Array, "B modes"], Float[Array, "B 1"]]:
      new = h * rates[None] + x.astype(jnp.complex64)
      return new, jnp.sum(new * weights[None], axis=1, keepdims=True).real

    start = jnp.zeros((batch_size, _NUM_MODES), jnp.complex64)
    _, targets = jax.lax.scan(step, start, xs)
    return Batch(xs, targets, jnp.ones((sequence_length, batch_size), bool))

  return Task((), (), batch, squared_error, "squared error", baseline, 1, None)


def make_teacher(
  memory: float,
) -> tuple[Complex[np.ndarray, " modes"], Complex[np.ndarray, " modes"]]:
  """Returns (λ, c), complex128 [10] each, of the teacher with a memory of M = `memory` steps."""
  # NumPy guarantees that RandomState draws the same numbers in all versions.
  random = np.random.RandomState(0)
  angles = random.uniform(0, math.pi, _NUM_MODES)
  readout = random.normal(size=_NUM_MODES) + 1j * random.normal(size=_NUM_MODES)
  eigenvalues = np.exp(-1 / memory + 1j * angles)
  # Σ_k κ_k², with κ_k = Σ_i (c_i λ_i^k + its conjugate)/2, is a sum of geometric series.
  both = np.concatenate([eigenvalues, eigenvalues.conj()])
  halves = np.concatenate([readout, readout.conj()]) / 2
  variance = np.sum(np.outer(halves, halves) / (1 - np.outer(both, both))).real
  return eigenvalues, readout / math.sqrt(variance)
