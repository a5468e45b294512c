"""What a trained language model writes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.language_model.settings import LINES
from experiments.language_model.trained_model import Trained
from rnn_jax.sampling import generate
from rnn_jax.types import Array

_AT_A_TIME = 100  # tokens of a call


def sample(
  trained: Trained,
  prime: bytes,
  length: int,
  key: Array,
  *,
  temperature: float = 1.0,
  top_k: int | None = None,
  until_eos: bool = False,
) -> Iterator[bytes]:
  """Writes on from a text, one step of the cells a token.

  A model that was trained on single lines begins each with a new carry here too.

  Args:
    trained: the model.
    prime: the text; where it is empty, a new line begins.
    length: tokens to write, at most.
    key: random key.
    temperature: as `rnn_jax.sampling.choose` takes it.
    top_k: the same.
    until_eos: end with the first `<eos>`.
  Yields:
    The prime text, then what is written, piece by piece.
  Raises:
    ValueError: naming --prime, --top_k or --until_eos, the rule and what came.
  """
  model, vocabulary = trained.model, trained.vocabulary
  if top_k is not None and top_k > vocabulary.size:
    raise ValueError(
      f"--top_k must be at most the vocabulary's {vocabulary.size} tokens, got {top_k}."
    )
  if vocabulary.eos is None and (until_eos or not prime):
    flag, given = ("until_eos", "true") if until_eos else ("prime", "''")
    raise ValueError(f"--{flag} needs a model that has seen a line end, got {given}.")
  try:
    tokens = vocabulary.encode(prime)
  except ValueError as error:
    raise ValueError(f"--prime must be of the model's characters: {error}") from None
  yield vocabulary.decode(tokens)
  reset_at = vocabulary.eos if trained.settings.reading == LINES else None
  if len(tokens) == 0 or reset_at is not None:
    tokens = np.array([vocabulary.eos, *tokens])
  apply: Callable[..., Any] = jax.jit(model.apply)
  read = jnp.asarray(tokens, jnp.int32)[:, None]
  carries = model.initial_carries(1)
  if len(read) > 1:
    resets = None if reset_at is None else read[:-1] == reset_at
    carries, _ = apply(trained.variables, read[:-1], carries, resets=resets)
  options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "reset_at": reset_at}
  step = jax.jit(functools.partial(generate, model, num_steps=_AT_A_TIME, **options))
  token, before = read[-1], tokens[-1:]
  for i in range(-(-length // _AT_A_TIME)):
    new, carries = step(trained.variables, carries, token, jax.random.fold_in(key, i))
    token = new[-1]
    found = np.asarray(new)[: length - i * _AT_A_TIME, 0]
    ended = until_eos and vocabulary.eos in found
    if ended:
      found = found[: list(found).index(vocabulary.eos) + 1]
    # Decoded with the token before: what stands between two words depends on both.
    text = vocabulary.decode(np.concatenate([before, found]))
    yield text[len(vocabulary.decode(before)) :]
    before = found[-1:]
    if ended:
      return
