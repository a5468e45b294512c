"""A language model's losses, formatted as text and as entries of metrics.jsonl."""

from __future__ import annotations

import jax.numpy as jnp

from experiments.language_model.settings import CHARACTERS, Settings
from experiments.language_model.training import Evaluation
from rnn_jax.losses import bits, perplexity


def metrics(evaluation: Evaluation, settings: Settings) -> dict[str, int | float]:
  """Returns an evaluation as an entry of metrics.jsonl, with perplexity and bits per character.

  The loss of the evaluated text is called `validation_loss` or, if nothing is held out,
  `training_text_loss`. Perplexity and bits are those of this loss.
  """
  name = "validation_loss" if settings.validation_share > 0 else "training_text_loss"
  entry: dict[str, int | float] = {
    "step": evaluation.step,
    "loss": evaluation.loss,
    "grad_norm": evaluation.grad_norm,
    name: evaluation.text_loss,
    "seconds": evaluation.seconds,
  }
  loss = jnp.float32(evaluation.text_loss)
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
