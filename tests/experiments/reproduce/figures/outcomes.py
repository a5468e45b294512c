"""What tests read off the outcome of a figure."""

from __future__ import annotations

import matplotlib.figure


def draws(outcome):
  """Draws an outcome's picture, and returns whether it has axes."""
  figure = matplotlib.figure.Figure(layout="constrained")
  outcome.draw(figure)
  return bool(figure.axes)


def by_name(outcome):
  return {check.name: check for check in outcome.checks}
