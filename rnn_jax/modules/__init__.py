"""Flax modules: recurrent layers, networks of them, and protocols for networks of a user's own."""

from rnn_jax.modules.decoders import ConditionedDecoder, DecoderInputs, EncoderDecoder
from rnn_jax.modules.deep import BidirectionalRNN, DeepRNN
from rnn_jax.modules.model import (
  CausalModel,
  Lengths,
  MeasuredModel,
  Model,
  StreamingModel,
)
from rnn_jax.modules.network import Network
from rnn_jax.modules.recurrent import Bidirectional, Recurrent

__all__ = [
  "Bidirectional",
  "BidirectionalRNN",
  "CausalModel",
  "ConditionedDecoder",
  "DecoderInputs",
  "DeepRNN",
  "EncoderDecoder",
  "Lengths",
  "MeasuredModel",
  "Model",
  "Network",
  "Recurrent",
  "StreamingModel",
]
