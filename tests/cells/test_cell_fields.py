"""The descriptive fields of every cell agree with its functions.

These fields are `gates`, `linear`, `recurrent_kernel` and `output_is_carry`. They are checked for
each registered cell, its variants, and the wrappers. The checks of `recurrent_kernel` and
`output_is_carry` also fail if the field is unset although it applies.
"""

from __future__ import annotations

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_contract import VARIANTS, B, D, H, make, problem, randomize

from rnn_jax import make_cell, step
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
NAMES = [" ".join(map(str, (name, *options.values()))) for name, options in VARIANTS]
CELLS = {name: lambda v=v: make(*v) for name, v in zip(NAMES, VARIANTS, strict=True)} | WRAPPERS


class Case:
  """A cell together with random arguments of one step: params, carry, drive, recurrent product.

  `given` are params in the form that `init` returns; `params` is the result of `prepare(given)`.
  """

  def __init__(self, cell):
    self.cell = cell
    self.given = randomize(jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 1)
    self.params = cell.prepare(self.given)
    self.carry = randomize(cell.initial_carry((B,)), 2)
    self.drive = cell.project(self.params, randomize(jnp.zeros((B, D)), 3))
    self.recurrent = cell.recur(self.params, self.carry)


def check_gates(case):
  cell = case.cell
  if cell.gates is None:
    return
  gates = cell.gates(case.params, case.carry, case.drive, case.recurrent)
  width = jax.tree.leaves(case.carry)[0].shape[-1]
  assert gates and all(isinstance(name, str) for name in gates)
  for values in gates.values():
    assert values.shape == (B, width)
    assert np.all((values > 0) & (values < 1))


def check_linear(case):
  cell = case.cell
  if cell.linear is None:
    return
  a, b = cell.linear(case.params, case.drive)
  new = step(cell, case.params, case.carry, case.drive)
  # The batch axes of a may have size 1.
  whole = jax.tree.map(lambda a, h: jnp.broadcast_to(a, h.shape), a, case.carry)
  chex.assert_trees_all_equal_shapes_and_dtypes(whole, b, case.carry)
  expected = jax.tree.map(lambda a, h, b: a * h + b, a, case.carry, b)
  chex.assert_trees_all_close(new, expected, rtol=1e-6, atol=1e-7)


def is_recurrent_kernel(case, name):
  """Returns whether the param `name` is the cell's plain recurrent kernel W_h.

  `recur` must be h W_h (+ b), with h the first leaf of the carry, and no other function of the cell
  may read W_h.
  """
  cell, params = case.cell, case.params
  w_h, h = case.given[name], jax.tree.leaves(case.carry)[0]
  if name not in params or not np.array_equal(params[name], w_h):
    return False
  if w_h.ndim != 2 or h.shape[-1] != w_h.shape[0]:
    return False
  zeros = jax.tree.map(jnp.zeros_like, case.carry)
  recurrent, offset = (cell.recur(params, carry) for carry in (case.carry, zeros))
  if jnp.shape(recurrent) != (B, w_h.shape[1]):
    return False
  if not np.allclose(recurrent - offset, h @ w_h, rtol=1e-5, atol=1e-5):
    return False
  unread = {**case.given, name: jnp.full_like(w_h, jnp.nan)}
  unread = cell.prepare(unread)
  x = randomize(jnp.zeros((B, D)), 3)
  drive = cell.project(unread, x)
  new = cell.update(unread, case.carry, drive, case.recurrent)
  read = (drive, new, cell.output(unread, new, drive))
  return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(read))


def check_recurrent_kernel(case):
  arrays = case.given if isinstance(case.given, Mapping) else {}
  arrays = [name for name, leaf in arrays.items() if isinstance(leaf, jax.Array)]
  found = [name for name in arrays if is_recurrent_kernel(case, name)]
  claimed = case.cell.recurrent_kernel
  assert found == ([] if claimed is None else [claimed])


def check_output_is_carry(case):
  y = case.cell.output(case.params, case.carry, case.drive)
  same = jax.tree.structure(y) == jax.tree.structure(case.carry)
  leaves = zip(jax.tree.leaves(y), jax.tree.leaves(case.carry), strict=False)
  same = same and all(np.array_equal(a, b) for a, b in leaves)
  assert case.cell.output_is_carry == same


def check(cell):
  case = Case(cell)
  check_gates(case)
  check_linear(case)
  check_recurrent_kernel(case)
  check_output_is_carry(case)


@pytest.mark.parametrize("name", CELLS)
def test_fields_agree_with_the_cell(name):
  check(CELLS[name]())


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
    check_recurrent_kernel,
    make_cell("elman", H)._replace(recurrent_kernel="w_x"),
  ),
  "a kernel that update reads too": (
    check_recurrent_kernel,
    make_cell("elman", H)._replace(
      update=lambda params, h, drive, recurrent: jnp.tanh(drive + recurrent + h @ params["w_h"])
    ),
  ),
  "a kernel that prepare changes": (
    check_recurrent_kernel,
    make_cell("clockwork", H)._replace(recurrent_kernel="w_h"),
  ),
  "half of a kernel": (
    check_recurrent_kernel,
    make_cell("gru", H, reset="before")._replace(recurrent_kernel="w_h"),
  ),
  "a product of something else": (
    check_recurrent_kernel,
    make_cell("elman", H)._replace(recur=lambda params, h: jnp.tanh(h) @ params["w_h"]),
  ),
  "an antisymmetric product": (
    check_recurrent_kernel,
    make_cell("elman", H)._replace(recur=lambda params, h: h @ (params["w_h"] - params["w_h"].T)),
  ),
  "no product": (
    check_recurrent_kernel,
    make_cell("elman", H)._replace(recur=lambda params, h: h),
  ),
  "no kernel": (check_recurrent_kernel, make_cell("gru", H)._replace(recurrent_kernel=None)),
  "an output of its own": (
    check_output_is_carry,
    make_cell("lru", H)._replace(output_is_carry=True),
  ),
  "no output of its own": (
    check_output_is_carry,
    make_cell("elman", H)._replace(output_is_carry=False),
  ),
  "a linear cell": (
    check_linear,
    make_cell("elman", H)._replace(linear=lambda params, drive: (jnp.zeros_like(drive), drive)),
  ),
  "gates of another width": (
    check_gates,
    make_cell("elman", H)._replace(
      gates=lambda params, h, drive, recurrent: {"input": jax.nn.sigmoid(h[..., :1])}
    ),
  ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_wrong_field_fails_its_check(lie):
  check_claim, cell = LIES[lie]
  with pytest.raises(AssertionError):
    check_claim(Case(cell))


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
