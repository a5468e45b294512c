"""With params converted to or from Flax's, our cell and Flax's compute the same function."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn, params_of
from flax import nnx

from rnn_jax import make_cell, step
from rnn_jax.cells import LSTMCarry
from rnn_jax.interop import params_from_linen, params_from_nnx, params_to_linen, params_to_nnx

B, D, H = 2, 3, 5
CLOSE = {"rtol": 1e-10, "atol": 1e-12}

# For each Linen cell: (our cell's name, our cell's options, the Linen cell). In `NNX`, the third
# entry holds options of `params_from_nnx` instead.
LINEN = {
  "SimpleCell": ("elman", {"activation": "relu"}, nn.SimpleCell(H, activation_fn=nn.relu)),
  "GRUCell": ("gru", {"inner_bias": True}, nn.GRUCell(H)),
  "MGUCell": ("gru", {"reset": "none"}, nn.MGUCell(H, reset_gate=False)),
  "OptimizedLSTMCell": ("lstm", {}, nn.OptimizedLSTMCell(H)),
}
NNX = {
  "SimpleCell": ("elman", {}, {}),
  "GRUCell": ("gru", {}, {}),
  "OptimizedLSTMCell": ("lstm", {}, {}),
  "LSTMCell": ("lstm", {}, {"optimized": False}),
}
KINDS = [("elman", {}), ("gru", {}), ("gru", {"inner_bias": True}), ("lstm", {})]


def same_function(theirs, from_theirs, name, options, tree):
  """Asserts that one step has the same new carry and the same gradients in both libraries.

  The gradients are with respect to the params, the carry and x.

  Args:
    theirs: `(tree, carry, x) -> (new carry, y)`, Flax's step.
    from_theirs: converts Flax's params to ours.
    name: our cell's name.
    options: our cell's options.
    tree: a pytree with the shapes of Flax's params.
  """
  cell = make_cell(name, H, **options)
  start = cell.initial_carry((B,))
  tree, start, x = drawn((tree, start, jnp.zeros((B, D))), seed=7)

  def ours(tree, carry, x):
    params = from_theirs(name, tree, **options)
    return step(cell, cell.prepare(params), carry, cell.project(params, x))

  def flax(tree, carry, x):
    if name != "lstm":
      return theirs(tree, carry, x)[0]
    (c, h), y = theirs(tree, (carry.cell, carry.hidden), x)
    return LSTMCarry(h + 0 * y, c)

  def gradients(run, *given):
    def loss(*given):
      carry = run(*given)
      return sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(carry)), carry

    return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*given)

  both = jax.jit(lambda *given: (gradients(ours, *given), gradients(flax, *given)))
  found, expected = both(tree, start, x)
  chex.assert_trees_all_close(found, expected, **CLOSE)


@pytest.mark.parametrize("which", LINEN)
def test_linen_computes_the_same(x64, which):
  name, options, theirs = LINEN[which]
  theirs = theirs.copy(param_dtype=jnp.float64)
  x = jnp.zeros((B, D))
  carry = theirs.initialize_carry(jax.random.key(0), x.shape)
  tree = jax.eval_shape(theirs.init, jax.random.key(0), carry, x)["params"]

  def run(tree, carry, x):
    return theirs.apply({"params": tree}, carry, x)

  same_function(run, params_from_linen, name, options, tree)


@pytest.mark.parametrize("which", NNX)
def test_nnx_computes_the_same(x64, which):
  name, options, layout = NNX[which]
  wide = {"dtype": jnp.float64, "param_dtype": jnp.float64}
  make = lambda: getattr(nnx, which)(D, H, **wide, rngs=nnx.Rngs(0))  # noqa: E731
  graph, state, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)

  def run(tree, carry, x):
    full = jax.tree.map(lambda a: a, state)
    nnx.replace_by_pure_dict(full, tree)
    return nnx.merge(graph, full, rest)(carry, x)

  read = functools.partial(params_from_nnx, **layout)
  same_function(run, read, name, options, nnx.to_pure_dict(state))


@pytest.mark.parametrize(("name", "options"), [*KINDS, ("gru", {"reset": "none"})])
def test_to_linen_and_back_is_the_identity(name, options):
  params = params_of(name, D, H, **options)
  there = params_to_linen(name, params, **options)
  chex.assert_trees_all_equal(params_from_linen(name, there, **options), params)
  theirs = nn.MGUCell(H, reset_gate=False) if "reset" in options else None
  theirs = theirs or {"elman": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}[name](H)
  x = jnp.zeros((B, D))
  carry = theirs.initialize_carry(jax.random.key(0), x.shape)
  shapes = jax.eval_shape(theirs.init, jax.random.key(0), carry, x)["params"]
  chex.assert_trees_all_equal_shapes_and_dtypes(there, shapes)


@pytest.mark.parametrize("which", NNX)
def test_to_nnx_and_back_is_the_identity(which):
  name, options, layout = NNX[which]
  params = params_of(name, D, H, **options)
  there = params_to_nnx(name, params, **layout, **options)
  chex.assert_trees_all_equal(params_from_nnx(name, there, **layout, **options), params)
  theirs = nnx.eval_shape(lambda: getattr(nnx, which)(D, H, rngs=nnx.Rngs(0)))
  shapes = nnx.to_pure_dict(nnx.state(theirs, nnx.Param))
  chex.assert_trees_all_equal_shapes_and_dtypes(there, shapes)


def test_a_bias_that_the_reset_gate_scales_is_not_lost():
  plain, inner = params_of("gru", D, H), params_of("gru", D, H, inner_bias=True)
  assert not np.any(params_to_linen("gru", plain)["hn"]["bias"])
  chex.assert_trees_all_equal(params_from_linen("gru", params_to_linen("gru", plain)), plain)
  with pytest.raises(ValueError, match=r"^hn/bias must be zero .* gru has no bias there without"):
    params_from_linen("gru", params_to_linen("gru", inner))
  with pytest.raises(ValueError, match=r"^b_h must be zero .* nnx.GRUCell has no bias there"):
    params_to_nnx("gru", inner)
  read = params_from_nnx("gru", params_to_nnx("gru", plain), inner_bias=True)
  chex.assert_trees_all_equal(read, {**plain, "b_h": jnp.zeros(H)})


@pytest.mark.parametrize(
  ("convert", "name", "options", "message"),
  [
    (
      params_from_linen,
      "gru",
      {"reset": "before"},
      "^Unknown cell of flax.linen 'gru reset=before'",
    ),
    (params_to_linen, "gru", {"reset": "before"}, "^Unknown cell of flax.linen 'gru reset=before'"),
    (params_to_nnx, "gru", {"reset": "none"}, "^Unknown cell of flax.nnx 'gru reset=none'"),
    (params_to_nnx, "gru", {"optimized": False}, "^Unknown cell of flax.nnx.* Choose one of: lstm"),
    (params_to_linen, "gur", {}, "^Unknown cell 'gur'; did you mean 'gru'"),
    (params_to_linen, "lstm", {"forget_bais": 1}, "did you mean 'forget_bias'"),
    (params_to_linen, "lstm", {}, r"^w_h must be \[H, 4·H\] = \[5, 20\], got \[5, 5\]"),
    (params_from_linen, "lstm", {}, "^Unknown entry 'b'"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_cell_that_flax_lacks_is_refused(convert, name, options, message):
  with pytest.raises(ValueError, match=message) as error:
    convert(name, params_of("elman", D, H), **options)
  assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked_types")
def test_trees_that_do_not_fit_are_named():
  good = params_to_linen("lstm", params_of("lstm", D, H))
  missing = {k: v for k, v in good.items() if k != "hf"}
  wrong = {**good, "hf": {**good["hf"], "kernel": jnp.ones((H, H + 1))}}
  for tree, message in (
    (missing, r"^Missing entry 'hf/kernel' \(expected ii/kernel"),
    ({"hff": {"kernel": 1}, **good}, "^Unknown entry 'hff/kernel'; did you mean 'hf/kernel'"),
    (wrong, r"^hf/kernel must be \[H, H\] = \[5, 5\], got \[5, 6\]"),
    ({"params": good}, "^Unknown entry 'params/"),
    ([], r"^params must be a Mapping, got \[\]"),
  ):
    with pytest.raises((TypeError, ValueError), match=message):
      params_from_linen("lstm", tree)
