"""Small sets of cells that represent all cells in tests.

Tests of the cells themselves (the contract of `Cell`, the time loop's derivatives, the compiled
programs) cover every registered cell. Tests of other code that takes a cell as its argument use the
sets below.
"""

from rnn_jax import CELLS
from rnn_jax.cells import LSTMCarry, gru, layer_norm, lstm, residual, zoneout

PLAIN = ("elman", "gru", "lstm")  # cells whose only recurrent product is h W_h
KINDS = (*PLAIN, "lru")  # adds a cell with a complex carry that is not the output

# Cells for tests of the reverse pass: every registered cell, and each option that makes its reverse
# pass run different code. `elman` with activation="relu" is left out, because `irnn` runs the same
# step.
VARIANTS = [*((name, {}) for name in CELLS), ("gru", {"reset": "before"})]

# Constructors of wrapped cells; `size` is both the input size and the output size.
WRAPPED = {
  "residual lstm": lambda size: residual(lstm(size)),
  "zoneout lstm": lambda size: zoneout(lstm(size), LSTMCarry(hidden=0.2, cell=0.5)),
  "all of a gru": lambda size: residual(layer_norm(zoneout(gru(size), 0.3))),
}
