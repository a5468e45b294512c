"""Our cells in the loops of Flax: `flax.linen.RNN` and `flax.nnx.RNN`.

Both loops make the input product in every step, and the gradient of the recurrent kernel too. Where
speed counts, or truncation, a probe or resets are wanted, `rnn_jax.unroll` is the loop.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax import checks
from rnn_jax.types import Array, Carry, Cell, Params, step


class LinenCell(nn.RNNCellBase):
  """One of our cells as a cell of Flax Linen.

      rnn = nn.RNN(LinenCell(make_cell("lstm", 64)), time_major=True)
      variables = rnn.init(key, xs)      # {"params": {"cell": {"cell": the cell's own params}}}
      ys = rnn.apply(variables, xs)      # as unroll(cell, params, xs)[1]

  It has what Linen's own cells have: any batch axes, `nn.Bidirectional`, `seq_lengths`. The carry
  is our cell's. Cells that draw masks run as in evaluation, since the loop gives no key.

  Attributes:
    cell: the cell.
  Raises:
    ValueError: tokens, which the loop would take for vectors.
  """

  cell: Cell

  @nn.compact
  def __call__(self, carry: Carry, x: Array) -> tuple[Carry, Any]:
    """(h_{t−1}, x_t) -> (h_t, y_t)."""
    params = self.param("cell", self.cell.init, _width(x))
    return _one_step(self.cell, params, carry, x)

  @nn.nowrap
  def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> Carry:
    """Zeros, for x of that shape."""
    del rng
    return self.cell.initial_carry(input_shape[:-1])

  @property
  def num_feature_axes(self) -> int:
    """Axes of x behind those of the batch."""
    return 1


class NNXCell(nnx.RNNCellBase):
  """One of our cells as a cell of Flax NNX.

      rnn = nnx.RNN(NNXCell(make_cell("lstm", 64), input_size, rngs=nnx.Rngs(0)), time_major=True)
      ys = rnn(xs)                       # as unroll(cell, params, xs)[1]
      grads = nnx.grad(lambda rnn: rnn(xs).sum())(rnn)

  It has what NNX's own cells have: any batch axes, `nnx.Bidirectional`, `seq_lengths`. The carry is
  our cell's. Cells that draw masks run as in evaluation, since the loop gives no key.

  Attributes:
    cell: the cell.
    params: its params, each leaf an nnx.Param.
  Raises:
    ValueError: tokens, which the loop would take for vectors.
  """

  def __init__(self, cell: Cell, input_size: int, *, rngs: nnx.Rngs):
    checks.integer("input_size", input_size)
    self.cell = nnx.static(cell)
    self.params = nnx.data(jax.tree.map(nnx.Param, cell.init(rngs.params(), input_size)))

  def __call__(self, carry: Carry, x: Array) -> tuple[Carry, Any]:
    """(h_{t−1}, x_t) -> (h_t, y_t)."""
    _width(x)
    params = jax.tree.map(lambda p: p[...], self.params, is_leaf=lambda p: isinstance(p, nnx.Param))
    return _one_step(self.cell, params, carry, x)

  def initialize_carry(
    self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
  ) -> Carry:
    """Zeros, for x of that shape."""
    del rngs, carry_init
    return self.cell.initial_carry(input_shape[:-1])

  @property
  def num_feature_axes(self) -> int:
    """Axes of x behind those of the batch."""
    return 1


def _one_step(cell: Cell, params: Params, carry: Carry, x: Array) -> tuple[Carry, Any]:
  # In the loop, which has no place in front of it: XLA moves out what it can.
  params = cell.prepare(params)
  drive = cell.project(params, x)
  carry = step(cell, params, carry, drive)
  return carry, cell.output(params, carry, drive)


def _width(x: Array) -> int:
  """D of x [..., D]."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"xs must be floats [..., D], one-hot for tokens, got {x.dtype}.")
  return x.shape[-1]
