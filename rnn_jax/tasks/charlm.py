"""The task of a character-level language model on real text."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8

from rnn_jax import checks
from rnn_jax.losses import cross_entropy
from rnn_jax.tasks.task import Batch, Task
from rnn_jax.text import Corpus, entropy, histogram, load_corpus
from rnn_jax.types import AnyArray


def charlm(sequence_length: int, batch_size: int, corpus: Corpus | None = None) -> Task:
  """Builds the character language model's task: predict each next character of random windows.

    L = −(1/T) Σ_t ln p(x_{t+1} | x_1 … x_t)

  The end of the text is held out: its last tenth, but at least T + 1 characters. Training windows
  lie before it, held-out windows within it. The vocabulary is that of the whole text.

  The baseline loss is −Σ p ln p with p the characters' frequencies in the training text: the loss
  of always predicting these.

  Args:
    sequence_length: T. The text must have at least 2 (T + 1) characters.
    batch_size: B.
    corpus: the text, from `load_corpus`; the source of Python's standard library if None.
  Returns:
    The Task, whose batches have tokens [T, B], and targets [T, B]: the tokens one step later.
  Raises:
    TypeError, ValueError: if an argument is out of range, or the text has fewer than
      2 (T + 1) characters.
  """
  checks.integer("sequence_length", sequence_length)
  checks.integer("batch_size", batch_size)
  corpus = (
    load_corpus() if corpus is None else checks.instance("corpus", corpus, Corpus, "load_corpus")
  )
  length = len(corpus.text)
  if length < 2 * (sequence_length + 1):
    raise ValueError(
      f"sequence_length must be below {length // 2}, half of the {length} characters of corpus "
      f"{corpus.name}, so that a window can be held out, got {sequence_length}."
    )

  def batch(tokens: UInt8[AnyArray, " N"], key: Key[Array, ""]) -> Batch:
    if tokens.shape[0] <= sequence_length:
      raise ValueError(
        f"data must have more than sequence_length = {sequence_length} characters, got "
        f"{tokens.shape[0]}."
      )
    starts = jax.random.randint(key, (batch_size,), 0, tokens.shape[0] - sequence_length)
    positions = jnp.arange(sequence_length + 1)[:, None] + starts[None]
    window = jnp.asarray(tokens)[positions].astype(jnp.int32)
    return Batch(window[:-1], window[1:], jnp.ones((sequence_length, batch_size), bool))

  tokens, size = corpus.tokens, corpus.vocabulary.size
  cut = length - max(length // 10, sequence_length + 1)
  train, held_out = tokens[:cut], tokens[cut:]
  baseline = entropy(histogram(train, size))
  return Task(train, held_out, batch, cross_entropy, "nats per character", baseline, size, size)
