"""Figures and tables that can be made again, one a file; FIGURES names them."""

from experiments.figures import f3_influence_balancing
from experiments.figures.figure import Figure

FIGURES: dict[str, Figure] = {
  "F3": f3_influence_balancing.figure,
}
