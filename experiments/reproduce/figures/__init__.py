"""Figures and tables that can be reproduced, one per module; FIGURES maps their names to them."""

from experiments.reproduce.figure import Figure
from experiments.reproduce.figures import (
  f1_cells,
  f2_gain,
  f3_influence_balancing,
  f4_chaos,
  f5_truncation,
  f6_error_surface,
  f7_curse_of_memory,
  f8_depth,
  f9_batch_normalization,
  f10_every_cell,
  f11_gaussian_products,
  f18_estimators,
  f24_precision,
  f25_newton_in_time,
  t1_adding,
  t2_temporal_order,
  t3_copy_memory,
  t4_character_model,
)

FIGURES: dict[str, Figure] = {
  "F1": f1_cells.figure,
  "F2": f2_gain.figure,
  "F3": f3_influence_balancing.figure,
  "F4": f4_chaos.figure,
  "F5": f5_truncation.figure,
  "F6": f6_error_surface.figure,
  "F7": f7_curse_of_memory.figure,
  "F8": f8_depth.figure,
  "F9": f9_batch_normalization.figure,
  "F10": f10_every_cell.figure,
  "F11": f11_gaussian_products.figure,
  "F18": f18_estimators.figure,
  "F24": f24_precision.figure,
  "F25": f25_newton_in_time.figure,
  "T1": t1_adding.figure,
  "T2": t2_temporal_order.figure,
  "T3": t3_copy_memory.figure,
  "T4": t4_character_model.figure,
}
