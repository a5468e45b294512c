"""The clockwork network, whose units update with different periods."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, hidden_recur, the_hidden_state
from rnn_jax.cells.memoized import memoized
from rnn_jax.types import Array, Cell, FlatParams, Number, Shape, Units

_MOST_MODULES = 31  # the longest period, 2³⁰, is the largest power of two in an int32


class ClockworkCarry(NamedTuple):
  """The carry of a clockwork network.

  Attributes:
    hidden: h [..., H].
    time: t [...], int32, the number of steps taken so far.
  """

  hidden: Array
  time: Array


@memoized
def clockwork(
  hidden_size: int,
  *,
  num_modules: int = 8,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> Cell[FlatParams, ClockworkCarry, Array]:
  """Clockwork network: its units form modules, and module i updates at every 2^i-th step.

    h' = tanh(x W_x + h W_h + b)      for the units of module i if t mod T_i = 0
    h' = h                            for all other units                            T_i = 2^i

  Modules are numbered i = 0 … g−1, where g is `num_modules`. The step number t counts from 0, so
  all modules update at the first step. A module reads only itself and the slower modules, because
  `prepare` sets all other blocks of W_h to zero.

  Step Jacobian: a column of I for each unit that keeps its value, and a column of W_h diag(1 − h'²)
  for each unit that updates. Over k steps a module's gradient is multiplied by W_h only about k/T_i
  times and passes through the other steps unchanged. W_h is block-triangular, so its eigenvalues
  are those of its diagonal blocks.

  Args:
    hidden_size: width H of carry and output.
    num_modules: g, at most 31. A module is a range of consecutive units; the modules' sizes differ
      by at most one. If H < g, there are H modules of one unit each.
    recurrent_kernel: initialization of W_h, including the blocks that `prepare` sets to zero:
      `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], ClockworkCarry with hidden [..., H] and time [...], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [H]}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, `num_modules`
      is not from 1 to 31, or `recurrent_gain` is not a finite number.
  References:
    Koutník et al., 2014, https://arxiv.org/abs/1402.3511
  """
  init = dense_init(hidden_size, 1, recurrent_kernel, recurrent_gain)
  if checks.integer("num_modules", num_modules) > _MOST_MODULES:
    raise ValueError(f"num_modules must be at most {_MOST_MODULES}, got {num_modules}.")
  module = np.arange(hidden_size) * min(num_modules, hidden_size) // hidden_size
  period = (2**module).astype(np.int32)
  reads = module[:, None] >= module[None]

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> ClockworkCarry:
    hidden = jnp.zeros((*batch_shape, hidden_size), dtype)
    return ClockworkCarry(hidden, jnp.zeros(batch_shape, jnp.int32))

  def prepare(params: FlatParams) -> FlatParams:
    w_h = params["w_h"]
    return {**params, "w_h": jnp.where(reads, w_h, jnp.zeros_like(w_h))}

  def update(
    params: FlatParams, carry: ClockworkCarry, drive: Units, recurrent: Units
  ) -> ClockworkCarry:
    del params
    h, t = carry
    moves = t[..., None] % np.expand_dims(period, tuple(range(t.ndim))) == 0
    return ClockworkCarry(jnp.where(moves, jnp.tanh(drive + recurrent), h), t + 1)

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=prepare,
    project=dense_project,
    recur=hidden_recur,
    update=update,
    output=the_hidden_state,
  )
