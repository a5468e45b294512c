"""Tests of pooling, feed-forward layers, tied kernels, dropout masks and learned carries."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import DeepRNN, make_cell

T, B, D, H, V, OUT = 5, 3, 2, 4, 6, 2

assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


def draw(seed, *shape):
  return jnp.asarray(0.6 * np.random.default_rng(seed).standard_normal(shape), float)


def network(xs, *, cell=None, **options):
  model = DeepRNN([make_cell("gru", H) if cell is None else cell], **options)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), xs))
  leaves, structure = jax.tree.flatten(shapes)
  return model, structure.unflatten([draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def without_readout(model, variables, xs, **time):
  """Returns the outputs of the model's recurrent layer, i.e. the inputs of its readout."""
  layers = {"params": {k: v for k, v in variables["params"].items() if k.startswith("layers")}}
  return jax.jit(DeepRNN(model.cells).apply)(layers, xs, **time)[1]


def test_pooled_outputs_read_the_mean_over_valid_steps():
  xs, lengths = draw(90, T, B, D), np.array([5, 2, 0])
  model, variables = network(xs, output_size=OUT, pooled=True)
  apply = jax.jit(model.apply)
  _, outputs = apply(variables, xs, lengths=lengths)
  ys = np.asarray(without_readout(model, variables, xs))
  means = [ys[: max(n, 1), b].mean(0) if n else np.zeros(H) for b, n in enumerate(lengths)]
  head = jax.tree.map(np.asarray, variables["params"]["head"])
  assert outputs.shape == (1, B, OUT)
  assert_close(outputs[0], np.stack(means) @ head["kernel"] + head["bias"][None])
  mask = np.arange(T)[:, None] < lengths
  assert_close(apply(variables, xs, mask=mask)[1], outputs)
  assert_close(apply(variables, xs, mask=mask, lengths=np.maximum(lengths, 1))[1], outputs)
  _, whole = apply(variables, xs)
  assert_close(whole[0], ys.mean(0) @ head["kernel"] + head["bias"][None])


def test_feed_forward_layers_are_between_the_top_cell_and_the_readout():
  xs = draw(90, T, B, D)
  model, variables = network(xs, output_size=OUT, hidden_sizes=(7, 3))
  params = jax.tree.map(np.asarray, variables["params"])
  z = np.asarray(without_readout(model, variables, xs))
  for name in ("hidden_0", "hidden_1"):
    z = np.maximum(z @ params[name]["kernel"] + params[name]["bias"], 0)
  expected = z @ params["head"]["kernel"] + params["head"]["bias"]
  assert_close(jax.jit(model.apply)(variables, xs)[1], expected)


def test_tied_logits_are_products_with_the_embedding():
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, V, (T, B)), jnp.int32)
  options = {"vocabulary_size": V, "embedding_size": H, "output_size": V}
  model, variables = network(tokens, tied=True, **options)
  embedding, bias = variables["params"]["embedding"]["embedding"], variables["params"]["bias"]
  assert set(variables["params"]) == {"embedding", "bias", "layers_0"}
  ys = without_readout(model, variables, embedding[tokens])
  expected = np.asarray(ys) @ np.asarray(embedding).T + np.asarray(bias)
  assert_close(jax.jit(model.apply)(variables, tokens)[1], expected)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"output_size": V, "vocabulary_size": V, "tied": True}, "tied needs embedding_size"),
    (
      {"output_size": OUT, "vocabulary_size": V, "embedding_size": H, "tied": True},
      f"output_size equal to vocabulary_size, got {H}, {OUT} and {V}",
    ),
    (
      {"output_size": V, "vocabulary_size": V, "embedding_size": 3, "tied": True},
      f"a readout of 3 inputs, the embedding's width, got {H}",
    ),
    ({"dropout_mask": "batch"}, "Unknown dropout_mask 'batch'"),
    ({"hidden_sizes": (3, 0)}, "hidden_sizes must be at least 1, got 0"),
  ],
)
def test_invalid_options_are_named(options, message):
  tokens = jnp.zeros((T, B), jnp.int32)
  model = DeepRNN([make_cell("gru", H)], **{"vocabulary_size": V, **options})
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))


def test_dropout_mask_sequence_is_constant_in_time():
  cells = [make_cell("elman", 50, activation="linear")] * 2
  layer = {"cell": {"w_x": jnp.eye(50), "w_h": jnp.zeros((50, 50)), "b": jnp.zeros(50)}}
  variables = {"params": {"layers_0": layer, "layers_1": layer}}
  model = DeepRNN(cells, dropout=0.25, dropout_mask="sequence")
  rngs = {"dropout": jax.random.key(0)}
  _, ys = model.apply(variables, jnp.ones((T, B, 50)), deterministic=False, rngs=rngs)
  np.testing.assert_array_equal(ys, jnp.broadcast_to(ys[:1], ys.shape))
  assert len(np.unique(ys[0], axis=0)) == B
  np.testing.assert_allclose(np.unique(ys), [0, 1 / 0.75], rtol=1e-6)


# Learned initial carries


def test_every_sequence_starts_from_the_learned_carry():
  xs = draw(90, T, B, D)
  model, variables = network(xs, cell=make_cell("lstm", H), learned_carry=True)
  carry = variables["params"]["carry_0"]
  given = jax.tree.map(lambda a: jnp.broadcast_to(a, (B, H)), carry)
  plain = DeepRNN(model.cells)
  layers = {"params": {"layers_0": variables["params"]["layers_0"]}}
  apply, expected = jax.jit(model.apply), jax.jit(plain.apply)(layers, xs, [given])
  assert_close(apply(variables, xs), expected)
  # A carry that is passed to the call replaces the learned one.
  assert_close(apply(variables, xs, [given]), expected)


def test_a_learned_carry_starts_at_zero_and_has_a_gradient():
  xs = draw(90, T, B, D)
  model = DeepRNN([make_cell("elman", H)], learned_carry=True)
  variables = jax.jit(model.init)(jax.random.key(0), xs)
  np.testing.assert_array_equal(variables["params"]["carry_0"], np.zeros(H))

  @jax.jit
  @jax.grad
  def last(variables):
    return jnp.sum(model.apply(variables, xs)[1][-1])

  assert np.all(last(variables)["params"]["carry_0"] != 0)


def test_a_learned_carry_excludes_resets_and_streaming():
  xs = draw(90, T, B, D)
  model, variables = network(xs, learned_carry=True)
  with pytest.raises(ValueError, match="resets must be None with learned_carry"):
    model.apply(variables, xs, resets=np.zeros((T, B), bool))
  with pytest.raises(ValueError, match="learned_carry must be False where carries are passed"):
    model.initial_carries(B)
