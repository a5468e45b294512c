"""Every cell in CELLS, and every wrapped cell in WRAPPED, satisfies the contract of `Cell`.

`rnn_jax.testing.check_cell` states the contract. Further tests state what only the registered cells
must satisfy.
"""

from __future__ import annotations

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_kinds import KINDS

from rnn_jax import CELLS, make_cell, step, testing, unroll
from rnn_jax.cells import LSTMCarry, cell_options, layer_norm, lstm, residual, zoneout
from rnn_jax.types import floats_of, with_floats

# D is above 2, because layer normalization of two entries retains only the sign of their
# difference.
T, B, D, H = 5, 3, 3, 4

WRAPPED = {
  "wrapped lstm": lambda: residual(layer_norm(zoneout(lstm(D), LSTMCarry(0.05, 0.5)))),
}

# Cells and options under test. `elman` with activation="relu" is left out, because `irnn` runs the
# same step.
VARIANTS = [
  *((name, {}) for name in CELLS),
  ("antisymmetric", {"gated": True}),
  ("cfc", {"mode": "pure"}),
  ("elman", {"activation": "linear", "recurrent_kernel": "gaussian"}),
  ("gru", {"reset": "before"}),
  ("gru", {"reset": "none"}),
  ("gru", {"inner_bias": True}),
  ("gru", {"recurrent_kernel": "identity", "recurrent_gain": 0.5}),
  ("leaky", {"excitatory": 0.5}),
  ("lstm", {"recurrent_kernel": "gaussian", "forget_bias": -2.0}),
  ("lstm", {"forget_gate": False}),
  ("mgu", {"reset": "before"}),
  ("slstm", {"num_heads": 2}),
  ("sru", {"peepholes": False}),
  ("qrnn", {"window": 1}),
  ("qrnn", {"pooling": "f"}),
  *((name, {}) for name in WRAPPED),
]


def has(name, option):
  return option in cell_options(name)


every_cell = pytest.mark.parametrize("name", CELLS)
every_variant = pytest.mark.parametrize(
  ("name", "options"), VARIANTS, ids=[" ".join(map(str, (n, *o.values()))) for n, o in VARIANTS]
)

# Options that affect only `init`, as `test_init_options_affect_only_init` checks. Tests of a step
# skip variants that differ from the default cell only in these options.
OF_INIT = {"recurrent_kernel", "recurrent_gain", "forget_bias"}
every_step = pytest.mark.parametrize(
  ("name", "options"),
  [(n, o) for n, o in VARIANTS if not o or set(o) - OF_INIT],
  ids=lambda v: v if isinstance(v, str) else " ".join(map(str, v.values())),
)


def make(name, options):
  return WRAPPED[name]() if name in WRAPPED else make_cell(name, H, **options)


def randomize(shapes, seed):
  # Use random values even for biases and carries, because their initial values are zero, which
  # would hide errors in the terms that contain them.
  random = np.random.default_rng(seed)

  def leaf(a):
    values = 0.5 * random.standard_normal((2, *a.shape))
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
      return jnp.asarray(values[0] + 1j * values[1], a.dtype)
    return jnp.asarray(values[0], a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a

  return jax.tree.map(leaf, shapes)


@functools.cache
def param_shapes(name, options, dtype):
  return jax.eval_shape(lambda: make(name, dict(options)).init(jax.random.key(0), D, dtype))


def problem(name, options, batch_shape=(B,), dtype=float):
  cell = make(name, options)
  params = randomize(
    param_shapes(name, tuple(options.items()), jax.dtypes.canonicalize_dtype(dtype)), 1
  )
  carry = randomize(cell.initial_carry(batch_shape, dtype), 2)
  xs = randomize(jnp.zeros((T, *batch_shape, D), dtype), 3)
  return cell, params, carry, xs


@every_step
def test_a_cell_keeps_the_contract(name, options):
  result = testing.check_cell(make(name, options), D)
  skipped = {check for check, text in result.items() if text != "passed"}
  # These depend on the cell; `test_gated_and_linear_cells_are_as_listed` lists the cells.
  skipped -= {"gates", "linear", "recurrent_kernel"}
  assert skipped == ({"tokens"} if name in WRAPPED else set())


@pytest.mark.parametrize(
  ("name", "options"),
  [(n, o) for n, o in VARIANTS if o and not set(o) - OF_INIT],
  ids=lambda v: v if isinstance(v, str) else " ".join(map(str, v.values())),
)
def test_an_option_of_init_keeps_the_contract_of_init(name, options):
  example = testing.Example(make(name, options), D)
  testing.check_init(example)
  testing.check_bfloat16(example)


@every_cell
def test_init_draws_from_its_key_and_rounds_half_precision_from_float32(name):
  cell, key = make(name, {}), jax.random.key(0)
  params, half = cell.init(key, D), cell.init(key, input_size=D, dtype="bfloat16")
  rounded = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
  chex.assert_trees_all_equal_shapes_and_dtypes(half, rounded)
  chex.assert_trees_all_close(*jax.tree.map(lambda a: a.astype(float), (half, rounded)))
  assert not np.array_equal(params["w_x"], cell.init(jax.random.key(1), D)["w_x"])


@functools.cache
def compiled_init(name):
  """Returns a jitted `init`, `(key, values) -> params`; `values` are traced options of the cell."""
  # Use identity kernels, because the QR decomposition of orthogonal ones takes long to compile.
  others = {"recurrent_kernel": "identity"} if has(name, "recurrent_kernel") else {}
  return jax.jit(lambda key, values: make_cell(name, H, **values, **others).init(key, D))


def traced_options(name):
  return {option: 1.0 for option in ("recurrent_gain", "forget_bias") if has(name, option)}


@pytest.mark.parametrize("name", ["elman", "gru", "lstm"])
def test_params_of_plain_cells_are_two_fused_kernels_and_a_bias(name):
  params = jax.eval_shape(lambda: make_cell(name, H).init(jax.random.key(0), D))
  width = params["b"].shape[0]
  assert width % H == 0
  chex.assert_shape([params["w_x"], params["w_h"]], [(D, width), (H, width)])


def check_derivatives(forward, backward, given):
  """Checks two implementations' derivatives in one random direction.

  The jvp of `forward` must match finite differences, and the vjps of `forward` and `backward` must
  match this jvp. `jax.test_util.check_grads` does the same, but not in one jitted function. The
  finite differences use a step of 1e-6, so small that it hardly ever moves a pre-activation across
  the kink of the relu.

  Args:
    forward: the function in the form that supports forward mode.
    backward: the same function in the form used for reverse mode; may be `forward` itself.
    given: the arguments of both functions, as a tuple.
  """
  direction = randomize(given, 11)
  epsilon = 1e-6

  def inner(a, b):
    # Products are not conjugated, because JAX's vjp is the transpose, not its conjugate.
    return sum(jnp.sum(x * y).real for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

  @jax.jit
  def check(given, direction):
    def at(scale):
      return forward(*jax.tree.map(lambda a, v: a + scale * epsilon * v, given, direction))

    value, tangent = jax.jvp(forward, given, direction)
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * epsilon), at(1), at(-1))
    cotangent = randomize(value, 12)
    functions = (forward,) if backward is forward else (forward, backward)
    products = [inner(jax.vjp(f, *given)[1](cotangent), direction) for f in functions]
    return tangent, difference, products, inner(cotangent, tangent)

  tangent, difference, products, product = check(given, direction)
  chex.assert_trees_all_close(tangent, difference, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(products, [product] * len(products), rtol=1e-9)


@pytest.mark.parametrize("name", [*KINDS, "clockwork"])
def test_unroll_derivatives_match_finite_differences(x64, name):
  cell, params, carry, xs = problem(name, {})

  def run(params, xs, floats, forward_mode=False):
    final, ys = unroll(cell, params, xs, with_floats(floats, carry), forward_mode=forward_mode)
    return floats_of(final), ys

  forward = functools.partial(run, forward_mode=True)
  check_derivatives(forward, run, (params, xs, floats_of(carry)))


@pytest.mark.parametrize("name", KINDS)
def test_eager_gradients_of_a_step_are_those_under_jit(x64, name):
  # `check_cell` compares eager values only, because every operation of an eager gradient has to be
  # compiled.
  cell, params, carry, xs = problem(name, {})

  def gradients(*given):
    def run(params, carry, x):
      prepared = cell.prepare(params)
      drive = cell.project(prepared, x)
      new = step(cell, prepared, carry, drive)
      return new, cell.output(prepared, new, drive)

    value, vjp = jax.vjp(run, *given)
    return vjp(randomize(value, 12))

  given = params, carry, xs[0]
  chex.assert_trees_all_close(gradients(*given), jax.jit(gradients)(*given), rtol=1e-11)


TOKENS = np.random.default_rng(2).integers(0, 5, (T, B))
TOKENS[1, :2] = 5, -1  # outside the vocabulary: one-hot vectors of zeros, and 255 if unsigned
ONE_HOT = (TOKENS[..., None] == np.arange(5)).astype(np.float32)


@every_cell
def test_tokens_equal_their_one_hot_vectors(name):
  # It is enough to test `project`, the only function of a cell that reads tokens.
  cell = make_cell(name, H)
  shapes = jax.eval_shape(lambda: cell.prepare(cell.init(jax.random.key(0), 5)))

  @jax.jit
  def drives(params, inputs):
    pairs = [
      jax.vjp(lambda params, xs=xs: floats_of(cell.project(params, xs)), params) for xs in inputs
    ]
    weights = randomize(pairs[0][0], 3)
    return [(drive, vjp(weights)) for drive, vjp in pairs]

  inputs = (TOKENS.astype(np.int32), TOKENS.astype(np.uint8), ONE_HOT)
  *of_tokens, of_one_hot = drives(randomize(shapes, 1), inputs)
  for one in of_tokens:
    chex.assert_trees_all_close(one, of_one_hot, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("name", "dtype"),
  [("elman", np.uint8), ("gru", np.int32), ("lstm", np.uint8), ("lru", np.int32)],
)
def test_the_loop_over_tokens_equals_that_over_one_hot_vectors(name, dtype):
  cell = make_cell(name, H)
  params = randomize(jax.eval_shape(lambda: cell.init(jax.random.key(0), 5)), 1)
  weights = randomize(np.zeros((T, B, H), np.float32), 3)

  @jax.jit
  @jax.value_and_grad
  def loss(params, xs):
    return jnp.sum(weights * unroll(cell, params, xs)[1])

  chex.assert_trees_all_close(
    loss(params, TOKENS.astype(dtype)), loss(params, ONE_HOT), rtol=1e-5, atol=1e-5
  )


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
def test_recurrent_gain_and_forget_bias_may_be_traced(name, option):
  init, values = functools.partial(compiled_init(name), jax.random.key(0)), traced_options(name)
  # A sweep always passes the value of its flag with the option's name, so the constructor's default
  # must equal the flag's default, which is 1.
  assert inspect.signature(CELLS[name]).parameters[option].default == 1
  leaves = map(jax.tree.leaves, (init(values), init({**values, option: 2.0})))
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
