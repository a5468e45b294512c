"""The figure of a language model's loss curve, training.png."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure

from experiments.language_model.report import token_name
from experiments.language_model.settings import Settings
from experiments.plotting import style
from experiments.runtime import files


def save(
  entries: Sequence[dict[str, Any]], baseline: float, settings: Settings, path: Path
) -> Path:
  """Plots the losses of batches and text against the number of updates, in nats and bits per token.

  Args:
    entries: the entries of metrics.jsonl.
    baseline: loss in nats of always predicting the tokens' frequencies, drawn as a dotted line.
    settings: the model's settings.
    path: path of the PNG file to write.
  Returns:
    `path`.
  """
  figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
  axis = figure.subplots()
  steps = [entry["step"] for entry in entries]
  axis.plot(steps, [entry["loss"] for entry in entries], ".-", label="training batches")
  for name, label in (("validation_loss", "held out"), ("training_text_loss", "training text")):
    if name in entries[0]:
      axis.plot(steps, [entry[name] for entry in entries], ".-", label=label)
  axis.axhline(baseline, color=style.GRAY, ls=":", label="token frequencies alone")
  token = token_name(settings)
  axis.set_xlabel("update")
  axis.set_ylabel(f"nats per {token}")
  to_bits = (lambda nats: nats / math.log(2)), (lambda bits: bits * math.log(2))
  axis.secondary_yaxis("right", functions=to_bits).set_ylabel(f"bits per {token}")
  axis.legend(frameon=False)
  layers = settings.layers
  axis.set_title(f"{layers.cell}, {layers.depth} × {layers.hidden_size} units", loc="left")
  with files.replacing(path) as draft:
    figure.savefig(draft, format="png", dpi=120)
  return path
