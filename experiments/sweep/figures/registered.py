"""The figures that users add by `experiments.register_figure`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.sweep.measures.table import MEASURES, OTHER_FIGURES
from rnn_jax import checks, registry

if TYPE_CHECKING:
  from matplotlib.figure import Figure

# {name: function that draws the figure}. Arguments and result are those of `register_figure`.
FIGURES: dict[str, Callable[..., Figure | None]] = {}


def register_figure(draw: Callable[..., Any]) -> Callable[..., Any]:
  """Adds a figure to `FIGURES`; `experiments.register_figure` describes it."""
  checks.function("draw", draw)
  name = getattr(draw, "__name__", "")
  if name in (*OTHER_FIGURES, *MEASURES):
    raise ValueError(f"name of a figure must be free, got {name!r}, which another figure has.")
  registry.register("figure", FIGURES, name, draw, draw)
  return draw
