"""Figures and tables that can be made again, one a file; FIGURES names them."""

from experiments.figures import (
  f1_cells,
  f2_gain,
  f3_influence_balancing,
  f4_chaos,
  f6_error_surface,
  f7_curse_of_memory,
)
from experiments.figures.figure import Figure

FIGURES: dict[str, Figure] = {
  "F1": f1_cells.figure,
  "F2": f2_gain.figure,
  "F3": f3_influence_balancing.figure,
  "F4": f4_chaos.figure,
  "F6": f6_error_surface.figure,
  "F7": f7_curse_of_memory.figure,
}
