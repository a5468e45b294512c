"""The parts of a network around its recurrent layers: input encoding, dropout, readout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rnn_jax import checks
from rnn_jax.cells.dense import token_rows
from rnn_jax.modules.model import Lengths, Mask
from rnn_jax.time_loop import valid_steps
from rnn_jax.types import Carry, Cell, Sequences, check_cells

DROPOUT_MASKS = ("step", "sequence")


class Network(nn.Module):
  """Base class of `DeepRNN` and `BidirectionalRNN`, which add the recurrent layers.

    x_t (vector, one-hot or embedded token) → layer 1 → dropout → layer 2 → … → readout

    readout:  z = y_t, or the mean of a sequence's y;  z ← relu(W z + b), …;  output W z + b

  All arrays are time-major: xs are [T, B, D] or integer tokens [T, B], outputs are [T, B,
  output_size]. To change a cell's own equations, wrap the cell in `zoneout`, `residual` or
  `layer_norm`.

  Attributes:
    cells: the cell of each layer. The first cell reads the network's input.
    output_size: width of the readout. If None, there is no readout and the outputs are those of the
      top layer.
    vocabulary_size: number of tokens; None if xs are vectors.
    embedding_size: width of a learned embedding of the tokens. If None, tokens are read as one-hot
      vectors, by a row lookup in the first cell's input kernel.
    dropout: rate of the dropout between layers (not between steps), at least 0 and below 1.
    dropout_mask: `step` draws a mask for every step, `sequence` draws one mask for all steps.
    hidden_sizes: widths of feed-forward layers between the top recurrent layer and the readout.
    tied: whether the readout's kernel is the transposed embedding. The readout must then have
      `embedding_size` inputs.
    pooled: whether the readout reads the mean over a sequence's valid steps. The outputs are then
      [1, B, output_size].
  References:
    Gal and Ghahramani, 2016 (one mask for all steps), https://arxiv.org/abs/1512.05287
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

  def __post_init__(self) -> None:  # noqa: D105
    # A static argument of `jax.jit` must be hashable, and a list is not.
    for name in ("cells", "hidden_sizes"):
      if isinstance(getattr(self, name), list):
        setattr(self, name, tuple(getattr(self, name)))
    super().__post_init__()

  def setup(self) -> None:  # noqa: D102
    self._check()
    if self.embedding_size is not None:
      assert self.vocabulary_size is not None
      self.embedding = nn.Embed(
        self.vocabulary_size, self.embedding_size, param_dtype=default_float()
      )
    shared_axes = (0,) if self.dropout_mask == "sequence" else ()
    self.between = nn.Dropout(self.dropout, broadcast_dims=shared_axes)
    self.hidden = [nn.Dense(size, param_dtype=default_float()) for size in self.hidden_sizes]
    if self.tied:
      self.bias = self.param("bias", nn.initializers.zeros, (self.output_size,), default_float())
    elif self.output_size is not None:
      self.head = nn.Dense(self.output_size, param_dtype=default_float())

  def _check(self) -> None:
    """Raises if an attribute is out of range, or if two attributes contradict each other."""
    check_cells(self.cells)
    for name in ("output_size", "vocabulary_size", "embedding_size"):
      if getattr(self, name) is not None:
        checks.integer(name, getattr(self, name))
    for size in checks.instance("hidden_sizes", self.hidden_sizes, Sequence):
      checks.integer("hidden_sizes", size)
    checks.number("dropout", self.dropout, minimum=0, below=1)
    checks.boolean("tied", self.tied)
    checks.boolean("pooled", self.pooled)
    checks.choice("dropout_mask", self.dropout_mask, DROPOUT_MASKS)
    if self.embedding_size is not None and self.vocabulary_size is None:
      raise ValueError("embedding_size needs vocabulary_size, got None.")
    if self.tied and (self.embedding_size is None or self.output_size != self.vocabulary_size):
      raise ValueError(
        "tied needs embedding_size, and output_size equal to vocabulary_size, got "
        f"{self.embedding_size}, {self.output_size} and {self.vocabulary_size}."
      )

  def one_hot(self, layer: int) -> int | None:
    """Returns the vocabulary size for the layer that reads one-hot tokens, None for the others."""
    return self.vocabulary_size if layer == 0 and self.embedding_size is None else None

  def encode(self, xs: Sequences) -> Array:
    """Returns the inputs of the first layer: xs, or the embedded tokens."""
    xs = checks.array("xs", xs, "floats", "integers")
    if self.embedding_size is None:
      return xs
    if xs.ndim != 2 or not jnp.issubdtype(xs.dtype, jnp.integer):
      raise ValueError(
        f"xs must be integer tokens [T, B] where they are embedded, got {list(xs.shape)} of "
        f"{xs.dtype}."
      )
    return token_rows(self.embedding.embedding, xs)

  def through(
    self, run: Callable[[int, Array], tuple[Carry, Array]], xs: Sequences, deterministic: bool
  ) -> tuple[tuple[Carry, ...], Array]:
    """Runs xs through all layers; returns (final carry of each layer, outputs of the top layer).

    Args:
      run: `(i, ys) -> (final carry, outputs)`, which runs layer i over its inputs ys.
      xs: the network's inputs.
      deterministic: whether dropout is disabled.
    """
    ys, final = self.encode(xs), []
    for i in range(len(self.cells)):
      if i > 0:
        ys = self.between(ys, deterministic=deterministic)
      carry, ys = run(i, ys)
      final.append(carry)
    return tuple(final), ys

  def readout(
    self,
    ys: Float[Array, "*steps H"],
    lengths: Lengths | None = None,
    mask: Mask | None = None,
  ) -> Float[Array, "*outputs O"]:
    """Returns the network's outputs, computed from the top layer's outputs ys.

    If the network is pooled, ys must be [T, B, H]; otherwise they may have any leading axes.
    """
    if np.ndim(ys) == 0:
      raise ValueError(f"ys must be [..., H], got {checks.shown(ys)}.")
    if self.pooled:
      if ys.ndim != 3:
        raise ValueError(f"ys must be [T, B, H] if pooled, got {list(ys.shape)}.")
      ys = _mean_over_time(ys, valid_steps(ys.shape[0], lengths, mask))
    # Merge the leading axes, so that a kernel's gradient contracts a single axis, because XLA:CPU
    # is several times slower at contracting two axes.
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


def default_float() -> np.dtype:
  """Returns the dtype in which cells are initialized: float64 if JAX enables it, else float32.

  Flax layers need it as an argument, because their default is float32 even if float64 is enabled.
  """
  return jax.dtypes.canonicalize_dtype(float)


def _mean_over_time(
  ys: Float[Array, "T B H"], valid: Bool[Array, "T B"] | None
) -> Float[Array, "1 B H"]:
  """Returns the mean over each sequence's valid steps; ys must be zero at all other steps."""
  if valid is None:
    return jnp.mean(ys, axis=0, keepdims=True)
  count = jnp.maximum(jnp.sum(valid, axis=0), 1).astype(ys.dtype)
  return jnp.sum(ys, axis=0, keepdims=True) / count[None, :, None]
