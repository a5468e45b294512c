"""A library to study how gradient flows through time in recurrent networks, and what changes it."""

import importlib
from typing import TYPE_CHECKING

from rnn_jax.cells import CELLS, make_cell, register_cell
from rnn_jax.modules import BidirectionalRNN, ConditionedDecoder, DeepRNN, EncoderDecoder
from rnn_jax.probes import gradient_probe, probe_like, tap
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
  "probe_like",
  "register_cell",
  "step",
  "tap",
  "unroll",
]

__version__ = "0.2.0"

if not TYPE_CHECKING:

  def __getattr__(name: str):
    """Imports a module of the library at its first use, such as `rnn_jax.gradient_flow`."""
    module = f"{__name__}.{name}"
    try:
      return importlib.import_module(module)
    except ModuleNotFoundError as error:
      if error.name != module:
        raise
      raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
