"""Autoregressive sampling: each generated token is the next input."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, PyTree

from rnn_jax import checks
from rnn_jax.modules import ConditionedDecoder, DecoderInputs, DeepRNN, EncoderDecoder
from rnn_jax.parallel import vary_alike
from rnn_jax.types import Carry, Number


def choose(
  key: Key[Array, ""],
  logits: Float[Array, "*batch V"],
  temperature: Number = 1.0,
  top_k: int | None = None,
) -> Int[Array, "*batch"]:
  """Draws a token from its logits.

    p = softmax(logits / τ) over the k largest logits      τ = 0: the largest logit ("greedy")

  Args:
    key: random key.
    logits: [..., V].
    temperature: τ, at least 0; a number or a traced scalar. A τ below the smallest normal float
      counts as 0.
    top_k: k, from 1 to V; None for all. Ties with the k-th largest logit are kept.
  Returns:
    Tokens [...], int32.
  Raises:
    TypeError, ValueError: if the logits are not floats or have no vocabulary axis, if the
      temperature is not a number of at least 0, or if top_k is out of range.
  """
  checks.key("key", key)
  logits = checks.array("logits", logits, "floats")
  if logits.ndim == 0 or logits.shape[-1] == 0:
    raise ValueError(f"logits must be [..., V] with V at least 1, got {list(logits.shape)}.")
  checks.number("temperature", temperature, minimum=0)
  if top_k is not None:
    checks.integer("top_k", top_k)
    if top_k > logits.shape[-1]:
      raise ValueError(
        f"top_k must be at most the vocabulary's {logits.shape[-1]} tokens, got {top_k}."
      )
  greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  tiny = float(jnp.finfo(logits.dtype).tiny)
  largest = 1 / tiny
  traced = isinstance(temperature, jax.core.Tracer)
  # XLA may multiply by 1 / τ instead of dividing. If 1 / τ were 0, logits of −inf would become NaN.
  if traced:
    temperature = jnp.minimum(jnp.asarray(temperature, logits.dtype), largest)
  else:
    temperature = min(float(temperature), largest)
    if temperature < tiny:
      return greedy
  if top_k is not None:
    least = jax.lax.top_k(logits, top_k)[0][..., -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  # Subtract the maximum first, because dividing by a tiny τ could otherwise overflow several logits
  # to inf and make them equally likely.
  logits = logits - jnp.max(logits, axis=-1, keepdims=True)
  drawn = jax.random.categorical(key, logits / temperature).astype(jnp.int32)
  return jnp.where(temperature < tiny, greedy, drawn) if traced else drawn


def generate(
  model: DeepRNN,
  variables: PyTree,
  carries: Sequence[Carry],
  token: ArrayLike,
  key: Key[Array, ""],
  num_steps: int,
  *,
  temperature: Number = 1.0,
  top_k: int | None = None,
  eos: int | None = None,
  reset_at: int | None = None,
) -> tuple[Int[Array, "N B"], tuple[Carry, ...]]:
  """Generates tokens one after another, each by one step of the model.

    carries_t, logits_t = model(token_t, carries_{t−1})      token_{t+1} = choose(logits_t)

  To continue, call again with the last token, the returned carries and another key.

  Args:
    model: the network, whose outputs are logits of the next token.
    variables: the model's variables.
    carries: each layer's carry before `token` is read.
    token: [B], the token before the first generated one.
    key: random key.
    num_steps: N, number of tokens to generate.
    temperature, top_k: see `choose`.
    eos: the token that ends a sequence. All tokens after it are `eos`, too. None if no token ends a
      sequence.
    reset_at: a token. Before the model reads it, the carry is reset to zeros, as in training on
      lines that start with this token. None for no resets.
  Returns:
    (tokens [N, B], carries after reading all tokens but the last).
  Raises:
    TypeError, ValueError: if `token` is not tokens [B] of the vocabulary, if `num_steps` is not an
      integer of at least 1, or if an option is out of range.
  """
  checks.instance("model", model, DeepRNN)
  checks.per_layer("carries", carries, len(model.cells))
  checks.key("key", key)
  checks.integer("num_steps", num_steps)
  for name, value in (("eos", eos), ("reset_at", reset_at)):
    if value is not None:
      checks.integer(name, value, minimum=0)
      if model.vocabulary_size is not None and value >= model.vocabulary_size:
        raise ValueError(
          f"{name} must be below the vocabulary's {model.vocabulary_size} tokens, got {value}."
        )
  token = checks.array("token", token, "integers")
  if token.ndim != 1 or token.size == 0:
    raise ValueError(f"token must be [B] with B at least 1, got {list(token.shape)}.")
  if model.vocabulary_size is not None:
    checks.tokens("token", token, model.vocabulary_size)
  apply: Callable[..., Any] = model.apply
  pick = functools.partial(choose, temperature=temperature, top_k=top_k)
  State = tuple[tuple[Carry, ...], Array, Array]

  def body(old: State, i: Int[Array, ""]) -> tuple[State, Int[Array, " B"]]:
    carries, token, ended = old
    resets = None if reset_at is None else (token == reset_at)[None]
    carries, logits = apply(variables, token[None], carries, resets=resets)
    token = pick(jax.random.fold_in(key, i), logits[0])
    if eos is not None:
      token = jnp.where(ended, jnp.full_like(token, eos), token)
      ended = ended | (token == eos)
    return (carries, token, ended), token

  # `unroll` cannot run this loop, since each step reads the token that the previous step generated.
  start = vary_alike((tuple(carries), token.astype(jnp.int32), jnp.zeros(token.shape, bool)))
  last, tokens = jax.lax.scan(body, start, jnp.arange(num_steps, dtype=jnp.int32))
  return tokens, last[0]


def decode(
  model: ConditionedDecoder | EncoderDecoder,
  variables: PyTree,
  xs: DecoderInputs,
  key: Key[Array, ""],
  num_steps: int,
  *,
  eos: int,
  temperature: Number = 1.0,
  top_k: int | None = None,
) -> Int[Array, "N B"]:
  """Generates a sequence for each source, from the start token `eos` to the final `eos`.

  Args:
    model: the network.
    variables: the model's variables.
    xs: the sources. Their `tokens` are not read.
    key: random key.
    num_steps: N, number of tokens to generate. A sequence that has no `eos` by then is cut off.
    eos: the token that starts and ends a sequence.
    temperature, top_k: see `choose`.
  Returns:
    Tokens [N, B]; all tokens after the first `eos` are `eos`.
  Raises:
    TypeError, ValueError: if the model is neither of these two decoders, if `xs` are not
      `DecoderInputs`, or if `generate` does not accept an option.
  """
  if not isinstance(model, ConditionedDecoder | EncoderDecoder):
    raise TypeError(
      f"model must be a ConditionedDecoder or an EncoderDecoder, got {checks.shown(model)}."
    )
  checks.instance("xs", xs, DecoderInputs)
  checks.integer("eos", eos, minimum=0)
  carries: Sequence[Carry] = model.apply(variables, xs, method="decoder_carries")
  decoder = {"params": variables["params"]["decoder"]}
  first = jnp.full(jax.tree.leaves(carries)[0].shape[:1], eos, jnp.int32)
  tokens, _ = generate(
    model.decoder,
    decoder,
    carries,
    first,
    key,
    num_steps,
    eos=eos,
    temperature=temperature,
    top_k=top_k,
  )
  return tokens
