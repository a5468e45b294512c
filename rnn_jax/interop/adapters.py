"""Adapters that run our cells in Flax's loops: `flax.linen.RNN` and `flax.nnx.RNN`.

Flax's loops are slower than `rnn_jax.unroll`, because they compute the input product and the
recurrent kernel's gradient step by step. They also lack truncation, probes and resets.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from rnn_jax import checks
from rnn_jax.types import AnyArray, Carry, Cell, Params, step


class LinenCell(nn.RNNCellBase):
  """Adapts one of our cells to Flax Linen.

      rnn = nn.RNN(LinenCell(make_cell("lstm", 64)), time_major=True)
      variables = rnn.init(key, xs)      # {"params": {"cell": {"cell": the cell's own params}}}
      ys = rnn.apply(variables, xs)      # equals unroll(cell, params, xs)[1]

  The adapter supports what Linen's own cells support: any batch axes, `nn.Bidirectional` and
  `seq_lengths`. The carry is that of the adapted cell. Stochastic cells run as in evaluation, since
  Flax's loop passes no key.

  Attributes:
    cell: the cell to adapt.
  Raises:
    ValueError: if x holds integer tokens, which Flax's loop would treat as vectors.
  """

  cell: Cell

  @nn.compact
  def __call__(
    self, carry: Carry, x: Float[AnyArray, "*batch D"]
  ) -> tuple[Carry, Float[Array, "*batch H"]]:
    """Runs one step: returns (the new carry h_t, the output y_t) from h_{t−1} and x_t."""
    width = _width(x)
    params: Params
    if self.has_variable("params", "cell"):
      params = self.get_variable("params", "cell")
    else:
      params = self.param("cell", self.cell.init, width)
    return _one_step(self.cell, params, carry, x)

  @nn.nowrap
  def initialize_carry(self, rng: Key[Array, ""], input_shape: tuple[int, ...]) -> Carry:
    """Returns a carry of zeros for a step's input x of the given shape [..., D]; ignores `rng`."""
    del rng
    checks.instance("cell", self.cell, Cell)
    return self.cell.initial_carry(input_shape[:-1])

  @property
  def num_feature_axes(self) -> int:
    """The number of axes of x after the batch axes."""
    return 1


class NNXCell(nnx.RNNCellBase):
  """Adapts one of our cells to Flax NNX.

      rnn = nnx.RNN(NNXCell(make_cell("lstm", 64), input_size, rngs=nnx.Rngs(0)), time_major=True)
      ys = rnn(xs)                       # equals unroll(cell, params, xs)[1]
      grads = nnx.grad(lambda rnn: rnn(xs).sum())(rnn)

  The adapter supports what NNX's own cells support: any batch axes, `nnx.Bidirectional` and
  `seq_lengths`. The carry is that of the adapted cell. Stochastic cells run as in evaluation, since
  Flax's loop passes no key.

  Attributes:
    cell: the cell to adapt.
    params: the cell's params, each leaf an nnx.Param.
  Raises:
    ValueError: if x holds integer tokens, which Flax's loop would treat as vectors.
  """

  def __init__(self, cell: Cell, input_size: int, *, rngs: nnx.Rngs):
    checks.instance("cell", cell, Cell)
    checks.integer("input_size", input_size)
    checks.instance("rngs", rngs, nnx.Rngs)
    self.cell = nnx.static(cell)
    self.params = nnx.data(jax.tree.map(nnx.Param, cell.init(rngs.params(), input_size)))

  def __call__(
    self, carry: Carry, x: Float[AnyArray, "*batch D"]
  ) -> tuple[Carry, Float[Array, "*batch H"]]:
    """Runs one step: returns (the new carry h_t, the output y_t) from h_{t−1} and x_t."""
    _width(x)
    params = jax.tree.map(lambda p: p[...], self.params, is_leaf=lambda p: isinstance(p, nnx.Param))
    return _one_step(self.cell, params, carry, x)

  def initialize_carry(
    self, input_shape: tuple[int, ...], rngs: object = None, carry_init: object = None
  ) -> Carry:
    """Returns a carry of zeros for a step's input x of the given shape [..., D].

    `rngs` and `carry_init` belong to NNX's signature and are ignored.
    """
    del rngs, carry_init
    return self.cell.initial_carry(input_shape[:-1])

  @property
  def num_feature_axes(self) -> int:
    """The number of axes of x after the batch axes."""
    return 1


def _one_step(
  cell: Cell, params: Params, carry: Carry, x: Float[AnyArray, "*batch D"]
) -> tuple[Carry, Float[Array, "*batch H"]]:
  # `prepare` runs at every step, since Flax's loop calls a cell only inside its steps. XLA hoists
  # what it can.
  params = cell.prepare(params)
  drive = cell.project(params, jnp.asarray(x))
  carry = step(cell, params, carry, drive)
  return carry, cell.output(params, carry, drive)


def _width(x: AnyArray) -> int:
  """Returns D, the size of the last axis of x [..., D]; raises unless x is an array of floats."""
  if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim == 0:
    raise ValueError(f"xs must be floats [..., D], one-hot for tokens, got {checks.shown(x)}.")
  return x.shape[-1]
