"""One layer: a cell unrolled over time, in one direction or in both."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.time_loop import unroll
from rnn_jax.types import Array, Carry, Cell

MERGES = ("concat", "sum")


class Recurrent(nn.Module):
  """One cell, unrolled over time; its params are `{"cell": cell.init(...)}`.

  Attributes:
    cell: the cell.
    vocabulary_size: number of tokens where xs are integers, read as one-hot vectors.
  """

  cell: Cell
  vocabulary_size: int | None = None

  @nn.compact
  def __call__(self, xs: Array, carry: Carry | None = None, **time: Any) -> tuple[Carry, Any]:
    """Returns (final carry, ys) of `unroll(cell, params, xs, carry, **time)`."""
    tokens = jnp.issubdtype(xs.dtype, jnp.integer)
    if tokens and self.vocabulary_size is None:
      raise ValueError(
        f"xs must be floats unless vocabulary_size is given, got {xs.dtype}{list(xs.shape)}."
      )
    input_size = self.vocabulary_size if tokens else xs.shape[-1]
    params = self.param("cell", self.cell.init, input_size)
    return unroll(self.cell, params, xs, carry, **time)


class Bidirectional(nn.Module):
  """One cell forward and one backward in time, each with params of its own.

    y_t = [f_t, b_t]  or  f_t + b_t      f_t reads x_0 … x_t, b_t reads x_{T−1} … x_t

  With lengths the reversal happens inside of each sequence: b_t begins at its own last step.

  Attributes:
    cell: the cell of both directions.
    merge: `concat` or `sum`.
    vocabulary_size: number of tokens where xs are integers, read as one-hot vectors.
  References:
    Schuster and Paliwal, 1997, https://doi.org/10.1109/78.650093
  """

  cell: Cell
  merge: str = "concat"
  vocabulary_size: int | None = None

  def setup(self) -> None:  # noqa: D102
    checks.choice("merge", self.merge, MERGES)
    self.forward = Recurrent(self.cell, self.vocabulary_size)
    self.backward = Recurrent(self.cell, self.vocabulary_size)

  def __call__(
    self,
    xs: Array,
    *,
    probe: tuple[Carry, Carry] | None = None,
    key: Array | None = None,
    **time: Any,
  ) -> tuple[tuple[Carry, Carry], Array]:
    """Returns ((final carry forward, final carry backward), ys); each direction has its own key."""
    probes = (None, None) if probe is None else probe
    keys = (None, None) if key is None else jax.random.split(key)
    forward, f = self.forward(xs, probe=probes[0], key=keys[0], **time)
    backward, b = self.backward(xs, probe=probes[1], key=keys[1], reverse=True, **time)
    ys = f + b if self.merge == "sum" else jnp.concatenate([f, b], axis=-1)
    return (forward, backward), ys
