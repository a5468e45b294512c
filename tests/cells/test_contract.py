"""Every cell in CELLS, and every wrapped one in WRAPPED, satisfies the contract of `Cell`."""

from __future__ import annotations

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_kinds import KINDS
from jax.test_util import check_grads

from rnn_jax import CELLS, make_cell, step, unroll
from rnn_jax.cells import LSTMCarry, cell_options, layer_norm, lstm, residual, zoneout
from rnn_jax.types import floats_of, with_floats

# D is above 2: layer normalization of two entries retains only the sign of their difference.
T, B, D, H = 5, 3, 3, 4

WRAPPED = {
  "wrapped lstm": lambda: residual(layer_norm(zoneout(lstm(D), LSTMCarry(0.05, 0.5)))),
}

VARIANTS = [
  *((name, {}) for name in CELLS),
  ("elman", {"activation": "relu"}),
  ("antisymmetric", {"gated": True}),
  ("elman", {"activation": "linear", "recurrent_kernel": "gaussian"}),
  ("gru", {"reset": "before"}),
  ("gru", {"reset": "none"}),
  ("gru", {"inner_bias": True}),
  ("gru", {"recurrent_kernel": "identity", "recurrent_gain": 0.5}),
  ("lstm", {"recurrent_kernel": "gaussian", "forget_bias": -2.0}),
  ("lstm", {"forget_gate": False}),
  ("mgu", {"reset": "before"}),
  ("slstm", {"num_heads": 2}),
  *((name, {}) for name in WRAPPED),
]


def has(name, option):
  return option in cell_options(name)


every_cell = pytest.mark.parametrize("name", CELLS)
every_variant = pytest.mark.parametrize(
  ("name", "options"), VARIANTS, ids=[" ".join(map(str, (n, *o.values()))) for n, o in VARIANTS]
)


def make(name, options):
  return WRAPPED[name]() if name in WRAPPED else make_cell(name, H, **options)


def randomize(shapes, seed):
  # Biases and initial carries are zero, which would hide every term that they multiply.
  random = np.random.default_rng(seed)

  def leaf(a):
    values = 0.5 * random.standard_normal((2, *a.shape))
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
      return jnp.asarray(values[0] + 1j * values[1], a.dtype)
    return jnp.asarray(values[0], a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a

  return jax.tree.map(leaf, shapes)


def problem(name, options, batch_shape=(B,), dtype=float):
  cell = make(name, options)
  params = randomize(jax.eval_shape(lambda: cell.init(jax.random.key(0), D, dtype)), 1)
  carry = randomize(cell.initial_carry(batch_shape, dtype), 2)
  xs = randomize(jnp.zeros((T, *batch_shape, D), dtype), 3)
  return cell, params, carry, xs


@every_variant
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_step_keeps_structure_shape_and_dtype_of_the_carry(x64, name, options, dtype):
  # With x64 enabled, a float32 cell that creates an array of default dtype is promoted.
  cell, params, carry, xs = problem(name, options, dtype=dtype)

  def moved(params, carry, x):
    params = cell.prepare(params)
    drive = cell.project(params, x)
    new = step(cell, params, carry, drive)
    return new, cell.output(params, new, drive)

  new, y = jax.eval_shape(moved, params, carry, xs[0])
  chex.assert_trees_all_equal_shapes_and_dtypes(new, carry)
  assert y.dtype == dtype


@every_variant
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_init_has_the_requested_dtype(x64, name, options, dtype):
  cell = make(name, options)
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, dtype))
  carry = cell.initial_carry((B,), dtype)
  floats = jax.tree.leaves((params, floats_of(carry)))
  assert {np.zeros((), leaf.dtype).real.dtype for leaf in floats} == {jnp.dtype(dtype)}


@every_variant
def test_initial_carry_is_zero(name, options):
  carry = make(name, options).initial_carry((2, B))
  for leaf in jax.tree.leaves(carry):
    assert leaf.shape[:2] == (2, B)
    assert not leaf.any()


@every_cell
def test_init_depends_on_the_key_alone(name):
  cell = make_cell(name, H)
  init = jax.jit(lambda key: cell.init(key, D))
  params, same, other = (init(jax.random.key(k)) for k in (0, 0, 1))
  chex.assert_trees_all_equal(params, same)
  assert not np.array_equal(params["w_x"], other["w_x"])


@pytest.mark.parametrize("name", ["elman", "gru", "lstm"])
def test_plain_params_are_two_fused_kernels_and_a_bias(name):
  params = jax.eval_shape(lambda: make_cell(name, H).init(jax.random.key(0), D))
  width = params["b"].shape[0]
  assert width % H == 0
  chex.assert_shape([params["w_x"], params["w_h"]], [(D, width), (H, width)])


@every_variant
def test_unroll_equals_a_python_loop_over_step(name, options):
  cell, params, carry, xs = problem(name, options)

  @jax.jit
  def by_hand(params, xs, carry):
    params, ys = cell.prepare(params), []
    for x in xs:
      drive = cell.project(params, x)
      carry = step(cell, params, carry, drive)
      ys.append(cell.output(params, carry, drive))
    return carry, jnp.stack(ys)

  given = params, xs, carry
  run = jax.jit(functools.partial(unroll, cell))
  chex.assert_trees_all_close(run(*given), by_hand(*given), rtol=1e-5, atol=1e-6)
  chex.assert_tree_all_finite(run(*given))


@every_variant
def test_leading_axes_equal_a_vmap(name, options):
  cell, params, carry, xs = problem(name, options, batch_shape=(2, B))

  params = cell.prepare(params)

  def one(carry, x):
    drive = cell.project(params, x)
    carry = step(cell, params, carry, drive)
    return carry, cell.output(params, carry, drive)

  together = jax.jit(one)(carry, xs[0])
  apart = jax.jit(jax.vmap(jax.vmap(one)))(carry, xs[0])
  chex.assert_trees_all_close(together, apart, rtol=1e-5, atol=1e-6)


@every_variant
def test_project_accepts_all_time_steps_at_once(name, options):
  cell, params, _, xs = problem(name, options)

  @jax.jit
  def both(params, xs):
    params = cell.prepare(params)
    apart = jax.tree.map(lambda *steps: jnp.stack(steps), *[cell.project(params, x) for x in xs])
    return cell.project(params, xs), apart

  chex.assert_trees_all_close(*both(params, xs), rtol=1e-5, atol=1e-6)


@every_variant
def test_jit_equals_eager(name, options):
  cell, params, carry, xs = problem(name, options)
  run, params = functools.partial(step, cell), cell.prepare(params)
  drive = cell.project(params, xs[0])
  eager, jitted = run(params, carry, drive), jax.jit(run)(params, carry, drive)
  chex.assert_trees_all_close(eager, jitted, rtol=1e-5, atol=1e-6)


@every_variant
def test_step_derivatives_match_finite_differences(x64, name, options):
  cell, params, carry, xs = problem(name, options)

  @jax.jit
  def moved(params, floats, x):
    params = cell.prepare(params)
    drive = cell.project(params, x)
    new = step(cell, params, with_floats(floats, carry), drive)
    return floats_of(new), cell.output(params, new, drive)

  check_grads(moved, (params, floats_of(carry), xs[0]), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("name", [*KINDS, "clockwork"])
def test_unroll_derivatives_match_finite_differences(x64, name):
  cell, params, carry, xs = problem(name, {})

  @functools.partial(jax.jit, static_argnames="forward_mode")
  def run(params, xs, floats, forward_mode=False):
    final, ys = unroll(cell, params, xs, with_floats(floats, carry), forward_mode=forward_mode)
    return floats_of(final), ys

  given = params, xs, floats_of(carry)
  # Differences this small hardly ever move a unit across the kink of its activation.
  check = functools.partial(check_grads, args=given, order=1, eps=1e-6)
  check(run, modes=("rev",))
  check(functools.partial(run, forward_mode=True), modes=("fwd", "rev"))


@every_variant
def test_recur_is_linear_in_the_params(name, options):
  # So the loop may hold them constant and compute their gradient after the reverse sweep.
  cell, params, carry, _ = problem(name, options)
  params = cell.prepare(params)
  other = randomize(params, 7)

  @jax.jit
  def both(params, other):
    of_params, of_other = cell.recur(params, carry), cell.recur(other, carry)
    combined = jax.tree.map(lambda a, b: 2 * a - b, params, other)
    return cell.recur(combined, carry), jax.tree.map(lambda a, b: 2 * a - b, of_params, of_other)

  chex.assert_trees_all_close(*both(params, other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("name", "dtype"), [*((n, jnp.int32) for n in CELLS), *((n, jnp.uint8) for n in KINDS)]
)
def test_tokens_equal_their_one_hot_vectors(name, dtype):
  cell = make_cell(name, H)
  params = randomize(jax.eval_shape(lambda: cell.init(jax.random.key(0), 5)), 1)
  tokens = jnp.asarray(np.random.default_rng(2).integers(0, 5, (T, B)), dtype)
  weights = randomize(jnp.zeros((T, B, H)), 3)

  @jax.jit
  @jax.value_and_grad
  def loss(params, xs):
    return jnp.sum(weights * unroll(cell, params, xs)[1])

  one_hot = jax.nn.one_hot(tokens, 5)
  chex.assert_trees_all_close(loss(params, tokens), loss(params, one_hot), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("name", "option", "value"),
  [
    *((name, "recurrent_kernel", "identity") for name in CELLS if has(name, "recurrent_kernel")),
    *((name, "recurrent_gain", 3.0) for name in CELLS if has(name, "recurrent_gain")),
    ("lstm", "forget_bias", 5.0),
  ],
)
def test_init_options_affect_only_init(name, option, value):
  cell, params, carry, xs = problem(name, {})
  other = make_cell(name, H, **{option: value})

  def moved(cell):
    prepared = cell.prepare(params)
    return step(cell, prepared, carry, cell.project(prepared, xs[0]))

  chex.assert_trees_all_equal(moved(other), moved(cell))


@pytest.mark.parametrize(
  ("name", "option"),
  [(n, option) for n in CELLS for option in ("recurrent_gain", "forget_bias") if has(n, option)],
)
def test_options_with_flags_of_their_own_may_be_traced(name, option):
  others = {"recurrent_kernel": "identity"} if has(name, "recurrent_kernel") else {}

  @jax.jit
  def params(value):
    return make_cell(name, H, **{option: value}, **others).init(jax.random.key(0), D)

  # The flag's default replaces the constructor's.
  assert inspect.signature(CELLS[name]).parameters[option].default == 1
  leaves = map(jax.tree.leaves, (params(1.0), params(2.0)))
  assert any(not np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_forget_bias_is_a_param_and_all_other_biases_are_zero(value):
  cell = make_cell("lstm", H, forget_bias=value)
  b = jax.jit(lambda key: cell.init(key, D)["b"])(jax.random.key(0))
  np.testing.assert_array_equal(b, np.repeat([0, value, 0, 0], H))


@every_cell
@pytest.mark.parametrize("sizes", [(1, 1), (1, 3), (4, 1)])
def test_a_hidden_size_of_one_works(name, sizes):
  input_size, hidden_size = sizes
  cell = make_cell(name, hidden_size)
  xs = jnp.ones((T, B, input_size))
  _, ys = jax.eval_shape(
    lambda key: unroll(cell, cell.init(key, input_size), xs), jax.random.key(0)
  )
  chex.assert_shape(ys, (T, B, hidden_size))
