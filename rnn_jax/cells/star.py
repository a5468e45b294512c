"""The stackable recurrent cell (STAR), which squashes the mixture of carry and encoded input."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, plain_recur, the_carry, zeros
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import chrono_bias, drawn_in_float32, further_key
from rnn_jax.types import Array, Cell, FlatParams, Gates, Inputs, Number, Units, unprepared

# The pair (x W_s + b_s, z): the input's part of the gate's pre-activation, and the encoded input z.
StarDrive: TypeAlias = tuple[Units, Units]


@memoized
def star(
  hidden_size: int,
  *,
  beta: Number = 0.0,
  forget_bias: Number = 1.0,
  chrono: Number | None = None,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> Cell[FlatParams, Array, StarDrive]:
  """STAR: one gate mixes the carry with an encoding of the input, and tanh squashes the mixture.

    s = x W_s + h W_h + b_s      z = tanh(x W_z + b_z)
    h' = tanh(σ(s) ∘ h + (1 − σ(s − β)) ∘ z)

  The paper's gate is 1 − σ(s), the share of the carry that is replaced, so its params have the
  opposite sign. The paper has β = 0. The authors' code has β = 1, like JANET; the shares of h and z
  then add up to more than 1.

  Step Jacobian, for β = 0 and the gate f = σ(s):
  ∂h'/∂h = (diag(f) + W_h diag((h − z) ∘ f ∘ (1 − f))) diag(1 − h'²).

  Gradient flow: every step multiplies the gradient by 1 − h'² in addition to the gate, and no gate
  can avoid it. Where the gate keeps everything, h' = tanh h: over k steps the carry shrinks as
  k^(−1/2) and the gradient as k^(−3/2), a power law. A gate without tanh would preserve both.

  Args:
    hidden_size: width H of carry and output.
    beta: β, a shift in the input gate 1 − σ(s − β).
    forget_bias: initial value of b_s; ignored with `chrono`.
    chrono: T_max, the longest expected dependency in steps. Initializes b_s = ln u with
      u ~ U(1, T_max − 1), so that the units' time scales spread up to T_max. (The authors' code
      draws u up to T_max, which is 784.) None for b_s = `forget_bias`.
    recurrent_kernel: initialization of W_h: `orthogonal` (as in the authors' code), `gaussian` or
      `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 2·H], "w_h": [H, H], "b": [2·H]}, w_x and b in the order s, z.
    Gates: {"forget": σ(s), "input": 1 − σ(s − β)}.
  Raises:
    TypeError, ValueError: if `recurrent_kernel` is unknown, `hidden_size` is below 1, `beta`,
      `forget_bias` or `recurrent_gain` is not a finite number, or `chrono` is not above 2.
  References:
    Turkoglu et al., 2021, https://arxiv.org/abs/1911.11033; for β = 1 and the initialization:
    https://github.com/0zgur0/STAckable-Recurrent-network
    Tallec and Ollivier, 2018 (chrono), https://arxiv.org/abs/1804.11188
  """
  checks.number("beta", beta)
  checks.number("forget_bias", forget_bias)
  dense = dense_init(hidden_size, 1, recurrent_kernel, recurrent_gain)
  times = None if chrono is None else chrono_bias(checks.number("chrono", chrono, above=2))

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    z_key, b_key = jax.random.split(further_key(key))
    params = dense(key, input_size, dtype)
    b = params["b"]
    b_s = jnp.full_like(b, jnp.asarray(forget_bias, b.dtype))
    if times is not None:
      b_s = times(b_key, (hidden_size,), b.dtype)
    w_x = jnp.concatenate([params["w_x"], dense(z_key, input_size, dtype)["w_x"]], axis=1)
    return {**params, "w_x": w_x, "b": jnp.concatenate([b_s, b])}

  def weights(drive: StarDrive, recurrent: Units) -> tuple[Units, Units]:
    """Returns the forget gate σ(s) and the input gate 1 − σ(s − β)."""
    s = drive[0] + recurrent
    return jax.nn.sigmoid(s), jax.nn.sigmoid(jnp.asarray(beta, s.dtype) - s)

  def update(params: FlatParams, h: Units, drive: StarDrive, recurrent: Units) -> Units:
    del params
    f, i = weights(drive, recurrent)
    return jnp.tanh(f * h + i * drive[1])

  def gates(params: FlatParams, h: Units, drive: StarDrive, recurrent: Units) -> Gates:
    del params, h
    f, i = weights(drive, recurrent)
    return {"forget": f, "input": i}

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=_project,
    recur=plain_recur,
    update=update,
    output=the_carry,
    gates=gates,
    recurrent_kernel="w_h",
    output_is_carry=True,
  )


def _project(params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None) -> StarDrive:
  s, z = jnp.split(dense_project(params, xs, key, bias=True), 2, axis=-1)
  return s, jnp.tanh(z)
