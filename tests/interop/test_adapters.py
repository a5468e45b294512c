"""Our cells in the loops of Flax do what they do in ours."""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn, params_of
from flax import nnx

from rnn_jax import CELLS, make_cell, unroll
from rnn_jax.cells import LSTMCarry, layer_norm, lstm, residual, stack, zoneout
from rnn_jax.interop import LinenCell, NNXCell

T, B, D, H = 4, 2, 3, 4
EXACT = {"rtol": 1e-12, "atol": 1e-13}


def sequences():
  return drawn(jnp.zeros((T, B, D)), seed=2)


def in_linen(cell, params, xs, **options):
  rnn = nn.RNN(LinenCell(cell), time_major=True, **options)
  return rnn.apply({"params": {"cell": {"cell": params}}}, xs)


def in_nnx(cell, params, xs, **options):
  rnn = nnx.RNN(NNXCell(cell, D, rngs=nnx.Rngs(0)), time_major=True, **options)
  state = nnx.state(rnn.cell, nnx.Param)
  nnx.update(rnn.cell, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(params)))
  return rnn(xs)


ADAPTERS = pytest.mark.parametrize("run", [in_linen, in_nnx])


@ADAPTERS
def test_every_cell_runs_as_in_unroll(x64, run):
  xs = sequences()
  for name in CELLS:
    cell, params = make_cell(name, H), params_of(name, D, H)
    carry, ys = jax.jit(lambda p, cell=cell: run(cell, p, xs, return_carry=True))(params)
    chex.assert_trees_all_close(
      (carry, ys), jax.jit(lambda p, cell=cell: unroll(cell, p, xs))(params), **EXACT
    )


@ADAPTERS
def test_gradients_of_a_deep_wrapped_cell_are_those_of_unroll(x64, run):
  cell = stack([residual(layer_norm(zoneout(lstm(D), LSTMCarry(0.05, 0.5)))), lstm(H)])
  params = drawn(jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 3)

  def gradients(run):
    loss = lambda params, xs: jnp.sum(jnp.cos(run(params, xs)))  # noqa: E731
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, sequences())

  theirs = gradients(lambda params, xs: run(cell, params, xs))
  ours = gradients(lambda params, xs: unroll(cell, params, xs)[1])
  chex.assert_trees_all_close(theirs, ours, **EXACT)


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_both_directions_of_sequences_that_end_early(x64, library):
  cell = make_cell("gru", H, recurrent_kernel="gaussian")
  xs, lengths = sequences(), jnp.asarray([2, T])
  if library == "linen":
    layer = nn.Bidirectional(nn.RNN(LinenCell(cell)), nn.RNN(LinenCell(cell)), time_major=True)
    variables = layer.init(jax.random.key(0), xs)
    params = [variables["params"][d]["cell"]["cell"] for d in ("forward_rnn", "backward_rnn")]
    ys = layer.apply(variables, xs, seq_lengths=lengths)
  else:
    rnns = [nnx.RNN(NNXCell(cell, D, rngs=nnx.Rngs(seed))) for seed in (0, 1)]
    params = [nnx.to_pure_dict(nnx.state(rnn.cell, nnx.Param))["params"] for rnn in rnns]
    ys = nnx.Bidirectional(*rnns, time_major=True)(xs, seq_lengths=lengths)
  assert not np.array_equal(params[0]["w_x"], params[1]["w_x"])
  ours = [unroll(cell, p, xs, lengths=lengths, reverse=r)[1] for p, r in zip(params, (False, True))]
  expected = jnp.concatenate(ours, axis=-1)
  for b, length in enumerate(lengths):  # Flax leaves what it likes behind a sequence's end
    np.testing.assert_allclose(ys[:length, b], expected[:length, b], **EXACT)


def test_the_params_are_those_that_the_cell_makes():
  cell = make_cell("lstm", H, recurrent_kernel="identity", forget_bias=3.0)
  xs = jnp.ones((T, B, D), jnp.float32)
  made = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  linen = nn.RNN(LinenCell(cell)).init(jax.random.key(0), xs)["params"]["cell"]["cell"]
  of_nnx = nnx.to_pure_dict(nnx.state(NNXCell(cell, D, rngs=nnx.Rngs(0)), nnx.Param))["params"]
  chex.assert_trees_all_equal_shapes_and_dtypes(linen, of_nnx, made)
  for params in (linen, of_nnx):
    np.testing.assert_array_equal(params["b"], np.repeat([0.0, 3.0, 0.0, 0.0], H))


def test_nnx_gradients_need_no_initial_carry(x64):
  cell, xs = make_cell("elman", H, recurrent_kernel="identity"), sequences()
  rnn = nnx.RNN(NNXCell(cell, D, rngs=nnx.Rngs(0)), time_major=True)
  params = nnx.to_pure_dict(nnx.state(rnn.cell, nnx.Param))["params"]
  theirs = nnx.to_pure_dict(nnx.grad(lambda rnn: jnp.sum(rnn(xs) ** 2))(rnn))["cell"]["params"]
  ours = jax.grad(lambda params: jnp.sum(unroll(cell, params, xs)[1] ** 2))(params)
  chex.assert_trees_all_close(theirs, ours, **EXACT)


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_tokens_are_refused(library):
  cell, tokens = make_cell("gru", H), jnp.zeros((T, B, D), jnp.int32)
  with pytest.raises(ValueError, match=r"xs must be floats \[\.\.\., D\], .* got int32"):
    if library == "linen":
      nn.RNN(LinenCell(cell)).init(jax.random.key(0), tokens)
    else:
      nnx.RNN(NNXCell(cell, D, rngs=nnx.Rngs(0)))(tokens)
