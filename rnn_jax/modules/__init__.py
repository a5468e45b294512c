"""Flax modules around the time loop."""

from rnn_jax.modules.deep import BidirectionalRNN, DeepRNN
from rnn_jax.modules.network import Network
from rnn_jax.modules.recurrent import Bidirectional, Recurrent
from rnn_jax.modules.writers import Conditioned, EncoderDecoder, Written

__all__ = [
  "Bidirectional",
  "BidirectionalRNN",
  "Conditioned",
  "DeepRNN",
  "EncoderDecoder",
  "Network",
  "Recurrent",
  "Written",
]
