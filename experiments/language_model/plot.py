"""A language model's loss over its training, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure

from experiments.language_model.settings import CHARACTERS, Settings
from experiments.plotting import style
from experiments.runtime import files


def save(lines: Sequence[dict[str, Any]], baseline: float, settings: Settings, path: Path) -> Path:
  """Draws the lines of metrics.jsonl.

  Args:
    lines: the evaluations.
    baseline: loss of who knows only how often each token occurs, in nats.
    settings: of the model.
    path: of the PNG.
  Returns:
    The path.
  """
  figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
  axis = figure.subplots()
  steps = [line["step"] for line in lines]
  axis.plot(steps, [line["loss"] for line in lines], ".-", label="training")
  if "validation_loss" in lines[0]:
    axis.plot(steps, [line["validation_loss"] for line in lines], ".-", label="held out")
  axis.axhline(baseline, color=style.GREY, ls=":", label="by frequency alone")
  per = "character" if settings.level == CHARACTERS else "word"
  axis.set_xlabel("update")
  axis.set_ylabel(f"nats per {per}")
  right = axis.secondary_yaxis("right", functions=(_bits, _nats))
  right.set_ylabel(f"bits per {per}")
  axis.legend(frameon=False)
  layers = settings.layers
  axis.set_title(f"{layers.cell}, {layers.depth} × {layers.hidden_size} units", loc="left")
  with files.replacing(path) as draft:
    figure.savefig(draft, format="png", dpi=120)
  return path


def _bits(nats: Any) -> Any:
  return nats / math.log(2)


def _nats(bits: Any) -> Any:
  return bits * math.log(2)
