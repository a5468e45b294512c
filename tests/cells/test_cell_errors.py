"""Errors of `step`, cells, wrappers and initializers name the wrong argument."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from rnn_jax import CELLS, make_cell, step, unroll
from rnn_jax.cells import dilated, layer_norm, residual, stack, zoneout
from rnn_jax.initializers import chrono_bias, further_key, recurrent_kernel

B, D, H = 3, 2, 4
KEY = jax.random.key(0)
X = jnp.ones((B, D))
LSTM, ELMAN = make_cell("lstm", H), make_cell("elman", H)
PARAMS = {"w_x": jnp.ones((D, 4 * H)), "w_h": jnp.ones((H, 4 * H)), "b": jnp.ones(4 * H)}
CARRY, DRIVE = LSTM.initial_carry((B,)), jnp.ones((B, 4 * H))
SAME = "carry and drive must have the same batch axes and precision"
KERNEL = recurrent_kernel("orthogonal", 1.0, 2)


def of_lstm(cell=LSTM, params=PARAMS, carry=CARRY, drive=DRIVE):
  return lambda: step(cell, params, carry, drive)


def changed(change):
  return of_lstm(carry=jax.tree.map(change, CARRY))


STEP = [
  (of_lstm(cell="lstm"), TypeError, "cell must be a Cell, got 'lstm'."),
  (
    of_lstm(carry=jnp.ones((2, 7))),
    ValueError,
    "carry must have the structure LSTMCarry(hidden=float32[2, 4], cell=float32[2, 4]), "
    "got float32[2, 7].",
  ),
  (of_lstm(carry=None), ValueError, "carry must have the structure LSTMCarry("),
  (of_lstm(carry=tuple(CARRY)), ValueError, "got (float32[3, 4], float32[3, 4])."),
  (
    changed(lambda a: a[:, :2]),
    ValueError,
    "carry.hidden must be floats [3, 4], got float32[3, 2].",
  ),
  (changed(lambda a: a.astype(int)), ValueError, "carry.hidden must be floats [3, 4], got int"),
  (changed(lambda a: a.astype(complex)), ValueError, "must be floats [3, 4], got complex64"),
  (changed(lambda a: a.astype(jnp.float16)), ValueError, f"{SAME}, got carry LSTMCarry(hidden=f"),
  (changed(lambda a: a[:2]), ValueError, "params and drive must fit the cell and the carry"),
  (changed(lambda a: a[:1]), ValueError, SAME),
  (changed(lambda a: jnp.stack([a, a])), ValueError, SAME),
  (of_lstm(params={"w_h": PARAMS["w_h"]}), ValueError, "got params {'w_h': float32[4, 16]} and dr"),
  (of_lstm(drive=DRIVE[:, :3]), ValueError, "drive float32[3, 3]"),
  (of_lstm(drive=None), ValueError, "params and drive must fit the cell and the carry"),
  (
    lambda: step(ELMAN, {"w_h": jnp.ones((H, H)), "b": jnp.ones(H)}, jnp.ones((B, H)), jnp.ones(H)),
    ValueError,
    f"{SAME}, got carry float32[3, 4] and drive float32[4].",
  ),
]


def width_of(name):
  """Returns a function that runs a step from a carry of width 1, which could broadcast to H."""
  cell = make_cell(name, H)

  def run(params):
    params = cell.prepare(params)
    carry = jax.tree.map(lambda a: a[..., :1] if a.ndim > 1 else a, cell.initial_carry((B,)))
    return step(cell, params, carry, cell.project(params, X))

  return lambda: jax.eval_shape(run, jax.eval_shape(lambda: cell.init(KEY, D)))


CELL = [
  *((width_of(name), ValueError, "carry") for name in CELLS),
  *(
    (functools.partial(make_cell(name, H).init, *arguments), error, message)
    for name in CELLS
    for arguments, error, message in (
      ((3, D), TypeError, "key must be a random key, such as jax.random.key(0), got 3."),
      ((KEY, 0), ValueError, "input_size must be at least 1, got 0."),
      ((KEY, D, int), TypeError, "dtype must be a float dtype, got <class 'int'>."),
    )
  ),
  (lambda: LSTM.project(PARAMS, jnp.ones((B, 7))), ValueError, "xs must be [..., 2], got [3, 7]."),
  (lambda: LSTM.project(PARAMS, jnp.ones(())), ValueError, "xs must be [..., 2], got []."),
  (
    lambda: LSTM.project(PARAMS, X.astype(complex)),
    TypeError,
    "xs must be an array of floats or integers, got complex64[3, 2].",
  ),
  (lambda: LSTM.project(PARAMS, None), TypeError, "xs must be an array of floats or integers"),
]

WRAPPERS = [
  *(
    (functools.partial(wrap, "lstm"), TypeError, "cell must be a Cell, got 'lstm'.")
    for wrap in (
      layer_norm,
      residual,
      functools.partial(dilated, dilation=2),
      functools.partial(zoneout, rate=0.1),
    )
  ),
  (lambda: stack([]), ValueError, "cells must hold at least one cell, got none."),
  (lambda: stack(ELMAN), TypeError, "cells must be a sequence, one cell a layer, got Cell."),
  (lambda: stack("lstm"), TypeError, "cells must be a sequence, one cell a layer, got str."),
  (lambda: stack([ELMAN, "gru"]), TypeError, "cells[1] must be a Cell, got 'gru'."),
  (lambda: zoneout(ELMAN, 1.5), ValueError, "rate must be at most 1, got 1.5."),
  (
    lambda: jax.jit(lambda rate: zoneout(ELMAN, rate).init(KEY, D))(jnp.ones(2)),
    TypeError,
    "rate must be a real scalar, got float32[2].",
  ),
  (lambda: dilated(ELMAN, 0), ValueError, "dilation must be at least 1, got 0."),
  (
    lambda: make_cell("zoneout_lstm", H, rate_cell=2),
    ValueError,
    "rate_cell must be at most 1, got 2.",
  ),
  (
    lambda: make_cell("antisymmetric", H, epsilon=0),
    ValueError,
    "epsilon must be greater than 0, got 0.",
  ),
  (lambda: make_cell("cornn", H, delta=-1), ValueError, "delta must be greater than 0, got -1."),
  (lambda: make_cell("lem", H, delta=0), ValueError, "delta must be greater than 0, got 0."),
  (
    lambda: make_cell("lru", H, max_radius=1.5),
    ValueError,
    "max_radius must be at most 1, got 1.5",
  ),
  (
    lambda: unroll(stack([ELMAN, ELMAN]), ({}, {}), X[None]),
    ValueError,
    "params must have the structure ({'b': float32[4],",
  ),
]

INITIALIZERS = [
  (lambda: KERNEL(KEY, (4, 5)), ValueError, "shape must be [H, 2·H], got [4, 5]."),
  (lambda: KERNEL(KEY, ()), ValueError, "shape must be [H, 2·H], got []."),
  (lambda: KERNEL(KEY, 4), TypeError, "shape must be a sequence of integers, got 4."),
  (lambda: KERNEL(KEY, (0, 0)), ValueError, "shape must be at least 1, got 0."),
  (lambda: KERNEL(KEY, (4.0, 8)), TypeError, "shape must be an integer, got 4.0."),
  (lambda: KERNEL(KEY, (4, 8), "x"), TypeError, "dtype must be a float dtype, got 'x'."),
  (lambda: KERNEL(3, (4, 8)), TypeError, "key must be a random key, such as jax.random.key(0)"),
  (lambda: recurrent_kernel(num_gates=0), ValueError, "num_gates must be at least 1, got 0."),
  (lambda: recurrent_kernel(gain=1j), TypeError, "recurrent_gain must be a number, got 1j."),
  (lambda: chrono_bias(2), ValueError, "longest must be greater than 2, got 2."),
  (lambda: chrono_bias(9)(KEY, (-1,)), ValueError, "shape must be at least 1, got -1."),
  (lambda: chrono_bias(9)(KEY, (3,), int), TypeError, "dtype must be a float dtype"),
  (lambda: further_key(jnp.ones(2)), TypeError, "key must be a random key"),
]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("call", "error", "message"), [*STEP, *CELL, *WRAPPERS, *INITIALIZERS])
def test_wrong_arguments_are_named(call, error, message):
  # Restore JAX's default promotion rules, under which wrong shapes and dtypes would be broadcast
  # and promoted silently. The stricter rules of the test suite would raise JAX's own errors.
  with (
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
    pytest.raises(error) as caught,
  ):
    call()
  assert message in str(caught.value)
