"""Small sets of cells that represent all cells in tests.

Tests of the cells themselves (the contract of `Cell`, the time loop's derivatives, the compiled
programs) cover every registered cell. Tests of other code that takes a cell as its argument use the
sets below.
"""

from rnn_jax import CELLS
from rnn_jax.cells import LSTMCarry, gru, layer_norm, lstm, residual, zoneout

PLAIN = ("elman", "gru", "lstm")  # cells whose only recurrent product is h W_h
KINDS = (*PLAIN, "lru")  # adds a cell with a complex carry and an output that differs from it

# Cells for tests of the reverse pass: every registered cell, and each option that makes its reverse
# pass run different code. An elman with activation="relu" is left out, because irnn is one.
VARIANTS = [*((name, {}) for name in CELLS), ("gru", {"reset": "before"})]

# Constructors of wrapped cells whose input size must equal their output size `size`.
WRAPPED = {
  "residual lstm": lambda size: residual(lstm(size)),
  "zoneout lstm": lambda size: zoneout(lstm(size), LSTMCarry(hidden=0.2, cell=0.5)),
  "all of a gru": lambda size: residual(layer_norm(zoneout(gru(size), 0.3))),
}
