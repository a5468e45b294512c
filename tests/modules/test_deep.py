"""Tests of `DeepRNN`: layers, params, time arguments and dropout."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import BidirectionalRNN, DeepRNN, gradient_probe, make_cell, unroll

T, B, D, H, V, OUT = 6, 2, 3, 4, 5, 2

assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)

LENGTHS = np.array([6, 4])
RESETS = np.zeros((T, B), bool)
RESETS[[3, 1], [0, 1]] = True
MASK = np.arange(T)[:, None] != [2, 1]


def draw(seed, *shape):
  return jnp.asarray(0.6 * np.random.default_rng(seed).standard_normal(shape), float)


def tokens(seed=0):
  return jnp.asarray(np.random.default_rng(seed).integers(0, V, (T, B)), jnp.int32)


def shapes_of(model, xs):
  return jax.eval_shape(lambda: model.init(jax.random.key(0), xs))


def with_params(model, xs):
  """Returns (model, random variables). `init` is not used, because its zero biases hide errors."""
  leaves, structure = jax.tree.flatten(shapes_of(model, xs))
  return model, structure.unflatten([draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def stack(*names, **options):
  return DeepRNN([make_cell(name, H) for name in names], **options)


# The cases are a single layer, several layers of the same cell, and layers of different cells.
@pytest.mark.parametrize(
  "names", [("lru",), ("lstm", "lstm", "lstm"), ("gru", "lru", "elman")], ids="-".join
)
def test_depth_is_the_composition_of_time_loops_and_a_readout(names):
  xs = draw(90, T, B, D)
  model, variables = with_params(stack(*names, output_size=OUT), xs)
  time = {"lengths": LENGTHS, "mask": MASK, "resets": RESETS, "reverse": True}

  @jax.jit
  def by_hand(variables):
    ys, carries = xs, []
    for cell, params in zip(model.cells, model.cell_params(variables), strict=True):
      carry, ys = unroll(cell, params, ys, **time)
      carries.append(carry)
    head = variables["params"]["head"]
    return tuple(carries), ys @ head["kernel"] + head["bias"][None, None]

  applied = jax.jit(lambda variables: model.apply(variables, xs, **time))(variables)
  assert_close(applied, by_hand(variables))


def test_cells_of_a_stack_may_differ():
  xs = draw(90, T, B, D)
  model = DeepRNN([make_cell("lstm", 3), make_cell("elman", 5), make_cell("gru", 2)])
  model, variables = with_params(model, xs)

  @jax.jit
  def by_hand(variables):
    ys, carries = xs, []
    for cell, params in zip(model.cells, model.cell_params(variables), strict=True):
      carry, ys = unroll(cell, params, ys)
      carries.append(carry)
    return tuple(carries), ys

  assert_close(jax.jit(model.apply)(variables, xs), by_hand(variables))


def test_networks_made_alike_are_equal_and_are_compiled_once():
  traces = []

  @functools.partial(jax.jit, static_argnames="model")
  def width(model):
    traces.append(model)
    return len(model.hidden_sizes)

  for kind in (DeepRNN, BidirectionalRNN):
    traces.clear()
    for cells in (["gru", "lstm"], ["gru", "lstm"], ["gru", "gru"]):
      width(kind([make_cell(name, H) for name in cells], hidden_sizes=[3]))
    assert len(traces) == 2


def test_init_and_apply_are_pure():
  xs = draw(90, T, B, D)
  model = stack("gru", "lstm", output_size=OUT)
  init = jax.jit(model.init)
  variables, same, other = (init(jax.random.key(k), xs) for k in (0, 0, 1))
  chex.assert_trees_all_equal(variables, same)
  kept = jax.tree.map(np.array, variables)
  apply = jax.jit(model.apply)
  chex.assert_trees_all_equal(apply(variables, xs), apply(variables, xs))
  chex.assert_trees_all_equal(variables, kept)
  for a, b in zip(*map(model.cell_params, (variables, other)), strict=True):
    assert not np.allclose(a["w_x"], b["w_x"])


def test_layers_draw_different_params():
  model = stack("gru", "gru")
  first, second = model.cell_params(jax.jit(model.init)(jax.random.key(0), draw(0, T, B, H)))
  assert not np.allclose(first["w_h"], second["w_h"])


def test_params_are_laid_out_by_layer():
  model = stack("gru", "lstm", output_size=OUT, vocabulary_size=V, embedding_size=3)
  params = jax.tree.map(lambda a: a.shape, shapes_of(model, tokens())["params"])
  assert params == {
    "embedding": {"embedding": (V, 3)},
    "layers_0": {"cell": {"w_x": (3, 3 * H), "w_h": (H, 3 * H), "b": (3 * H,)}},
    "layers_1": {"cell": {"w_x": (H, 4 * H), "w_h": (H, 4 * H), "b": (4 * H,)}},
    "head": {"kernel": (H, OUT), "bias": (OUT,)},
  }


def test_cells_keep_the_initialization_of_their_constructor():
  model = DeepRNN([make_cell("lstm", H, forget_bias=3.0, recurrent_gain=0.5)])
  (params,) = model.cell_params(jax.jit(model.init)(jax.random.key(0), draw(0, T, B, D)))
  np.testing.assert_array_equal(params["b"], np.repeat([0, 3, 0, 0], H))
  gate = params["w_h"][:, :H]
  np.testing.assert_allclose(gate @ gate.T, np.eye(H) / 4, atol=1e-6)


def test_without_readout_the_outputs_are_the_top_cells():
  xs = draw(90, T, B, D)
  model, variables = with_params(stack("elman"), xs)
  (carry,), ys = jax.jit(model.apply)(variables, xs)
  assert set(variables["params"]) == {"layers_0"}
  assert ys.shape == (T, B, H)
  np.testing.assert_array_equal(ys[-1], carry)


def test_tokens_equal_their_one_hot_vectors():
  model, variables = with_params(stack("gru", "lstm", vocabulary_size=V), tokens())
  apply = jax.jit(functools.partial(model.apply, variables))
  assert_close(apply(tokens()), apply(jnp.asarray(np.eye(V)[tokens()], float)))


def test_embedded_tokens_are_rows_of_the_embedding():
  model, variables = with_params(
    stack("gru", vocabulary_size=V, embedding_size=3, output_size=OUT), tokens()
  )
  read = tokens().at[1, :2].set(jnp.array([V, -1]))  # outside the vocabulary: zeros
  rows = jax.nn.one_hot(read, V) @ variables["params"]["embedding"]["embedding"]
  without = {k: v for k, v in variables["params"].items() if k != "embedding"}
  plain = stack("gru", output_size=OUT)
  expected = jax.jit(plain.apply)({"params": without}, rows)
  assert_close(jax.jit(model.apply)(variables, read), expected)


@pytest.mark.parametrize("embedding_size", [None, 3])
def test_concrete_tokens_outside_the_vocabulary_raise(embedding_size):
  model, variables = with_params(
    stack("gru", vocabulary_size=V, embedding_size=embedding_size), tokens()
  )
  for token in (-1, V):
    message = f"xs must hold tokens from 0 to {V - 1}, got {token} to {token}."
    with pytest.raises(ValueError, match=message):
      model.apply(variables, np.full((1, 1), token))


def test_two_halves_with_the_carry_passed_on_equal_the_whole():
  xs = draw(90, T, B, D)
  model, variables = with_params(stack("lstm", "gru", output_size=OUT), xs)
  apply = jax.jit(functools.partial(model.apply, variables))
  carries, first = apply(xs[:2])
  carries, second = apply(xs[2:], carries)
  assert_close((carries, np.concatenate([first, second])), apply(xs))


def test_initial_carries_equal_the_default():
  xs = draw(90, T, B, D)
  model, variables = with_params(stack("lstm", "elman"), xs)
  apply = jax.jit(functools.partial(model.apply, variables))
  chex.assert_trees_all_equal(apply(xs), apply(xs, model.initial_carries(B)))


def test_there_is_one_probe_per_layer():
  model = stack("lstm", "gru")
  expected = tuple(gradient_probe(cell, T, B) for cell in model.cells)
  chex.assert_trees_all_equal(model.probes(draw(0, T, B, D)), expected, strict=True)


def test_time_arguments_reach_every_layer_and_truncation_may_be_traced():
  xs = draw(90, T, B, D)
  model, variables = with_params(stack("gru", "elman"), xs)

  @jax.jit
  @jax.grad
  def last_loss(xs, k):
    return jnp.sum(model.apply(variables, xs, truncation=k, resets=RESETS)[1][-1])

  grads = {k: np.any(last_loss(xs, k), axis=-1) for k in (1, 2, T)}
  # `count` is the number of steps from each example's reset to the last step.
  step, count = np.arange(T)[:, None], np.array([2, 4])
  for k, seen in grads.items():
    np.testing.assert_array_equal(seen, step >= T - 1 - count % k)


def test_double_precision_is_kept_throughout(x64):
  model = stack("lstm", vocabulary_size=V, embedding_size=3, output_size=OUT)
  variables = shapes_of(model, tokens())
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float64)}


# Dropout


def dropped(depth, rate, key=0, **call):
  """Returns the outputs of a network whose cells copy their inputs, so every zero is dropped."""
  cells = [make_cell("elman", 50, activation="linear") for _ in range(depth)]
  model = DeepRNN(cells, dropout=rate)
  layer = {"cell": {"w_x": jnp.eye(50), "w_h": jnp.zeros((50, 50)), "b": jnp.zeros(50)}}
  variables = {"params": {f"layers_{i}": layer for i in range(depth)}}
  call = call or {"deterministic": False, "rngs": {"dropout": jax.random.key(key)}}
  _, ys = model.apply(variables, jnp.ones((T, B, 50)), **call)
  return np.asarray(ys)


def test_dropout_rescales_and_draws_a_mask_for_every_step_and_example():
  ys = dropped(2, 0.25)
  np.testing.assert_allclose(np.unique(ys), [0, 1 / 0.75], rtol=1e-6)
  # The tolerance is about three standard deviations of the mean of T · B · 50 draws.
  assert np.mean(ys == 0) == pytest.approx(0.25, abs=0.06)
  assert len(np.unique(ys.reshape(T * B, -1), axis=0)) == T * B


def test_dropout_draws_a_mask_for_every_layer():
  # If all layers used the same mask, a third layer would add no zeros to the outputs.
  once, twice = np.mean(dropped(2, 0.5) == 0), np.mean(dropped(3, 0.5) == 0)
  assert once == pytest.approx(0.5, abs=0.07)
  assert twice == pytest.approx(0.75, abs=0.07)


def test_dropout_acts_between_layers_only():
  np.testing.assert_array_equal(dropped(1, 0.5), np.ones((T, B, 50)))


def test_dropout_depends_on_its_key_alone():
  np.testing.assert_array_equal(dropped(2, 0.5), dropped(2, 0.5))
  assert not np.array_equal(dropped(2, 0.5), dropped(2, 0.5, key=1))


def test_no_dropout_by_default():
  np.testing.assert_array_equal(dropped(3, 0.5, deterministic=True), np.ones((T, B, 50)))
