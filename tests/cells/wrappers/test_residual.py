"""Residual cells add their input to their output, and reject inputs of a different width."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import DeepRNN, make_cell, unroll
from rnn_jax.cells import gru, lstm, residual, stack

T, B, D, H = 5, 3, 4, 4


def draw(seed, shapes):
  random = np.random.default_rng(seed)
  return jax.tree.map(lambda a: jnp.asarray(0.6 * random.standard_normal(a.shape), a.dtype), shapes)


def init_shapes(cell, size=D):
  return jax.eval_shape(lambda: cell.init(jax.random.key(0), size))


def test_input_is_added_to_the_output_and_carry_and_gates_are_unchanged(x64):
  base, cell = lstm(H), residual(lstm(H))
  chex.assert_trees_all_equal(init_shapes(cell), init_shapes(base))
  params, xs = draw(1, init_shapes(base)), draw(2, jax.ShapeDtypeStruct((T, B, D), float))
  run = jax.jit(lambda: (unroll(cell, params, xs), unroll(base, params, xs)))
  (final, ys), (expected, outputs) = run()
  chex.assert_trees_all_equal(final, expected)
  np.testing.assert_allclose(ys, xs + outputs, rtol=1e-15)
  recurrent = base.recur(params, final)
  gates = [c.gates(params, final, c.project(params, xs[0]), recurrent) for c in (base, cell)]
  chex.assert_trees_all_equal(*gates)
  assert gates[0]


def test_params_of_the_wrapped_cell_are_prepared_once(x64):
  base, cell = make_cell("exprnn", D), residual(make_cell("exprnn", D))
  params, xs = draw(1, init_shapes(base)), draw(2, jax.ShapeDtypeStruct((T, B, D), float))
  ys, outputs = (unroll(c, params, xs)[1] for c in (cell, base))
  np.testing.assert_allclose(ys, xs + outputs, rtol=1e-6)


def test_a_residual_cell_with_zero_params_is_the_identity():
  cell = residual(gru(H))
  params = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), init_shapes(cell))
  xs = draw(2, jax.ShapeDtypeStruct((T, B, D), jnp.float32))

  @jax.jit
  def there_and_back(xs):
    ys, vjp = jax.vjp(lambda xs: unroll(cell, params, xs)[1], xs)
    return ys, *vjp(ys)

  # With params of 0 the wrapped cell outputs 0 and passes no gradient, so only the skip connection
  # acts.
  for same in there_and_back(xs):
    np.testing.assert_array_equal(same, xs)


@pytest.mark.parametrize("cell", [gru(H), stack([lstm(3), gru(H)])], ids=["gru", "stack"])
def test_init_and_project_refuse_an_input_size_other_than_the_output_size(cell):
  match = r"xs of a residual cell must be as wide as its output, \[\.\.\., 4\], got a width of 2\."
  with pytest.raises(ValueError, match=match):
    init_shapes(residual(cell), 2)
  # `project` must check the width as well, because params from the plain cell's `init` fit the
  # wrapped cell, and the sum of x [B, 1] and the output [B, 4] would broadcast without an error.
  params = jax.tree.map(lambda a: jnp.zeros(a.shape), init_shapes(cell, 1))
  with pytest.raises(ValueError, match="got a width of 1"):
    jax.eval_shape(lambda: unroll(residual(cell), params, jnp.zeros((T, B, 1))))


def test_tokens_are_refused():
  model = DeepRNN([residual(gru(H))], vocabulary_size=H)
  with pytest.raises(ValueError, match=r"must be vectors, .* got tokens int32\[5, 3\]"):
    model.init(jax.random.key(0), jnp.zeros((T, B), jnp.int32))
