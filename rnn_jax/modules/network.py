"""What lies around the recurrent layers: what they read, dropout between them, the readout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.types import Array, Carry, Cell

DROPOUT_MASKS = ("step", "sequence")


class Network(nn.Module):
  """What deep recurrent networks have in common; `DeepRNN` and `BidirectionalRNN` add the layers.

    x_t (vector, one-hot or embedded token) → layer 1 → dropout → layer 2 → … → readout

    readout:  z = y_t, or the mean of a sequence's y;  z ← relu(W z + b), …;  output W z + b

  Time-major throughout: xs [T, B, D] or integer tokens [T, B]; outputs [T, B, output_size]. What
  changes a cell's own equations is a wrapper of the cell: `zoneout`, `residual`, `layer_norm`.

  Attributes:
    cells: the cell of each layer, the first one nearest the input.
    output_size: width of the readout; None for none, and the outputs are the top layer's.
    vocabulary_size: number of tokens, where xs are tokens.
    embedding_size: width of a learned embedding of the tokens; None feeds them one-hot, which is a
      row lookup in the first cell's input kernel.
    dropout: rate, from 0 to below 1, of dropout between layers (not in time).
    dropout_mask: `step`, a fresh mask at every step; `sequence`, one mask for all time.
    hidden_sizes: widths of feed-forward layers between the top recurrent layer and the readout.
    tied: the readout's kernel is the embedding's, transposed; it reads `embedding_size` inputs.
    pooled: the readout reads the mean of a sequence's valid steps: outputs [1, B, output_size].
  References:
    Gal and Ghahramani, 2016 (one mask for all time), https://arxiv.org/abs/1512.05287
    Pascanu et al., 2014 (feed-forward layers on top), https://arxiv.org/abs/1312.6026
    Press and Wolf, 2017 (tied embeddings), https://arxiv.org/abs/1608.05859
    Zaremba et al., 2014 (dropout between layers), https://arxiv.org/abs/1409.2329
  """

  cells: Sequence[Cell]
  output_size: int | None = None
  vocabulary_size: int | None = None
  embedding_size: int | None = None
  dropout: float = 0.0
  dropout_mask: str = "step"
  hidden_sizes: Sequence[int] = ()
  tied: bool = False
  pooled: bool = False

  def setup(self) -> None:  # noqa: D102
    if not self.cells:
      raise ValueError("cells must hold at least one cell, got none.")
    for name in ("output_size", "vocabulary_size", "embedding_size"):
      if getattr(self, name) is not None:
        checks.integer(name, getattr(self, name))
    for size in self.hidden_sizes:
      checks.integer("hidden_sizes", size)
    checks.number("dropout", self.dropout, minimum=0)
    if self.dropout >= 1:
      raise ValueError(f"dropout must be below 1, got {self.dropout}.")
    checks.choice("dropout_mask", self.dropout_mask, DROPOUT_MASKS)
    if self.embedding_size is not None:
      if self.vocabulary_size is None:
        raise ValueError("embedding_size needs vocabulary_size, got None.")
      self.embedding = nn.Embed(
        self.vocabulary_size, self.embedding_size, param_dtype=default_float()
      )
    same = (0,) if self.dropout_mask == "sequence" else ()
    self.between = nn.Dropout(self.dropout, broadcast_dims=same)
    self.hidden = [nn.Dense(size, param_dtype=default_float()) for size in self.hidden_sizes]
    if self.tied:
      if self.embedding_size is None or self.output_size != self.vocabulary_size:
        raise ValueError(
          "tied needs embedding_size, and output_size as vocabulary_size, got "
          f"{self.embedding_size}, {self.output_size} and {self.vocabulary_size}."
        )
      self.bias = self.param("bias", nn.initializers.zeros, (self.output_size,), default_float())
    elif self.output_size is not None:
      self.head = nn.Dense(self.output_size, param_dtype=default_float())

  def one_hot(self, layer: int) -> int | None:
    """Vocabulary size for the layer that reads tokens, None for the others."""
    return self.vocabulary_size if layer == 0 and self.embedding_size is None else None

  def encode(self, xs: Array) -> Array:
    """What the first layer reads: xs, or the embedded tokens."""
    return xs if self.embedding_size is None else self.embedding(xs)

  def through(
    self, run: Callable[[int, Array], tuple[Carry, Array]], xs: Array, deterministic: bool
  ) -> tuple[tuple[Carry, ...], Array]:
    """(final carry of each layer, outputs of the top one); `run(i, ys)` is layer i over ys."""
    ys, final = self.encode(xs), []
    for i in range(len(self.cells)):
      if i > 0:
        ys = self.between(ys, deterministic=deterministic)
      carry, ys = run(i, ys)
      final.append(carry)
    return tuple(final), ys

  def readout(self, ys: Array, lengths: Array | None = None) -> Array:
    """The network's outputs, from the top layer's outputs ys [T, B, H]."""
    if self.pooled:
      ys = _mean(ys, lengths)
    # One flat product: XLA:CPU is several times slower where two batch axes are contracted.
    rows = ys.reshape(-1, ys.shape[-1])
    for dense in self.hidden:
      rows = jax.nn.relu(dense(rows))
    if self.tied:
      if rows.shape[-1] != self.embedding_size:
        raise ValueError(
          f"tied needs a readout of {self.embedding_size} inputs, the embedding's width, "
          f"got {rows.shape[-1]}."
        )
      rows = self.embedding.attend(rows) + self.bias[None]
    elif self.output_size is not None:
      rows = self.head(rows)
    return rows.reshape(*ys.shape[:-1], -1)


def default_float() -> Any:
  """What cells are initialised in: float64 where it is enabled; Flax's own default is float32."""
  return jax.dtypes.canonicalize_dtype(float)


def _mean(ys: Array, lengths: Array | None) -> Array:
  """[T, B, H] → [1, B, H], over the valid steps; ys are zero past the end."""
  if lengths is None:
    return jnp.mean(ys, axis=0, keepdims=True)
  count = jnp.maximum(jnp.asarray(lengths), 1).astype(ys.dtype)
  return jnp.sum(ys, axis=0, keepdims=True) / count[None, :, None]
