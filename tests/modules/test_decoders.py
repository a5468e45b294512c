"""Tests of decoders: their initial carries, truncation and training."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import ConditionedDecoder, DeepRNN, EncoderDecoder, make_cell
from rnn_jax.cells import LSTMCarry
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DecoderInputs
from rnn_jax.tasks import Batch
from rnn_jax.training import init_state, update

S, T, B, D, H, V = 5, 4, 3, 2, 4, 6
LENGTHS = np.array([5, 3, 1])

assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


def draw(seed, *shape):
  return jnp.asarray(0.6 * np.random.default_rng(seed).standard_normal(shape), float)


def tokens(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape), jnp.int32)


def decoder(name="lstm", depth=2):
  return DeepRNN([make_cell(name, H)] * depth, V, V)


def encoder(name="lstm", depth=2):
  return DeepRNN([make_cell(name, H)] * depth, vocabulary_size=V)


PAIR = DecoderInputs(tokens(0, S, B), LENGTHS, tokens(1, T, B))
VECTOR = DecoderInputs(draw(0, B, D), None, tokens(1, T, B))


def with_params(model, xs):
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), xs))
  leaves, structure = jax.tree.flatten(shapes)
  return model, structure.unflatten([draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def part(variables, name):
  return {"params": variables["params"][name]}


def test_the_decoder_starts_from_the_encoders_final_carries():
  model, variables = with_params(EncoderDecoder(encoder(), decoder()), PAIR)

  @jax.jit
  def by_hand(variables):
    carries, _ = encoder().apply(part(variables, "encoder"), PAIR.source, lengths=LENGTHS)
    return decoder().apply(part(variables, "decoder"), PAIR.tokens, carries)

  assert_close(jax.jit(model.apply)(variables, PAIR), by_hand(variables))


def test_padding_of_a_source_has_no_effect():
  model, variables = with_params(EncoderDecoder(encoder(), decoder()), PAIR)
  other = jnp.where(np.arange(S)[:, None] < LENGTHS[None], PAIR.source, tokens(7, S, B))
  apply = jax.jit(model.apply)
  assert_close(apply(variables, PAIR._replace(source=other)), apply(variables, PAIR))


def test_a_vector_becomes_the_initial_carry_of_every_layer():
  model, variables = with_params(ConditionedDecoder(decoder()), VECTOR)
  params = variables["params"]

  def bridge(layer, leaf):
    dense = params[f"bridges_{layer}_{leaf}"]
    return np.tanh(VECTOR.source @ dense["kernel"] + dense["bias"][None])

  carries = [LSTMCarry(bridge(i, 0), bridge(i, 1)) for i in (0, 1)]
  expected = decoder().apply(part(variables, "decoder"), VECTOR.tokens, carries)
  assert_close(jax.jit(model.apply)(variables, VECTOR), expected)


@pytest.mark.parametrize(
  ("model", "xs"),
  [
    (EncoderDecoder(encoder("elman", 1), decoder("elman", 1)), PAIR),
    (ConditionedDecoder(decoder("elman", 1)), VECTOR),
  ],
  ids=["encoder-decoder", "conditioned"],
)
@pytest.mark.usefixtures("optax_promotion")
def test_updates_learn_the_target_and_report_norms_of_every_layer(model, xs):
  optimizer = optax.adam(0.05)
  batch = Batch(xs, tokens(2, T, B), np.arange(T)[:, None] < np.array([4, 2, 3]))
  state = jax.jit(functools.partial(init_state, model, optimizer))(jax.random.key(0), xs)

  @jax.jit
  def train(state):
    def body(state, _):
      state, _, metrics = update(model, optimizer, cross_entropy, state, batch)
      return state, metrics

    return jax.lax.scan(body, state, length=60)

  _, metrics = train(state)
  assert metrics.loss[0] > 1.2
  assert metrics.loss[-1] < 0.05
  structure = jax.tree.structure(model.probes(xs))
  assert jax.tree.structure(metrics.norms) == structure
  for norms in jax.tree.leaves(metrics.norms):
    assert np.isfinite(norms).all() and (norms[0] > 0).any()


def test_truncation_cuts_inside_the_decoder():
  model, variables = with_params(EncoderDecoder(encoder(), decoder()), PAIR)

  @jax.jit
  @jax.grad
  def last_loss(probes, k):
    _, logits = model.apply(variables, PAIR, probes=probes, truncation=k)
    return jnp.sum(cross_entropy(logits[-1], PAIR.tokens[0]))

  encoder_norms, decoder_norms = last_loss(model.probes(PAIR), 3)
  for layer in encoder_norms:
    assert not any(np.any(leaf) for leaf in layer)
  np.testing.assert_array_equal(decoder_norms[0].hidden[:, 0] > 0, np.arange(T) >= 3)


def test_an_encoder_with_a_readout_is_refused():
  with pytest.raises(ValueError, match=f"encoder must have no output_size, got {V}"):
    EncoderDecoder(decoder(), decoder()).init(jax.random.key(0), PAIR)
