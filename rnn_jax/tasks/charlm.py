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

  The baseline loss is that of predicting every character with its frequency in the text: the
  unigram entropy −Σ p ln p.

  Args:
    sequence_length: T, less than the text's number of characters.
    batch_size: B.
    corpus: the text, from `load_corpus`; the source of Python's standard library if None.
  Returns:
    The Task, whose batches have tokens [T, B], and targets [T, B]: the tokens one step later.
  Raises:
    TypeError, ValueError: if an argument is out of range, or the text has at most T characters.
  """
  checks.integer("sequence_length", sequence_length)
  checks.integer("batch_size", batch_size)
  corpus = (
    load_corpus() if corpus is None else checks.instance("corpus", corpus, Corpus, "load_corpus")
  )
  if len(corpus.text) <= sequence_length:
    raise ValueError(
      f"sequence_length must be below the {len(corpus.text)} characters of corpus "
      f"{corpus.name}, got {sequence_length}."
    )

  def batch(tokens: UInt8[AnyArray, " N"], key: Key[Array, ""]) -> Batch:
    starts = jax.random.randint(key, (batch_size,), 0, tokens.shape[0] - sequence_length)
    positions = jnp.arange(sequence_length + 1)[:, None] + starts[None]
    window = jnp.asarray(tokens)[positions].astype(jnp.int32)
    return Batch(window[:-1], window[1:], jnp.ones((sequence_length, batch_size), bool))

  tokens, size = corpus.tokens, corpus.vocabulary.size
  baseline = entropy(histogram(tokens, size))
  return Task(tokens, batch, cross_entropy, "nats per character", baseline, size, size)
