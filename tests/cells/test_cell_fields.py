"""The descriptive fields of every cell agree with its functions.

These fields are `gates`, `linear`, `recurrent_kernel` and `output_is_carry`. They are checked here
for the wrappers, and in `test_contract.py` for each registered cell.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from test_contract import D, H, problem

from rnn_jax import make_cell, testing
from rnn_jax.cells import CELLS as REGISTRY
from rnn_jax.cells import dilated, elman, gru, layer_norm, lru, lstm, residual, stack, zoneout
from rnn_jax.types import unprepared

WRAPPERS = {
  "dilated": lambda: dilated(lstm(H), 3),
  "dilated by one step": lambda: dilated(elman(H), 1),
  "layer_norm": lambda: layer_norm(gru(H)),
  "layer_norm of a linear cell": lambda: layer_norm(lru(H)),
  "residual": lambda: residual(gru(D)),
  "residual of a linear cell": lambda: residual(lru(D)),
  "stack": lambda: stack([lstm(H), elman(H)]),
  "zoneout": lambda: zoneout(gru(H), 0.3),
  "zoneout of a linear cell": lambda: zoneout(lru(H), 0.3),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_fields_agree_with_the_cell(name):
  example = testing.Example(WRAPPERS[name](), D)
  testing.check_gates(example)
  testing.check_linear(example)
  testing.check_recurrent_kernel(example)
  testing.check_output(example)


def test_wrappers_keep_the_fields_of_their_cell():
  assert zoneout(gru(H), 0.3).recurrent_kernel == residual(gru(H)).recurrent_kernel == "w_h"
  assert residual(lru(H)).linear and layer_norm(lru(H)).linear and not zoneout(lru(H), 0.3).linear
  assert layer_norm(elman(H)).output_is_carry and zoneout(elman(H), 0.3).output_is_carry
  for wrapped in (
    dilated(lstm(H), 2),
    layer_norm(lstm(H)),
    residual(lstm(H)),
    zoneout(lstm(H), 0.1),
  ):
    assert wrapped.gates is not None


def test_gated_and_linear_cells_are_as_listed():
  cells = {name: make_cell(name, 8) for name in REGISTRY}
  assert {name for name, cell in cells.items() if cell.gates is None} == {
    *("elman", "irnn", "indrnn", "antisymmetric", "exprnn", "urnn", "scornn", "cornn"),
    *("clockwork", "dilated_elman", "fast_rnn", "leaky", "lmu", "lru", "s4d", "s5", "s6"),
    *("lipschitz", "unicornn"),
  }
  assert {name for name, cell in cells.items() if cell.linear is not None} == {
    *("lru", "s4d", "s5", "s6", "mingru", "minlstm", "rg_lru"),
  }


# Cells with a wrong field, as {what is wrong: (the check that must fail, the cell)}.
LIES = {
  "another param": (
    testing.check_recurrent_kernel,
    make_cell("elman", H)._replace(recurrent_kernel="w_x"),
  ),
  "a kernel that update reads too": (
    testing.check_recurrent_kernel,
    make_cell("elman", H)._replace(
      update=lambda params, h, drive, recurrent: jnp.tanh(drive + recurrent + h @ params["w_h"])
    ),
  ),
  "a kernel that prepare changes": (
    testing.check_recurrent_kernel,
    make_cell("clockwork", H)._replace(recurrent_kernel="w_h"),
  ),
  "half of a kernel": (
    testing.check_recurrent_kernel,
    make_cell("gru", H, reset="before")._replace(recurrent_kernel="w_h"),
  ),
  "a product of something else": (
    testing.check_recurrent_kernel,
    make_cell("elman", H)._replace(recur=lambda params, h: jnp.tanh(h) @ params["w_h"]),
  ),
  "an antisymmetric product": (
    testing.check_recurrent_kernel,
    make_cell("elman", H)._replace(recur=lambda params, h: h @ (params["w_h"] - params["w_h"].T)),
  ),
  "no product": (
    testing.check_recurrent_kernel,
    make_cell("elman", H)._replace(recur=lambda params, h: h),
  ),
  "no kernel": (
    testing.check_recurrent_kernel,
    make_cell("gru", H)._replace(recurrent_kernel=None),
  ),
  "an output of its own": (
    testing.check_output,
    make_cell("lru", H)._replace(output_is_carry=True),
  ),
  "no output of its own": (
    testing.check_output,
    make_cell("elman", H)._replace(output_is_carry=False),
  ),
  "a linear cell": (
    testing.check_linear,
    make_cell("elman", H)._replace(linear=lambda params, drive: (jnp.zeros_like(drive), drive)),
  ),
  "gates of another width": (
    testing.check_gates,
    make_cell("elman", H)._replace(
      gates=lambda params, h, drive, recurrent: {"input": jax.nn.sigmoid(h[..., :1])}
    ),
  ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_wrong_field_fails_its_check(lie):
  check_claim, cell = LIES[lie]
  with pytest.raises(AssertionError, match=r"^cell\."):
    check_claim(testing.Example(cell, D))


@pytest.mark.parametrize("name", REGISTRY)
def test_cells_made_alike_are_equal(name):
  cell = make_cell(name, 4)
  assert cell == make_cell(name, 4)
  assert hash(cell) == hash(make_cell(name, 4))
  assert cell != make_cell(name, 8)


def test_constructors_and_wrappers_return_the_same_cell_for_equal_arguments():
  assert lstm(4, forget_bias=1.0) is lstm(hidden_size=4) is make_cell("lstm", 4)
  assert zoneout(residual(gru(4)), 0.5) is zoneout(residual(gru(4)), rate=0.5)
  assert stack([dilated(gru(4), 2), layer_norm(gru(4))]) is stack(
    (dilated(gru(4), 2), layer_norm(gru(4)))
  )
  assert zoneout(gru(4), 0.5) != zoneout(gru(4), 0.25)


def test_only_cells_made_alike_are_equal():
  def made(gain, **options):
    return make_cell("lstm", 4, recurrent_gain=gain, **options)

  assert made(2.0, forget_bias=1.0) == make_cell("lstm", 4, forget_bias=1.0, recurrent_gain=2.0)
  assert made(2.0) not in (made(3.0), made(jnp.ones(())))
  make_cell("lstm", 1)
  with pytest.raises(TypeError, match="hidden_size must be an integer, got True"):
    make_cell("lstm", True)
  jax.eval_shape(lambda gain: made(gain).init(jax.random.key(0), 2), 2.0)
  made(2.0).init(jax.random.key(0), 2)


def test_prepare_of_a_gru_is_the_identity():
  cell, params, *_ = problem("gru", {})
  assert cell.prepare is unprepared and cell.prepare(params) is params
