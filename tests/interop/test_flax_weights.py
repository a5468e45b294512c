"""Params of the cells of Flax, against those cells."""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn, params_of
from flax import nnx

from rnn_jax import make_cell, unroll
from rnn_jax.interop import from_linen, from_nnx, to_linen, to_nnx

T, B, D, H = 4, 2, 3, 5
CLOSE = {"rtol": 1e-10, "atol": 1e-12}

# Cell, options, and Flax's cell for it.
LINEN = {
  "SimpleCell": ("elman", {}, nn.SimpleCell(H)),
  "SimpleCell relu": ("elman", {"activation": "relu"}, nn.SimpleCell(H, activation_fn=nn.relu)),
  "GRUCell": ("gru", {"inner_bias": True}, nn.GRUCell(H)),
  "MGUCell": ("gru", {"reset": "none"}, nn.MGUCell(H, reset_gate=False)),
  "LSTMCell": ("lstm", {}, nn.LSTMCell(H)),
  "OptimizedLSTMCell": ("lstm", {}, nn.OptimizedLSTMCell(H)),
}
NNX = {
  "SimpleCell": ("elman", {}, {}),
  "GRUCell": ("gru", {}, {}),
  "OptimizedLSTMCell": ("lstm", {}, {}),
  "LSTMCell": ("lstm", {}, {"optimized": False}),
}
KINDS = [("elman", {}), ("gru", {}), ("gru", {"inner_bias": True}), ("lstm", {})]


def same_function(theirs, ours, tree):
  """Outputs, and gradients with respect to their params and xs, are the same."""
  tree, xs = drawn((tree, jnp.zeros((T, B, D))), seed=7)

  def gradients(run):
    def loss(tree, xs):
      ys = run(tree, xs)
      return jnp.sum(jnp.cos(ys)), ys

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(tree, xs)

  found, expected = gradients(ours), gradients(theirs)
  assert jnp.any(expected[1] != 0)
  chex.assert_trees_all_close(found, expected, **CLOSE)


@pytest.mark.parametrize("which", LINEN)
def test_linen_computes_the_same(x64, which):
  name, options, theirs = LINEN[which]
  rnn = nn.RNN(theirs.copy(param_dtype=jnp.float64), time_major=True)
  shapes = jax.eval_shape(rnn.init, jax.random.key(0), jnp.zeros((T, B, D)))

  def ours(variables, xs):
    params = from_linen(name, variables["params"]["cell"], **options)
    return unroll(make_cell(name, H, **options), params, xs)[1]

  same_function(rnn.apply, ours, shapes)


@pytest.mark.parametrize("which", NNX)
def test_nnx_computes_the_same(x64, which):
  name, options, layout = NNX[which]
  wide = {"dtype": jnp.float64, "param_dtype": jnp.float64}
  theirs = getattr(nnx, which)(D, H, **wide, rngs=nnx.Rngs(0))
  graph, state, rest = nnx.split(nnx.RNN(theirs, time_major=True), nnx.Param, ...)

  def run(tree, xs):
    full = jax.tree.map(lambda a: a, state)
    nnx.replace_by_pure_dict(full, tree)
    zeros = jnp.zeros((B, H))
    start = (zeros, zeros) if name == "lstm" else zeros
    return nnx.merge(graph, full, rest)(xs, initial_carry=start)

  def ours(tree, xs):
    params = from_nnx(name, tree["cell"], **layout, **options)
    return unroll(make_cell(name, H, **options), params, xs)[1]

  same_function(run, ours, nnx.to_pure_dict(state))


@pytest.mark.parametrize(("name", "options"), [*KINDS, ("gru", {"reset": "none"})])
def test_to_linen_and_back_is_the_identity(name, options):
  params = params_of(name, D, H, **options)
  there = to_linen(name, params, **options)
  chex.assert_trees_all_equal(from_linen(name, there, **options), params)
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
  there = to_nnx(name, params, **layout, **options)
  chex.assert_trees_all_equal(from_nnx(name, there, **layout, **options), params)
  theirs = nnx.eval_shape(lambda: getattr(nnx, which)(D, H, rngs=nnx.Rngs(0)))
  shapes = nnx.to_pure_dict(nnx.state(theirs, nnx.Param))
  chex.assert_trees_all_equal_shapes_and_dtypes(there, shapes)


def test_a_bias_inside_of_the_reset_is_not_lost():
  plain, inner = params_of("gru", D, H), params_of("gru", D, H, inner_bias=True)
  assert not np.any(to_linen("gru", plain)["hn"]["bias"])
  chex.assert_trees_all_equal(from_linen("gru", to_linen("gru", plain)), plain)
  with pytest.raises(ValueError, match=r"^hn/bias must be zero .* gru has no bias there without"):
    from_linen("gru", to_linen("gru", inner))
  with pytest.raises(ValueError, match=r"^b_h must be zero .* nnx.GRUCell has no bias there"):
    to_nnx("gru", inner)
  read = from_nnx("gru", to_nnx("gru", plain), inner_bias=True)
  chex.assert_trees_all_equal(read, {**plain, "b_h": jnp.zeros(H)})


@pytest.mark.parametrize(
  ("convert", "name", "options", "message"),
  [
    (from_linen, "gru", {"reset": "before"}, "^Unknown cell of flax.linen 'gru reset=before'"),
    (to_linen, "gru", {"reset": "before"}, "^Unknown cell of flax.linen 'gru reset=before'"),
    (to_nnx, "gru", {"reset": "none"}, "^Unknown cell of flax.nnx 'gru reset=none'"),
    (to_nnx, "gru", {"optimized": False}, "^Unknown cell of flax.nnx.* Choose one of: lstm"),
    (to_linen, "gur", {}, "^Unknown cell 'gur'; did you mean 'gru'"),
    (to_linen, "lstm", {"forget_bais": 1}, "did you mean 'forget_bias'"),
    (to_linen, "lstm", {}, r"^w_x must be \[D, 4·H\] = \[3, 20\], got \[3, 5\]"),
    (from_linen, "lstm", {}, "^Unknown entry 'w_x'"),
  ],
)
def test_a_cell_that_flax_does_not_have_is_refused(convert, name, options, message):
  with pytest.raises(ValueError, match=message) as error:
    convert(name, params_of("elman", D, H), **options)
  assert "\n" not in str(error.value)


def test_trees_that_do_not_fit_are_named():
  good = to_linen("lstm", params_of("lstm", D, H))
  missing = {k: v for k, v in good.items() if k != "hf"}
  wrong = {**good, "hf": {**good["hf"], "kernel": jnp.ones((H, H + 1))}}
  for tree, message in (
    (missing, "^The entry hf/kernel must be there with ii/kernel"),
    ({"hff": {"kernel": 1}, **good}, "^Unknown entry 'hff/kernel'; did you mean 'hf/kernel'"),
    (wrong, r"^hf/kernel must be \[H, H\] = \[5, 5\], got \[5, 6\]"),
    ({"params": good}, "^Unknown entry 'params/"),
    ([], "^params must be a dict of dicts of arrays, got list"),
  ):
    with pytest.raises((TypeError, ValueError), match=message):
      from_linen("lstm", tree)
