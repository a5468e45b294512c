"""Tests of drawing tokens from logits, and of generating sequences token by token."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import DeepRNN, EncoderDecoder, make_cell
from rnn_jax.modules import DecoderInputs
from rnn_jax.sampling import choose, decode, generate

V, B, H = 5, 3, 4
LOGITS = jnp.array([[0.0, 2.0, 1.0, 3.0, -1.0]])


def draws(count=4000, logits=LOGITS, **options):
  keys = jax.random.split(jax.random.key(0), count)
  found = jax.jit(jax.vmap(lambda key: choose(key, logits, **options)[0]))(keys)
  return np.bincount(found, minlength=V) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax_of_logits_over_temperature(temperature):
  np.testing.assert_allclose(
    draws(temperature=temperature), jax.nn.softmax(LOGITS[0] / temperature), atol=0.025
  )


def test_top_k_keeps_the_relative_frequencies_of_the_k_largest_logits():
  p = np.where(np.isin(np.arange(V), [1, 3]), jax.nn.softmax(LOGITS[0]), 0)
  np.testing.assert_allclose(draws(top_k=2), p / p.sum(), atol=0.025)
  np.testing.assert_allclose(draws(200, top_k=1), np.eye(V)[3])


@pytest.mark.parametrize("temperature", [0, 1e-39, 2e-38])
def test_zero_and_tiny_temperatures_choose_the_largest_logit(temperature):
  """1e-39 is below the smallest normal float32, and logits / 2e-38 overflow float32."""
  assert draws(100, 10 * LOGITS, temperature=temperature)[3] == 1


@pytest.mark.parametrize("temperature", [0, 1e-39, 0.5, 2.0])
def test_a_traced_temperature_draws_the_same_tokens(temperature):
  key, logits = jax.random.key(0), jnp.tile(LOGITS, (100, 1))
  found = jax.jit(lambda t: choose(key, logits, t, top_k=3))(temperature)
  np.testing.assert_array_equal(found, choose(key, logits, temperature, top_k=3))


def test_a_temperature_beyond_the_float_range_draws_only_top_k_tokens():
  key, logits = jax.random.key(0), jnp.tile(LOGITS, (100, 1))
  found = choose(key, logits, 1e39, top_k=3)
  assert set(found.tolist()) == {1, 2, 3}
  traced = jax.jit(lambda t: choose(key, logits, t, top_k=3))(np.inf)
  np.testing.assert_array_equal(traced, found)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
    ({"temperature": np.nan}, "temperature must be finite"),
    ({"top_k": 0}, "top_k must be at least 1, got 0"),
    ({"top_k": V + 1}, f"top_k must be at most the vocabulary's {V} tokens, got {V + 1}"),
  ],
)
def test_wrong_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    choose(jax.random.key(0), LOGITS, **options)


def network(name="lstm", depth=2):
  model = DeepRNN([make_cell(name, H)] * depth, V, V)
  tokens = jnp.zeros((1, B), jnp.int32)
  variables = jax.jit(model.init)(jax.random.key(1), tokens)
  # With params this large, the outputs depend on the tokens.
  return model, jax.tree.map(lambda a: 3 * a, variables)


def test_greedy_tokens_are_the_argmax_of_the_logits_of_one_forward_pass():
  model, variables = network()
  start = jnp.array([0, 1, 2])
  run = jax.jit(functools.partial(generate, model, num_steps=7, temperature=0))
  tokens, carries = run(variables, model.initial_carries(B), start, jax.random.key(0))
  read = jnp.concatenate([start[None], tokens[:-1]])
  again, logits = jax.jit(model.apply)(variables, read)
  np.testing.assert_array_equal(tokens, jnp.argmax(logits, axis=-1))
  chex.assert_trees_all_close(carries, again, rtol=1e-5)


def test_generation_continues_from_the_last_token_and_the_carries():
  model, variables = network("gru", 1)
  start, key = jnp.array([0, 1, 2]), jax.random.key(0)
  run = jax.jit(functools.partial(generate, model, temperature=0), static_argnames="num_steps")
  whole, _ = run(variables, model.initial_carries(B), start, key, num_steps=6)
  first, carries = run(variables, model.initial_carries(B), start, key, num_steps=3)
  second, _ = run(variables, carries, first[-1], key, num_steps=3)
  np.testing.assert_array_equal(whole, jnp.concatenate([first, second]))


def test_reset_at_reads_its_token_with_a_zero_carry():
  """Tokens generated after the token `reset_at` do not depend on the tokens before it."""
  model, variables = network("elman", 1)
  run = jax.jit(functools.partial(generate, model, num_steps=12, reset_at=2, temperature=0))
  start = jnp.array([0, 2, 3])
  carries = jax.tree.map(jnp.ones_like, model.initial_carries(B))
  tokens, _ = run(variables, carries, start, jax.random.key(0))
  read = jnp.concatenate([start[None], tokens[:-1]])
  _, logits = jax.jit(model.apply)(variables, read, carries, resets=read == 2)
  np.testing.assert_array_equal(tokens, jnp.argmax(logits, axis=-1))
  plain, _ = jax.jit(functools.partial(generate, model, num_steps=12, temperature=0))(
    variables, carries, start, jax.random.key(0)
  )
  assert np.any(plain != tokens)


def test_eos_ends_a_sequence_and_pads_it():
  model, variables = network("elman", 1)
  run = jax.jit(functools.partial(generate, model, num_steps=40, eos=0))
  tokens, _ = run(variables, model.initial_carries(B), jnp.array([1, 2, 3]), jax.random.key(0))
  ended = np.cumsum(np.asarray(tokens) == 0, axis=0) > 0
  assert 0 < ended[:-1].sum() < ended[:-1].size
  assert not np.any(np.asarray(tokens)[ended])


def test_decoding_starts_from_the_encoders_carries():
  model = EncoderDecoder(
    DeepRNN([make_cell("elman", H)], vocabulary_size=V), network("elman", 1)[0]
  )
  xs = DecoderInputs(
    jnp.array([[1, 2, 3], [4, 1, 2]]), np.array([2, 1, 2]), jnp.zeros((1, B), jnp.int32)
  )
  variables = jax.tree.map(lambda a: 3 * a, jax.jit(model.init)(jax.random.key(1), xs))
  run = jax.jit(functools.partial(decode, model, num_steps=4, eos=0, temperature=0))
  generated = run(variables, xs, jax.random.key(0))
  read = jnp.concatenate([jnp.zeros((1, B), jnp.int32), generated[:-1]])
  _, logits = jax.jit(model.apply)(variables, xs._replace(tokens=read))
  greedy = np.asarray(jnp.argmax(logits, axis=-1))
  over = np.cumsum(greedy == 0, axis=0) - (greedy == 0) > 0
  np.testing.assert_array_equal(generated, np.where(over, 0, greedy))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("token", "num_steps", "error", "message"),
  [
    (jnp.zeros((1, B), int), 3, ValueError, "token must be [B] with B at least 1, got [1, 3]."),
    (jnp.zeros(B), 3, TypeError, "token must be an array of integers, got float32[3]."),
    (jnp.zeros(B, int), 0, ValueError, "num_steps must be at least 1, got 0."),
    (jnp.zeros(B, int), 1.5, TypeError, "num_steps must be an integer, got 1.5."),
  ],
)
def test_generate_names_the_argument_that_does_not_fit(token, num_steps, error, message):
  model, variables = network("elman", 1)
  carries = model.initial_carries(B)
  with pytest.raises(error) as caught:
    generate(model, variables, carries, token, jax.random.key(0), num_steps)
  assert str(caught.value) == message


@pytest.mark.usefixtures("unchecked_types")
def test_logits_have_an_axis_of_tokens():
  with pytest.raises(ValueError, match=r"logits must be \[..., V\] with V at least 1, got \[\]"):
    choose(jax.random.key(0), jnp.float32(0))
