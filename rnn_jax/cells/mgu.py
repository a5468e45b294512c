"""The minimal gated unit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, plain_recur, product, the_carry, zeros
from rnn_jax.types import Array, Cell, Params, unprepared


def mgu(
  hidden_size: int,
  *,
  reset: str = "after",
  forget_bias: Any = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Any = 1.0,
) -> Cell:
  """Minimal gated unit, a GRU whose two gates are one; f keeps the old carry.

    f = σ(x W_f + h U_f + b_f)
    n = tanh(x W_n + b_n + f ∘ (h U_n))              reset="after"
    n = tanh(x W_n + b_n + ((1 − f) ∘ h) U_n)        reset="before"
    h' = f ∘ h + (1 − f) ∘ n

  The paper's unit is reset="before" with its gate, which replaces, as 1 − f: its W_f, U_f and b_f
  are those here with the other sign. Flax's is reset="after", without its bias of h U_n.

  Step Jacobian: at h = x = b = 0 it is ½ I + ¼ U_n; where f is near 1 it is near I and the gradient
  is carried on unchanged.

  Args:
    hidden_size: width H of carry and output.
    reset: where the gate acts on what n reads of h: `after` the recurrent product or `before` it.
    forget_bias: initial value of b_f.
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`, one block a gate.
    recurrent_gain: factor on the recurrent kernel at initialisation.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, 2·H], "w_h": [H, 2·H], "b": [2·H]}, in the order f, n; f is named forget.
  Raises:
    TypeError, ValueError: an unknown reset or kernel, a size below 1, a bias or gain that is not
      finite.
  References:
    Zhou et al., 2016, https://arxiv.org/abs/1603.09420
  """
  checks.choice("reset", reset, ("after", "before"))
  checks.number("forget_bias", forget_bias)
  dense = dense_init(hidden_size, 2, recurrent_kernel, recurrent_gain)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    params = dense(key, input_size, dtype)
    b = params["b"]
    return {**params, "b": b.at[:hidden_size].set(jnp.asarray(forget_bias, b.dtype))}

  recur, update = (_recur_before, _update_before) if reset == "before" else (plain_recur, _update)
  # f scales the recurrent product without b.
  project = functools.partial(dense_project, bias=True)
  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=project,
    recur=recur,
    update=update,
    output=the_carry,
    gates=_gates,
    recurrent_kernel=None if reset == "before" else "w_h",
    output_is_carry=True,
  )


def _recur_before(params: Params, h: Array) -> Array:
  return product(h, params["w_h"][:, : h.shape[-1]])


def _update(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
  del params
  f = _forget(h, drive, recurrent)
  n = jnp.tanh(drive[..., h.shape[-1] :] + f * recurrent[..., h.shape[-1] :])
  return f * h + (1 - f) * n


def _update_before(params: Params, h: Array, drive: Array, recurrent: Array) -> Array:
  width = h.shape[-1]
  f = _forget(h, drive, recurrent)
  n = jnp.tanh(drive[..., width:] + product((1 - f) * h, params["w_h"][:, width:]))
  return f * h + (1 - f) * n


def _forget(h: Array, drive: Array, recurrent: Array) -> Array:
  width = h.shape[-1]
  return jax.nn.sigmoid(drive[..., :width] + recurrent[..., :width])


def _gates(params: Params, h: Array, drive: Array, recurrent: Array) -> dict[str, Array]:
  del params
  return {"forget": _forget(h, drive, recurrent)}
