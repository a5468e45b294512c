"""Flax modules around the time loop: one recurrent layer, and a deep network of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.probes import gradient_probe
from rnn_jax.types import Array, Carry, Cell
from rnn_jax.unroll import unroll


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


class DeepRNN(nn.Module):
  """A deep recurrent network: input encoding, a stack of recurrent layers, a dense readout.

    x_t (vector, one-hot or embedded token) → cell 1 → dropout → cell 2 → … → W y_t + b

  Time-major throughout: xs [T, B, D] or integer tokens [T, B]; ys [T, B, output_size]. Pure:
  `variables = model.init(key, xs)`, `carries, ys = model.apply(variables, xs)`.

  Attributes:
    cells: the cell of each layer, the first one nearest the input.
    output_size: width of the dense readout; None for none, and ys are the top cell's outputs.
    vocabulary_size: number of tokens, where xs are tokens.
    embedding_size: width of a learned embedding of the tokens; None feeds them one-hot, which is a
      row lookup in the first cell's input kernel.
    dropout: rate, from 0 to below 1, of dropout between layers (not in time), a fresh mask a step.
  """

  cells: Sequence[Cell]
  output_size: int | None = None
  vocabulary_size: int | None = None
  embedding_size: int | None = None
  dropout: float = 0.0

  def setup(self) -> None:  # noqa: D102
    if not self.cells:
      raise ValueError("cells must hold at least one cell, got none.")
    for name in ("output_size", "vocabulary_size", "embedding_size"):
      if getattr(self, name) is not None:
        checks.integer(name, getattr(self, name))
    checks.number("dropout", self.dropout, minimum=0)
    if self.dropout >= 1:
      raise ValueError(f"dropout must be below 1, got {self.dropout}.")
    if self.embedding_size is not None:
      if self.vocabulary_size is None:
        raise ValueError("embedding_size needs vocabulary_size, got None.")
      self.embedding = nn.Embed(
        self.vocabulary_size, self.embedding_size, param_dtype=_default_float()
      )
    one_hot = self.vocabulary_size if self.embedding_size is None else None
    self.layers = [
      Recurrent(cell, one_hot if i == 0 else None) for i, cell in enumerate(self.cells)
    ]
    self.between = nn.Dropout(self.dropout)
    if self.output_size is not None:
      self.head = nn.Dense(self.output_size, param_dtype=_default_float())

  def encode(self, xs: Array) -> Array:
    """What the first layer reads: xs, or the embedded tokens."""
    return xs if self.embedding_size is None else self.embedding(xs)

  def readout(self, ys: Array) -> Array:
    """W y + b, or y where there is no readout."""
    if self.output_size is None:
      return ys
    # One flat product: XLA:CPU is several times slower where two batch axes are contracted.
    return self.head(ys.reshape(-1, ys.shape[-1])).reshape(*ys.shape[:-1], -1)

  def __call__(
    self,
    xs: Array,
    carries: Sequence[Carry] | None = None,
    *,
    probes: Sequence[Carry] | None = None,
    deterministic: bool = True,
    key: Array | None = None,
    **time: Any,
  ) -> tuple[tuple[Carry, ...], Array]:
    """Runs the network over time.

    Args:
      xs: [T, B, D], or tokens [T, B].
      carries: initial carry of each layer; zeros if None.
      probes: a gradient probe for each layer, from `probes(T, B)`.
      deterministic: no dropout. Otherwise apply needs `rngs={"dropout": key}`.
      key: for stochastic cells; each layer draws from a key of its own.
      **time: truncation, lengths, resets, reverse, remat and unroll, as `unroll` takes them.
    Returns:
      (final carry of each layer, ys [T, B, output_size]).
    """
    for name, value in (("carries", carries), ("probes", probes)):
      if value is not None and len(value) != len(self.cells):
        raise ValueError(
          f"{name} must have {len(self.cells)} entries, one a layer, got {len(value)}."
        )
    ys, final = self.encode(xs), []
    for i, layer in enumerate(self.layers):
      if i > 0:
        ys = self.between(ys, deterministic=deterministic)
      carry, ys = layer(
        ys,
        None if carries is None else carries[i],
        probe=None if probes is None else probes[i],
        key=None if key is None else jax.random.fold_in(key, i),
        **time,
      )
      final.append(carry)
    return tuple(final), self.readout(ys)

  @nn.nowrap
  def probes(self, num_steps: int, batch_size: int) -> tuple[Carry, ...]:
    """A gradient probe for each layer; see `gradient_probe`."""
    return tuple(gradient_probe(cell, num_steps, batch_size) for cell in self.cells)

  @nn.nowrap
  def cell_params(self, variables: Any) -> tuple[Any, ...]:
    """The params of each layer's cell, out of the model's variables."""
    return tuple(variables["params"][f"layers_{i}"]["cell"] for i in range(len(self.cells)))

  @nn.nowrap
  def trunk(self, variables: Any, xs: Array) -> tuple[Sequence[Cell], tuple[Any, ...], Array]:
    """The recurrent layers alone, as measures take them: cells, their params, what they read."""
    encoded: Any = self.apply(variables, xs, method="encode")
    return self.cells, self.cell_params(variables), encoded

  @nn.nowrap
  def initial_carries(self, batch_size: int) -> tuple[Carry, ...]:
    """Zero carries for each layer."""
    return tuple(cell.initial_carry((batch_size,)) for cell in self.cells)


def _default_float() -> Any:
  """What cells are initialised in: float64 where it is enabled; Flax's own default is float32."""
  return jax.dtypes.canonicalize_dtype(float)
