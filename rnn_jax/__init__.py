"""A library to study how gradient flows through time in recurrent networks, and what changes it."""

from rnn_jax.cells import CELLS, make_cell
from rnn_jax.modules import BidirectionalRNN, ConditionedDecoder, DeepRNN, EncoderDecoder
from rnn_jax.probes import gradient_probe
from rnn_jax.time_loop import unroll
from rnn_jax.types import Cell, step

__all__ = [
  "CELLS",
  "BidirectionalRNN",
  "Cell",
  "ConditionedDecoder",
  "DeepRNN",
  "EncoderDecoder",
  "gradient_probe",
  "make_cell",
  "step",
  "unroll",
]
