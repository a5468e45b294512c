"""The update gate recurrent network, whose only gate mixes the old carry with a candidate."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.gru import gru
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import drawn_in_float32
from rnn_jax.types import Array, FlatParams, Number, PlainCell


@memoized
def ugrnn(
  hidden_size: int,
  *,
  forget_bias: Number = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """Update gate network: its only gate g is the share of the old carry that is kept.

    g = σ(x W_g + h U_g + b_g)      c = tanh(x W_c + h U_c + b_c)
    h' = g ∘ h + (1 − g) ∘ c

  The step is that of `gru` with reset="none". The two cells differ only in the initial bias of the
  gate: it is 1 here, as in the TensorFlow cell by one of the authors, and 0 in `gru`.

  Step Jacobian: ∂h'/∂h = diag(g) + U_g diag((h − c) ∘ g ∘ (1 − g)) + U_c diag((1 − g) ∘ (1 − c²)).

  Gradient flow: on the direct path, every step multiplies a unit's gradient by g and nothing else.
  No reset gate closes the path through U_c, and no output gate attenuates the gradient of y.

  Args:
    hidden_size: width H of carry and output.
    forget_bias: initial value of b_g.
    recurrent_kernel: initialization of U_g and U_c: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 2·H], "w_h": [H, 2·H], "b": [2·H]} in the order g, c. Gates: {"update": g}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, or
      `forget_bias` or `recurrent_gain` is not a finite number.
  References:
    Collins et al., 2017, https://arxiv.org/abs/1611.09913; for the initial bias:
    https://github.com/tensorflow/tensorflow, UGRNNCell of tf.contrib.rnn
  """
  checks.number("forget_bias", forget_bias)
  cell = gru(
    hidden_size,
    reset="none",
    recurrent_kernel=recurrent_kernel,
    recurrent_gain=recurrent_gain,
  )

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    params = cell.init(key, input_size, dtype)
    b = params["b"]
    return {**params, "b": b.at[:hidden_size].set(jnp.asarray(forget_bias, b.dtype))}

  return cell._replace(init=init)
