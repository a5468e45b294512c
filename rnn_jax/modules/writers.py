"""Networks that write a sequence: after a vector, or after another sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnn_jax.modules.deep import DeepRNN
from rnn_jax.modules.network import default_float
from rnn_jax.types import Array, Carry


class Written(NamedTuple):
  """What a network that writes reads.

  Attributes:
    source: what is written about: [B, D], or tokens [S, B], or vectors [S, B, D].
    source_lengths: [B], valid steps of each source; None where it has no time, or all are valid.
    tokens: [T, B], the token before each one to be written: a start token, then the sequence itself
      but for its last token ("teacher forcing").
  """

  source: Array
  source_lengths: Array | None
  tokens: Array


class Conditioned(nn.Module):
  """One to many: a vector in, a sequence out.

    h_{−1} = tanh(W x + b), for each leaf of each layer's carry      logits_t from the token before

  Attributes:
    decoder: writes; its outputs are logits of the next token.
  References:
    Vinyals et al., 2015, https://arxiv.org/abs/1411.4555 (there x is read as a first input)
  """

  decoder: DeepRNN

  def setup(self) -> None:  # noqa: D102
    self.bridges = [
      [
        nn.Dense(leaf.shape[-1], param_dtype=default_float())
        for leaf in jax.tree.leaves(cell.initial_carry(()))
      ]
      for cell in self.decoder.cells
    ]

  def start(self, xs: Written) -> tuple[Carry, ...]:
    """The carries from which the decoder writes."""
    carries = []
    for cell, bridges in zip(self.decoder.cells, self.bridges, strict=True):
      leaves = [jnp.tanh(dense(xs.source)) for dense in bridges]
      structure = jax.tree.structure(cell.initial_carry(()))
      carries.append(jax.tree.unflatten(structure, leaves))
    return tuple(carries)

  def __call__(
    self,
    xs: Written,
    *,
    probes: Sequence[Carry] | None = None,
    deterministic: bool = True,
    key: Array | None = None,
    truncation: int | Array | None = None,
    remat: str = "none",
  ) -> tuple[tuple[Carry, ...], Array]:
    """Returns (final carries, logits [T, B, V] of the tokens to be written)."""
    return self.decoder(
      xs.tokens,
      self.start(xs),
      probes=probes,
      deterministic=deterministic,
      key=key,
      truncation=truncation,
      remat=remat,
    )

  @nn.nowrap
  def probes(self, xs: Written) -> tuple[Carry, ...]:
    """A gradient probe for each layer of the decoder."""
    return self.decoder.probes(xs.tokens)


class EncoderDecoder(nn.Module):
  """Many to many, not aligned: reads a sequence to its end, then writes another.

    decoder's h_{−1} = encoder's final h      logits_t from the token before

  Attributes:
    encoder: reads the source; without readout.
    decoder: writes; its layers have carries of the encoder's sizes, its outputs are logits of the
      next token.
  References:
    Cho et al., 2014, https://arxiv.org/abs/1406.1078
    Sutskever et al., 2014, https://arxiv.org/abs/1409.3215
  """

  encoder: DeepRNN
  decoder: DeepRNN

  def setup(self) -> None:  # noqa: D102
    if self.encoder.output_size is not None:
      raise ValueError(f"encoder must have no output_size, got {self.encoder.output_size}.")

  def start(self, xs: Written, **options: Any) -> tuple[Carry, ...]:
    """The carries from which the decoder writes; options as `DeepRNN` takes them."""
    carries, _ = self.encoder(xs.source, lengths=xs.source_lengths, **options)
    return carries

  def __call__(
    self,
    xs: Written,
    *,
    probes: tuple[Sequence[Carry], Sequence[Carry]] | None = None,
    deterministic: bool = True,
    key: Array | None = None,
    truncation: int | Array | None = None,
    remat: str = "none",
  ) -> tuple[tuple[Carry, ...], Array]:
    """Returns (final carries, logits [T, B, V] of the tokens to be written)."""
    read, write = (None, None) if probes is None else probes
    keys = (None, None) if key is None else jax.random.split(key)
    options: dict[str, Any] = {"deterministic": deterministic, "remat": remat}
    options["truncation"] = truncation
    carries = self.start(xs, probes=read, key=keys[0], **options)
    return self.decoder(xs.tokens, carries, probes=write, key=keys[1], **options)

  @nn.nowrap
  def probes(self, xs: Written) -> tuple[tuple[Carry, ...], tuple[Carry, ...]]:
    """Gradient probes for the layers of encoder and decoder."""
    return self.encoder.probes(xs.source), self.decoder.probes(xs.tokens)
