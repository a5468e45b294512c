"""Figures and tables that can be made again, one a file; FIGURES names them."""

from experiments.figures import (
  f3_influence_balancing,
  f8_depth,
  f9_batch_normalization,
  t1_adding,
  t3_copy_memory,
  t4_character_model,
)
from experiments.figures.figure import Figure

FIGURES: dict[str, Figure] = {
  "F3": f3_influence_balancing.figure,
  "F8": f8_depth.figure,
  "F9": f9_batch_normalization.figure,
  "T1": t1_adding.figure,
  "T3": t3_copy_memory.figure,
  "T4": t4_character_model.figure,
}
