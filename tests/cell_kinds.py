"""Cells that stand for all of them.

What a cell must do is tested for every one in the registry: the contract, the derivative of its
loop, the program that it compiles to. Laws of the code around cells are tested with these.
"""

from rnn_jax import CELLS
from rnn_jax.cells import LSTMCarry, gru, layer_norm, lstm, residual, zoneout

PLAIN = ("elman", "gru", "lstm")  # h W_h as the only recurrent product
KINDS = (*PLAIN, "lru")  # and a complex carry with an output of its own

# For the reverse sweep: every cell, and those of its options that take another way through it.
# An irnn is an elman of rectified linear units.
VARIANTS = [*((name, {}) for name in CELLS), ("gru", {"reset": "before"})]

# They read vectors as wide as their output.
WRAPPED = {
  "residual lstm": lambda size: residual(lstm(size)),
  "zoneout lstm": lambda size: zoneout(lstm(size), LSTMCarry(hidden=0.2, cell=0.5)),
  "all of a gru": lambda size: residual(layer_norm(zoneout(gru(size), 0.3))),
}
