"""Generation of text with a trained language model."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer, Key

from experiments.language_model.settings import LINES
from experiments.language_model.trained_model import TrainedModel
from rnn_jax.sampling import generate

_CHUNK = 100  # tokens per call of the compiled program


def sample(
  trained: TrainedModel,
  prime: bytes,
  length: int,
  key: Key[Array, ""],
  *,
  temperature: float = 1.0,
  top_k: int | None = None,
  until_eos: bool = False,
) -> Iterator[bytes]:
  """Continues a text with tokens that a model generates, one time step per token.

  A model trained on single lines (`reading="lines"`) starts each line from a new carry, as in
  training.

  Args:
    trained: the trained model.
    prime: the text to continue; if empty, the sample starts a new line.
    length: largest number of tokens to generate.
    key: random key.
    temperature: number by which the logits are divided; 0 always takes the likeliest token.
    top_k: number of likeliest tokens to draw from; None for all.
    until_eos: whether to stop after the first `<eos>`, the end of a line.
  Yields:
    The prime text, then the generated text, piece by piece.
  Raises:
    ValueError: if the model's vocabulary does not fit `prime`, `top_k` or `until_eos`; the message
      names the flag, the rule and the value.
  """
  vocabulary = trained.vocabulary
  if top_k is not None and top_k > vocabulary.size:
    raise ValueError(
      f"--top_k must be at most the vocabulary's {vocabulary.size} tokens, got {top_k}."
    )
  if vocabulary.eos is None and (until_eos or not prime):
    flag, given = ("until_eos", "true") if until_eos else ("prime", "''")
    raise ValueError(
      f"--{flag} needs a model whose training text contains a line end, got {given}."
    )
  try:
    tokens = vocabulary.encode(prime)
  except ValueError as error:
    raise ValueError(f"--prime must consist of characters of the training text: {error}") from None
  yield vocabulary.decode(tokens)
  if len(tokens) == 0 or trained.settings.reading == LINES:
    tokens = np.array([vocabulary.eos, *tokens])
  before = tokens[-1:]
  for new in _generated(trained, tokens, length, key, temperature, top_k):
    is_end = until_eos and vocabulary.eos in new
    if is_end:
      new = new[: list(new).index(vocabulary.eos) + 1]
    # Decoded together with the previous token, because that token determines whether a space comes
    # before the first word.
    text = vocabulary.decode(np.concatenate([before, new]))
    yield text[len(vocabulary.decode(before)) :]
    before = new[-1:]
    if is_end:
      return


def _generated(
  trained: TrainedModel,
  tokens: Integer[np.ndarray, " prime"],
  length: int,
  key: Key[Array, ""],
  temperature: float,
  top_k: int | None,
) -> Iterator[Integer[np.ndarray, " chunk"]]:
  """Runs the model over `tokens` (at least one), and yields `length` generated tokens in chunks."""
  model, variables = trained.model, trained.variables
  reset_at = trained.vocabulary.eos if trained.settings.reading == LINES else None
  read = jnp.asarray(tokens, jnp.int32)[:, None]
  carries: Any = model.initial_carries(1)
  if len(read) > 1:
    resets = None if reset_at is None else read[:-1] == reset_at
    carries, _ = jax.jit(model.apply)(variables, read[:-1], carries, resets=resets)
  options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "reset_at": reset_at}
  step = jax.jit(functools.partial(generate, model, num_steps=_CHUNK, **options))
  last = read[-1]
  for i in range(-(-length // _CHUNK)):
    new, carries = step(variables, carries, last, jax.random.fold_in(key, i))
    last = new[-1]
    yield np.asarray(new)[: length - i * _CHUNK, 0]
