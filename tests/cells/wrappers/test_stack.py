"""A stack of cells equals its layers run one after another, in values and gradients."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import DeepRNN, gradient_probe, make_cell, step, unroll
from rnn_jax.cells import layer_norm, residual, stack, zoneout

T, B, D = 5, 3, 2

pytestmark = pytest.mark.usefixtures("x64")
close = functools.partial(chex.assert_trees_all_close, rtol=1e-12, atol=1e-14)


def draw(seed, *shape):
  return jnp.asarray(0.6 * np.random.default_rng(seed).standard_normal(shape))


def gated(cell):
  """Returns a copy of the cell whose output reads the drive: y is multiplied by σ(mean drive)."""

  def output(params, carry, drive):
    gate = jax.nn.sigmoid(jnp.mean(drive, axis=-1, keepdims=True))
    return cell.output(params, carry, drive) * gate

  return cell._replace(output=output)


STACKS = {
  "widths": [make_cell("lstm", 4), make_cell("elman", 3)],
  "outputs read drives": [gated(make_cell("elman", 4)), gated(make_cell("elman", 3))],
  "wrapped": [zoneout(make_cell("lstm", 4), 0.3), residual(layer_norm(make_cell("gru", 4)))],
}


def randomized(cells):
  params = jax.eval_shape(lambda: stack(cells).init(jax.random.key(0), D))
  leaves, structure = jax.tree.flatten(params)
  return structure.unflatten([draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def start(cells):
  zeros = stack(cells).initial_carry((B,))
  return jax.tree.map(lambda a: draw(a.shape[1], *a.shape), zeros)


def layer_by_layer(cells, params, xs, carry, **time):
  ys, final = xs, []
  for cell, cell_params, cell_carry in zip(cells, params, carry, strict=True):
    last, ys = unroll(cell, cell_params, ys, cell_carry, **time)
    final.append(last)
  return tuple(final), ys


@pytest.mark.parametrize(
  ("which", "time"),
  [
    ("widths", {"truncation": 2, "lengths": np.array([5, 0, 3])}),
    ("outputs read drives", {}),
    ("wrapped", {}),
  ],
)
def test_values_and_gradients_equal_those_of_consecutive_layers(which, time):
  cells = STACKS[which]
  params, xs, carry = randomized(cells), draw(80, T, B, D), start(cells)

  def loss(run, params, xs, carry):
    final, ys = run(params, xs, carry, **time)
    total = jnp.sum(draw(90, *ys.shape) * ys)
    return total + sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(final)), (final, ys)

  results = [
    jax.jit(jax.value_and_grad(functools.partial(loss, run), argnums=(0, 1, 2), has_aux=True))(
      params, xs, carry
    )
    for run in (functools.partial(unroll, stack(cells)), functools.partial(layer_by_layer, cells))
  ]
  close(*results)


def test_outputs_equal_those_of_the_deep_network():
  cells, xs = STACKS["widths"], draw(80, T, B, D)
  model, params = DeepRNN(cells), randomized(cells)
  variables = {"params": {f"layers_{i}": {"cell": layer} for i, layer in enumerate(params)}}
  both = jax.jit(lambda xs: (model.apply(variables, xs), unroll(stack(cells), params, xs)))
  close(*both(xs))


def test_layers_carries_at_one_step_are_independent_variables():
  cells, xs = [make_cell("elman", 4), make_cell("lstm", 3)], draw(80, T, B, D)
  cell, params, weights = stack(cells), randomized(cells), draw(90, B, 3)
  norms = jax.jit(jax.grad(lambda p: jnp.sum(weights * unroll(cell, params, xs, probe=p)[1][-1])))(
    gradient_probe(cell, T, B)
  )
  # The two layers' carries at one step count as independent variables. The loss reads only the top
  # layer's carry at step T, so the lower layer's carry has no gradient at step T.
  close(norms[1].hidden[-1], jnp.linalg.norm(weights, axis=1))
  assert not np.any(norms[0][-1])
  assert np.all(norms[0][:-1] > 0)


def test_step_of_a_stack_equals_a_vmap_over_the_batch():
  cells = STACKS["outputs read drives"]
  cell, params, x = stack(cells), randomized(cells), draw(80, B, D)

  def moved(carry, x):
    drive = cell.project(params, x)
    carry = step(cell, params, carry, drive)
    return carry, cell.output(params, carry, drive)

  close(*jax.jit(lambda *now: (moved(*now), jax.vmap(moved)(*now)))(start(cells), x))


def test_init_gives_each_layer_its_sizes_its_own_key_and_the_dtype():
  cells = [make_cell("elman", width, recurrent_kernel="gaussian") for width in (4, 4, 3)]
  params = jax.jit(lambda key: stack(cells).init(key, 5, jnp.float32))(jax.random.key(0))
  assert [layer["w_x"].shape for layer in params] == [(5, 4), (4, 4), (4, 3)]
  assert not np.array_equal(params[0]["w_h"], params[1]["w_h"])
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_tokens_are_read_by_the_first_layer():
  cells = [make_cell("gru", 4), make_cell("elman", 3)]
  params = randomized(cells)
  tokens = np.arange(T * B).reshape(T, B) % D
  run = jax.jit(functools.partial(unroll, stack(cells), params))
  close(run(tokens), run(np.eye(D)[tokens]))


def test_an_empty_stack_is_refused():
  with pytest.raises(ValueError, match="cells must hold at least one cell, got none"):
    stack([])
