"""The clockwork network: its equation, and gradients through inactive modules."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import D, check

from rnn_jax import make_cell, unroll
from rnn_jax.cells import ClockworkCarry

BLOCKS = [[0, 1], [2, 3], [4]]  # 5 units in 3 modules


def reference(blocks, params, carry, x):
  old, t = carry
  h = old.copy()
  for i, to in enumerate(blocks):
    if t[0] % 2**i == 0:
      a = x @ params["w_x"][:, to] + params["b"][to]
      for sender in blocks[i:]:
        a = a + old[:, sender] @ params["w_h"][np.ix_(sender, to)]
      h[:, to] = np.tanh(a)
  return ClockworkCarry(h, t + 1), h


@pytest.mark.parametrize(
  ("size", "num_modules", "blocks"),
  [(5, 3, BLOCKS), (2, 8, [[0], [1]]), (3, 1, [[0, 1, 2]])],
  ids=["modules", "fewer units than modules", "one module"],
)
def test_cell_matches_its_equation(x64, size, num_modules, blocks):
  cell = make_cell("clockwork", size, num_modules=num_modules)
  check(cell, functools.partial(reference, blocks))


def test_an_inactive_module_passes_its_gradient_through_unchanged(x64):
  cell = make_cell("clockwork", 4)  # four units with the periods 1, 2, 4, 8
  params = cell.init(jax.random.key(0), D)
  xs = jax.random.normal(jax.random.key(1), (7, 1, D))
  one = jnp.ones(1, jnp.int32)

  def run(h):
    return unroll(cell, params, xs, ClockworkCarry(h, one))[0].hidden

  jacobian = jax.jit(jax.jacrev(run))(jnp.full((1, 4), 0.5))[0, :, 0]
  np.testing.assert_array_equal(jacobian[3], [0, 0, 0, 1])
  assert np.abs(jacobian[0, 3]) > 0  # slow modules feed fast ones
  np.testing.assert_array_equal(np.triu(jacobian), jacobian)


@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (32, ValueError), (2.0, TypeError)])
@pytest.mark.usefixtures("unchecked_types")
def test_an_invalid_number_of_modules_is_refused(value, kind):
  with pytest.raises(kind, match=f"num_modules must be .* got {value}"):
    make_cell("clockwork", 4, num_modules=value)
