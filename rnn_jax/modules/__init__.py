"""Flax modules: recurrent layers, networks of such layers, protocols for a user's own networks."""

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
