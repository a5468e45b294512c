"""Every library's conversion functions name the weight or argument of a wrong type or shape."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnn_jax import make_cell
from rnn_jax.interop import (
  LinenCell,
  NNXCell,
  params_from_keras,
  params_from_linen,
  params_from_nnx,
  params_from_torch,
  params_to_keras,
  params_to_linen,
  params_to_nnx,
  params_to_torch,
)

B, D, H = 3, 2, 4
KEY = jax.random.key(0)
LSTM = make_cell("lstm", H)
PARAMS = {"w_x": np.ones((D, 4 * H)), "w_h": np.ones((H, 4 * H)), "b": np.ones(4 * H)}
WORDS = {name: leaf.astype(str) for name, leaf in PARAMS.items()}
WHOLE = {name: leaf.astype(int) for name, leaf in PARAMS.items()}
X = jnp.ones((B, D))
CARRY = LSTM.initial_carry((B,))
NARROW = jax.tree.map(lambda a: a[:, :2], CARRY)


def linen(carry=CARRY, x=X, cell=LSTM):
  def run():
    variables = LinenCell(LSTM).init(KEY, CARRY, X)
    return LinenCell(cell).apply(variables, carry, x)

  return lambda: jax.eval_shape(run)


def nnx_cell(carry=CARRY, x=X):
  return lambda: NNXCell(LSTM, D, rngs=nnx.Rngs(0))(carry, x)


# Each case is (a call without arguments, the error that it raises, a part of its message).
CASES = [
  *(
    (lambda convert=convert: convert("lstm", None), TypeError, "must be a Mapping, got None.")
    for convert in (
      params_from_linen,
      params_from_nnx,
      params_from_torch,
      params_to_keras,
      params_to_linen,
      params_to_nnx,
    )
  ),
  (
    lambda: params_from_keras("lstm", None),
    ValueError,
    "weights must be [kernel, recurrent_kernel, bias]",
  ),
  (
    lambda: params_to_torch("lstm", None),
    ValueError,
    "layers must be a list with the params of at least",
  ),
  (lambda: params_to_torch("lstm", 3), ValueError, "of at least one layer, got 3."),
  (lambda: params_to_torch("lstm", [3]), TypeError, "params of layer 0 must be a Mapping, got 3."),
  *(
    (lambda convert=convert, wrong=wrong: convert("lstm", wrong), TypeError, message)
    for convert in (params_to_keras, params_to_linen, params_to_nnx)
    for wrong, message in (
      (WORDS, "w_x must be an array of floats, got <U"),
      (WHOLE, "w_x must be an array of floats, got int32[2, 16]."),
      ({**PARAMS, "b": None}, "b must be an array of floats, got object[]."),
    )
  ),
  (
    lambda: params_from_torch("lstm", {1: X}),
    TypeError,
    "entry of state_dict must be a str, got 1.",
  ),
  (lambda: params_from_torch("lstm", {}, prefix=3), TypeError, "prefix must be a str, got 3."),
  (lambda: params_to_torch("lstm", [PARAMS], prefix=3), TypeError, "prefix must be a str, got 3."),
  (
    lambda: params_from_nnx("lstm", {}, optimized="no"),
    TypeError,
    "optimized must be True or False, got",
  ),
  (
    lambda: params_to_nnx("lstm", PARAMS, optimized=1),
    TypeError,
    "optimized must be True or False, got 1",
  ),
  *(
    case
    for call in (linen, nnx_cell)
    for case in (
      (call(carry=X), ValueError, "carry must have the structure LSTMCarry("),
      (call(carry=NARROW), ValueError, "carry.hidden must be floats [3, 4], got float32[3, 2]."),
      (call(x=X[:, :1]), ValueError, "xs must be [..., 2], got [3, 1]."),
      (
        call(x=X.astype(int)),
        ValueError,
        "xs must be floats [..., D], one-hot for tokens, got int",
      ),
      (
        call(x=jnp.float32(1)),
        ValueError,
        "xs must be floats [..., D], one-hot for tokens, got flo",
      ),
    )
  ),
  (
    lambda: jax.eval_shape(lambda: nn.RNN(LinenCell("lstm")).init(KEY, X[None])),
    TypeError,
    "cell must be a Cell, got 'lstm'.",
  ),
  (lambda: NNXCell("lstm", D, rngs=nnx.Rngs(0)), TypeError, "cell must be a Cell, got 'lstm'."),
  (lambda: NNXCell(LSTM, 0, rngs=nnx.Rngs(0)), ValueError, "input_size must be at least 1, got 0."),
  (lambda: NNXCell(LSTM, D, rngs=3), TypeError, "rngs must be a Rngs, got 3."),
]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("call", "error", "message"), CASES)
def test_wrong_arguments_are_named(call, error, message):
  with pytest.raises(error) as caught:
    call()
  assert message in str(caught.value)
