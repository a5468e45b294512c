"""Autoregressive sampling: each generated token is the next input."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.modules import ConditionedDecoder, DecoderInputs, DeepRNN, EncoderDecoder
from rnn_jax.types import Array, Carry


def choose(key: Array, logits: Array, temperature: float = 1.0, top_k: int | None = None) -> Array:
  """Draws the next token.

    p = softmax(logits / τ) over the k largest logits      τ = 0: the largest logit ("greedy")

  Args:
    key: random key.
    logits: [..., V].
    temperature: τ, at least 0; one too small for a division is 0.
    top_k: k, from 1 to V; None for all. Equals of the k-th stay in too.
  Returns:
    Tokens [...], int32.
  Raises:
    TypeError, ValueError: a temperature that is no number of at least 0, or a k out of range.
  """
  checks.number("temperature", temperature, minimum=0)
  if top_k is not None:
    checks.integer("top_k", top_k)
    if top_k > logits.shape[-1]:
      raise ValueError(
        f"top_k must be at most the vocabulary's {logits.shape[-1]} tokens, got {top_k}."
      )
  if temperature < jnp.finfo(logits.dtype).tiny:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  if top_k is not None:
    least = jax.lax.top_k(logits, top_k)[0][..., -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  # From the largest down, since a small τ would make infinities of them, all as likely.
  logits = logits - jnp.max(logits, axis=-1, keepdims=True)
  return jax.random.categorical(key, logits / temperature).astype(jnp.int32)


def generate(
  model: DeepRNN,
  variables: Any,
  carries: Sequence[Carry],
  token: Array,
  key: Array,
  num_steps: int,
  *,
  temperature: float = 1.0,
  top_k: int | None = None,
  eos: int | None = None,
  reset_at: int | None = None,
) -> tuple[Array, tuple[Carry, ...]]:
  """Generates tokens, one step of the cells each.

    carries_t, logits_t = model(token_t, carries_{t−1})      token_{t+1} = choose(logits_t)

  To go on, give the last token and the carries again, with another key.

  Args:
    model: its outputs are logits of the next token.
    variables: of the model.
    carries: of each layer, before `token` is read.
    token: [B], the token before the first generated one.
    key: random key.
    num_steps: N.
    temperature: as `choose` takes it.
    top_k: as `choose` takes it.
    eos: token that ends a sequence, and fills it up from there; None for none.
    reset_at: token that is read with a new carry, as by a model of single lines; None for none.
  Returns:
    (tokens [N, B], carries after reading all but the last of them).
  Raises:
    TypeError, ValueError: as `choose`.
  """
  checks.integer("num_steps", num_steps)
  apply: Callable[..., Any] = model.apply
  pick: Callable[..., Array] = functools.partial(choose, temperature=temperature, top_k=top_k)

  def body(old: tuple[Any, Array, Array], i: Array) -> tuple[Any, Array]:
    carries, token, ended = old
    resets = None if reset_at is None else (token == reset_at)[None]
    carries, logits = apply(variables, token[None], carries, resets=resets)
    token = pick(jax.random.fold_in(key, i), logits[0])
    if eos is not None:
      token = jnp.where(ended, jnp.full_like(token, eos), token)
      ended = ended | (token == eos)
    return (carries, token, ended), token

  # Not `unroll`: each step reads the token that the step before it generated.
  start: Any = (tuple(carries), jnp.asarray(token, jnp.int32), jnp.zeros(jnp.shape(token), bool))
  last, tokens = jax.lax.scan(body, start, jnp.arange(num_steps, dtype=jnp.int32))
  return tokens, last[0]


def decode(
  model: ConditionedDecoder | EncoderDecoder,
  variables: Any,
  xs: DecoderInputs,
  key: Array,
  num_steps: int,
  *,
  eos: int,
  **options: Any,
) -> Array:
  """Generates a sequence for each source, from the start token `eos` to the final `eos`.

  Args:
    model: the network.
    variables: of the model.
    xs: the sources; `tokens` is not read.
    key: random key.
    num_steps: N, steps after which a sequence ends in any case.
    eos: the token that starts and ends a sequence.
    **options: temperature and top_k, as `choose` takes them.
  Returns:
    Tokens [N, B]; from the first `eos` on all are `eos`.
  """
  carries: Any = model.apply(variables, xs, method="decoder_carries")
  decoder = {"params": variables["params"]["decoder"]}
  first = jnp.full(jax.tree.leaves(carries)[0].shape[:1], eos, jnp.int32)
  tokens, _ = generate(model.decoder, decoder, carries, first, key, num_steps, eos=eos, **options)
  return tokens
