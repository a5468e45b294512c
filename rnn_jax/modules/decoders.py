"""Decoders: networks that generate a sequence from a vector or from another sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.modules.deep import DeepRNN
from rnn_jax.modules.network import default_float
from rnn_jax.types import Array, Carry


class DecoderInputs(NamedTuple):
  """The inputs of a decoder: a source, and the target delayed by one step ("teacher forcing").

  Attributes:
    source: vectors [B, D], tokens [S, B], or sequences of vectors [S, B, D].
    source_lengths: [B], number of valid steps of each source; None for a source without a time
      axis, or if every step is valid.
    tokens: [T, B], the token before each target token: a start token, then the target without its
      last token.
  """

  source: Array
  source_lengths: Array | None
  tokens: Array


class ConditionedDecoder(nn.Module):
  """A decoder that generates a sequence from a vector x (one to many).

    h_{−1} = tanh(W x + b), for each leaf of each layer's carry
    logits_t = decoder(token_{t−1}, h_{t−1})

  Attributes:
    decoder: the network that generates the sequence. Its outputs are the logits of the next token.
  References:
    Vinyals et al., 2015, https://arxiv.org/abs/1411.4555 (where x is the first input instead)
  """

  decoder: DeepRNN

  def setup(self) -> None:  # noqa: D102
    checks.instance("decoder", self.decoder, DeepRNN)
    self.bridges = [
      [
        nn.Dense(leaf.shape[-1], param_dtype=default_float())
        for leaf in jax.tree.leaves(cell.initial_carry(()))
      ]
      for cell in self.decoder.cells
    ]

  def decoder_carries(self, xs: DecoderInputs) -> tuple[Carry, ...]:
    """Returns the decoder's initial carries, one per layer."""
    source = checks.array("source", xs.source, "floats")
    if source.ndim != 2:
      raise ValueError(f"source must be a batch of vectors [B, D], got {list(source.shape)}.")
    carries = []
    for cell, bridges in zip(self.decoder.cells, self.bridges, strict=True):
      leaves = [jnp.tanh(dense(source)) for dense in bridges]
      structure = jax.tree.structure(cell.initial_carry(()))
      carries.append(jax.tree.unflatten(structure, leaves))
    return tuple(carries)

  def __call__(
    self,
    xs: DecoderInputs,
    *,
    probes: Sequence[Carry] | None = None,
    deterministic: bool = True,
    key: Array | None = None,
    truncation: int | Array | None = None,
    remat: str = "none",
  ) -> tuple[tuple[Carry, ...], Array]:
    """Returns (the decoder's final carries, logits [T, B, V] of the target tokens)."""
    _check_inputs(xs, 0)
    return self.decoder(
      xs.tokens,
      self.decoder_carries(xs),
      probes=probes,
      deterministic=deterministic,
      key=key,
      truncation=truncation,
      remat=remat,
    )

  @nn.nowrap
  def probes(self, xs: DecoderInputs) -> tuple[Carry, ...]:
    """Returns a gradient probe for each layer of the decoder."""
    checks.instance("xs", xs, DecoderInputs)
    return self.decoder.probes(xs.tokens)


class EncoderDecoder(nn.Module):
  """An encoder that reads a whole sequence, and a decoder that then generates another one.

  The two sequences may differ in length (many to many, not aligned).

    h_{−1} of the decoder = final h of the encoder
    logits_t = decoder(token_{t−1}, h_{t−1})

  Attributes:
    encoder: the network that reads the source. It has no readout.
    decoder: the network that generates the target. It has as many layers as the encoder, and the
      carries of corresponding layers have the same structure and shapes. Its outputs are the logits
      of the next token.
  References:
    Cho et al., 2014, https://arxiv.org/abs/1406.1078
    Sutskever et al., 2014, https://arxiv.org/abs/1409.3215
  """

  encoder: DeepRNN
  decoder: DeepRNN

  def setup(self) -> None:  # noqa: D102
    checks.instance("encoder", self.encoder, DeepRNN)
    checks.instance("decoder", self.decoder, DeepRNN)
    if self.encoder.output_size is not None:
      raise ValueError(f"encoder must have no output_size, got {self.encoder.output_size}.")

  def decoder_carries(self, xs: DecoderInputs, **options: Any) -> tuple[Carry, ...]:
    """Returns the decoder's initial carries, one per layer; `options` go to the encoder's call."""
    carries, _ = self.encoder(xs.source, lengths=xs.source_lengths, **options)
    return carries

  def __call__(
    self,
    xs: DecoderInputs,
    *,
    probes: tuple[Sequence[Carry], Sequence[Carry]] | None = None,
    deterministic: bool = True,
    key: Array | None = None,
    truncation: int | Array | None = None,
    remat: str = "none",
  ) -> tuple[tuple[Carry, ...], Array]:
    """Returns (the decoder's final carries, logits [T, B, V] of the target tokens)."""
    _check_inputs(xs, 1)
    if probes is not None and (not isinstance(probes, tuple) or len(probes) != 2):
      raise TypeError(f"probes must be a pair (encoder, decoder), got {checks.shapes(probes)}.")
    encoder_probes, decoder_probes = (None, None) if probes is None else probes
    if key is not None:
      checks.key("key", key)
    encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
    options: dict[str, Any] = {"deterministic": deterministic, "remat": remat}
    options["truncation"] = truncation
    carries = self.decoder_carries(xs, probes=encoder_probes, key=encoder_key, **options)
    return self.decoder(xs.tokens, carries, probes=decoder_probes, key=decoder_key, **options)

  @nn.nowrap
  def probes(self, xs: DecoderInputs) -> tuple[tuple[Carry, ...], tuple[Carry, ...]]:
    """Returns (gradient probes for the encoder's layers, gradient probes for the decoder's)."""
    checks.instance("xs", xs, DecoderInputs)
    return self.encoder.probes(xs.source), self.decoder.probes(xs.tokens)


def _check_inputs(xs: DecoderInputs, axis: int) -> None:
  """Raises unless the size of the source's axis `axis` is the batch size B of the tokens [T, B]."""
  checks.instance("xs", xs, DecoderInputs)
  source, tokens = np.shape(xs.source), np.shape(xs.tokens)
  if source[axis : axis + 1] != tokens[1:2]:
    raise ValueError(
      f"source and tokens must have the same B, got {list(source)} and {list(tokens)}."
    )
