"""Recurrent layers: a cell unrolled over time, in one direction or in both."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rnn_jax import checks
from rnn_jax.modules.model import Unroll
from rnn_jax.time_loop import unroll
from rnn_jax.types import Carry, Cell, Params, Sequences

MERGES = ("concat", "sum")


class Recurrent(nn.Module):
  """A layer that unrolls one cell over time; its params are `{"cell": cell.init(...)}`.

  Attributes:
    cell: the cell.
    vocabulary_size: number of tokens, if xs are integers that stand for one-hot vectors.
  """

  cell: Cell
  vocabulary_size: int | None = None

  @nn.compact
  def __call__(
    self,
    xs: Sequences,
    carry: Carry | None = None,
    *,
    estimator: Unroll | None = None,
    estimator_key: Key[Array, ""] | None = None,
    **time: Any,
  ) -> tuple[Carry, Float[Array, "T B H"]]:
    """Returns (final carry, ys) of `unroll(cell, params, xs, carry, **time)`.

    With an estimator, the gradient of the params is that of `estimator.unroll`.
    """
    checks.instance("cell", self.cell, Cell)
    xs = checks.array("xs", xs, "floats", "integers")
    tokens = jnp.issubdtype(xs.dtype, jnp.integer)
    if tokens and self.vocabulary_size is None:
      raise ValueError(
        f"xs must be floats unless vocabulary_size is given, got {xs.dtype}{list(xs.shape)}."
      )
    if xs.ndim != (2 if tokens else 3):
      raise ValueError(
        f"xs must be [T, B, D], or integer tokens [T, B], got {list(xs.shape)} of {xs.dtype}."
      )
    params: Params
    # `param` would check the shapes, too, but the error of `unroll` for a wrong shape is clearer.
    if self.has_variable("params", "cell"):
      params = self.get_variable("params", "cell")
    else:
      params = self.param("cell", self.cell.init, self.vocabulary_size if tokens else xs.shape[-1])
    if estimator is None:
      return unroll(self.cell, params, xs, carry, **time)
    checks.instance("estimator", estimator, Unroll, "a constructor of rnn_jax.estimators")
    return estimator.unroll(self.cell, params, xs, carry, estimator_key=estimator_key, **time)


class Bidirectional(nn.Module):
  """A layer that runs a cell forward and backward in time, each direction with its own params.

    y_t = [f_t, b_t]  or  f_t + b_t      f_t reads x_0 … x_t, b_t reads x_{T−1} … x_t

  With `lengths`, the backward direction starts at each sequence's own last valid step. Both
  directions skip the steps where `mask` is False.

  Attributes:
    cell: the cell of both directions.
    merge: `concat` for y_t = [f_t, b_t], or `sum` for f_t + b_t.
    vocabulary_size: number of tokens, if xs are integers that stand for one-hot vectors.
  References:
    Schuster and Paliwal, 1997, https://doi.org/10.1109/78.650093
  """

  cell: Cell
  merge: str = "concat"
  vocabulary_size: int | None = None

  def setup(self) -> None:  # noqa: D102
    checks.instance("cell", self.cell, Cell)
    checks.choice("merge", self.merge, MERGES)
    self.forward = Recurrent(self.cell, self.vocabulary_size)
    self.backward = Recurrent(self.cell, self.vocabulary_size)

  def __call__(
    self,
    xs: Sequences,
    *,
    probe: tuple[Carry, Carry] | None = None,
    key: Key[Array, ""] | None = None,
    **time: Any,
  ) -> tuple[tuple[Carry, Carry], Float[Array, "T B H"]]:
    """Returns ((forward final carry, backward final carry), ys); each direction has its own key."""
    if probe is not None and (not isinstance(probe, tuple) or len(probe) != 2):
      raise TypeError(f"probe must be a pair (forward, backward), got {checks.shapes(probe)}.")
    probes = (None, None) if probe is None else probe
    keys = (None, None) if key is None else jax.random.split(key)
    forward, f = self.forward(xs, probe=probes[0], key=keys[0], **time)
    backward, b = self.backward(xs, probe=probes[1], key=keys[1], reverse=True, **time)
    ys = f + b if self.merge == "sum" else jnp.concatenate([f, b], axis=-1)
    return (forward, backward), ys
