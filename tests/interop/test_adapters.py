"""With the adapters, our cells give the same results in Flax's loops as in `unroll`."""

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
from rnn_jax.cells import LSTMCarry, gru, layer_norm, lstm, stack, zoneout
from rnn_jax.interop import LinenCell, NNXCell

T, B, D, H = 3, 2, 3, 4
EXACT = {"rtol": 1e-12, "atol": 1e-13}


def sequences():
  return drawn(jnp.zeros((T, B, D)), seed=2)


def in_linen(cell, params, xs, **options):
  rnn = nn.RNN(LinenCell(cell), time_major=True, **options)
  return rnn.apply({"params": {"cell": {"cell": params}}}, xs)


def nnx_rnn(cell, params):
  rnn = nnx.RNN(NNXCell(cell, D, rngs=nnx.Rngs(0)), time_major=True)
  state = nnx.state(rnn.cell, nnx.Param)
  nnx.update(rnn.cell, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(params)))
  return rnn


# Adapters pass on four parts of a cell: its carry, drive (the input's part of the pre-activation),
# recurrent product and prepared params. Each of these cells has a different structure in one part.
STRUCTURES = ("elman", "gru", "lstm", "lru", "clockwork", "exprnn", "minimalrnn", "slstm", "rhn")


def test_cells_compute_the_same_in_flaxs_loops(x64):
  xs = sequences()
  for name in STRUCTURES:
    cell, params = make_cell(name, H), params_of(name, D, H)

    def everywhere(params, cell=cell):
      theirs = nnx_rnn(cell, params)(xs, return_carry=True)
      return unroll(cell, params, xs), in_linen(cell, params, xs, return_carry=True), theirs

    ours, linen, of_nnx = jax.jit(everywhere)(params)
    chex.assert_trees_all_close(linen, ours, **EXACT)
    chex.assert_trees_all_close(of_nnx, ours, **EXACT)


def test_gradients_of_a_deep_wrapped_cell_are_those_of_unroll(x64):
  cell = stack([layer_norm(zoneout(lstm(D), LSTMCarry(0.05, 0.5))), gru(H)])
  params = drawn(jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 3)

  @jax.jit
  def gradients(params, xs):
    def of(run):
      return jax.grad(lambda params, xs: jnp.sum(jnp.cos(run(params, xs))), argnums=(0, 1))

    ours = of(lambda params, xs: unroll(cell, params, xs)[1])(params, xs)
    return ours, of(lambda params, xs: in_linen(cell, params, xs))(params, xs), of_nnx(params, xs)

  def of_nnx(params, xs):
    """Returns gradients by `nnx.grad`, as users of NNX compute them."""
    loss = lambda rnn, xs: jnp.sum(jnp.cos(rnn(xs)))  # noqa: E731
    grads, xs_grad = nnx.grad(loss, argnums=(0, 1))(nnx_rnn(cell, params), xs)
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(grads)), xs_grad

  ours, linen, theirs = gradients(params, sequences())
  chex.assert_trees_all_close(linen, ours, **EXACT)
  chex.assert_trees_all_close(theirs, ours, **EXACT)


def test_bidirectional_sequences_with_lengths(x64):
  cell, xs, lengths = make_cell("gru", H), sequences(), jnp.asarray([2, T])
  both = [params_of("gru", D, H, seed) for seed in (1, 2)]

  @jax.jit
  def everywhere(both):
    ys = [unroll(cell, p, xs, lengths=lengths, reverse=i == 1)[1] for i, p in enumerate(both)]
    layer = nn.Bidirectional(nn.RNN(LinenCell(cell)), nn.RNN(LinenCell(cell)), time_major=True)
    names = ("forward_rnn", "backward_rnn")
    params = {name: {"cell": {"cell": p}} for name, p in zip(names, both, strict=True)}
    theirs = nnx.Bidirectional(*(nnx_rnn(cell, p) for p in both), time_major=True)
    return (
      jnp.concatenate(ys, axis=-1),
      layer.apply({"params": params}, xs, seq_lengths=lengths),
      theirs(xs, seq_lengths=lengths),
    )

  ours, *flax = everywhere(both)
  # Compare only the valid steps, because Flax does not specify outputs beyond a sequence's length.
  for b, length in enumerate(lengths):
    for ys in flax:
      np.testing.assert_allclose(ys[:length, b], ours[:length, b], **EXACT)


def test_adapted_cells_have_params_of_the_same_structure_as_the_cell():
  cell, xs = make_cell("gru", H, inner_bias=True), jnp.ones((T, B, D))
  linen = jax.eval_shape(nn.RNN(LinenCell(cell)).init, jax.random.key(0), xs)
  of_nnx = nnx.state(nnx.eval_shape(lambda: NNXCell(cell, D, rngs=nnx.Rngs(0))), nnx.Param)
  made = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  chex.assert_trees_all_equal_shapes_and_dtypes(linen["params"]["cell"]["cell"], made)
  chex.assert_trees_all_equal_shapes_and_dtypes(nnx.to_pure_dict(of_nnx)["params"], made)


@pytest.mark.usefixtures("unchecked_types")
def test_tokens_are_refused():
  cell, tokens = make_cell("elman", H, recurrent_kernel="identity"), jnp.zeros((B, D), jnp.int32)
  rule = r"xs must be floats \[\.\.\., D\], .* got int32"
  with pytest.raises(ValueError, match=rule):
    LinenCell(cell).init(jax.random.key(0), jnp.zeros((B, H)), tokens)
  with pytest.raises(ValueError, match=rule):
    NNXCell(cell, D, rngs=nnx.Rngs(0))(jnp.zeros((B, H)), tokens)
