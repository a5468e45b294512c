"""A language model's losses, formatted as text and as entries of metrics.jsonl."""

from __future__ import annotations

import jax.numpy as jnp

from experiments.language_model.settings import CHARACTERS, Settings
from experiments.language_model.training import Evaluation
from rnn_jax.losses import bits, perplexity


def metrics(evaluation: Evaluation, settings: Settings) -> dict[str, int | float | None]:
  """Returns an evaluation as an entry of metrics.jsonl, with perplexity and bits per character."""
  entry = evaluation._asdict()
  del entry["params"]
  if evaluation.validation_loss is None:
    del entry["validation_loss"]
  loss = jnp.float32(evaluation.selection_loss)
  entry["perplexity"] = float(perplexity(loss))
  if settings.level == CHARACTERS:
    entry["bits_per_character"] = float(bits(loss))
  return entry


def loss_text(loss: float, settings: Settings) -> str:
  """Formats a loss in nats, in bits per token and as perplexity."""
  token, value = token_name(settings), jnp.float32(loss)
  return (
    f"{loss:.4f} nats, {float(bits(value)):.4f} bits per {token}, "
    f"perplexity {float(perplexity(value)):.4g}"
  )


def token_name(settings: Settings) -> str:
  """Returns what a token is called: `character` or `word`."""
  return "character" if settings.level == CHARACTERS else "word"
