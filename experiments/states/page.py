"""The page of hidden states: one HTML file that holds text, values, saliency and ranking."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.states.unit_search import Found
from experiments.states.unit_values import Quantity

TEMPLATE, SCRIPT = (Path(__file__).with_suffix(kind) for kind in (".html", ".js"))
MAX_VALUES = 6_000_000  # a byte each, 4/3 of it in the file
DECADES = 2  # of saliency that are shown
_TYPICAL = 0.98  # share of a unit's values inside the range of colours


def page(
  title: str,
  about: str,
  piece: str,
  pieces: Sequence[str],
  quantities: Sequence[Quantity],
  losses: np.ndarray,
  saliency: np.ndarray,
  found: Sequence[Found],
  method: str,
) -> str:
  """One HTML file that needs nothing else: no network, no other file.

  What comes from the text or the model gets into the page as data, never as HTML: inside the file
  as JSON without a `<`, on the screen as plain text. Values are kept in steps of 1/255 of their
  range: a gate's is from 0 to 1, any other unit's from −a to a, a its own largest absolute value.
  Where there are too many units for a page, it holds those that were found and then the first.

  Args:
    title: of the page.
    about: what the model is.
    piece: what a piece of the text is called: `character`, `word`.
    pieces: of the text, T of them.
    quantities: values [T, units].
    losses: [T], nats.
    saliency: [T, reach]; NaN where there is nothing.
    found: by the search.
    method: how it was found.
  Returns:
    The HTML.
  """
  shown = max(1, MAX_VALUES // (len(pieces) * len(quantities)))
  data = {
    "title": title,
    "about": about,
    "help": f"Click a {piece} to see what the loss after it depends on: the bars beneath the text "
    f"are ‖dL/dx‖ of each {piece} before it, on a logarithmic scale of {DECADES} decades, full "
    "height for the largest; click again to end that. Arrow keys go from unit to unit.",
    "hint": f"Point at a {piece} for its value, click it for what the loss after it depends on.",
    "method": method,
    "piece": piece,
    "pieces": list(pieces),
    "losses": [round(float(loss), 4) for loss in losses],
    "quantities": [_packed(quantity, _units(quantity, found, shown)) for quantity in quantities],
    "saliency": _packed_saliency(saliency),
    "found": [f._asdict() for f in found],
  }
  text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
  template, script = (path.read_text(encoding="utf-8") for path in (TEMPLATE, SCRIPT))
  return template.replace("{{script}}", script).replace("{{data}}", text)


def _units(quantity: Quantity, found: Sequence[Found], shown: int) -> list[int]:
  """The units that the page holds, in order."""
  total = quantity.values.shape[1]
  first = dict.fromkeys([f.unit for f in found if f.quantity == quantity.name])
  return sorted([*first, *(i for i in range(total) if i not in first)][: max(shown, len(first))])


def _packed(quantity: Quantity, units: Sequence[int]) -> Mapping[str, Any]:
  values = np.asarray(quantity.values, np.float64)[:, units]
  largest = np.abs(values).max(axis=0)
  scaled = values if quantity.gate else 0.5 + 0.5 * values / np.where(largest > 0, largest, 1)
  return {
    "name": quantity.name,
    "gate": quantity.gate,
    "units": list(units),
    "total": quantity.values.shape[1],
    "largest": _rounded(largest),
    "typical": _rounded(np.quantile(np.abs(values), _TYPICAL, axis=0)),
    "values": _base64(scaled.T),
  }


def _packed_saliency(saliency: np.ndarray) -> Mapping[str, Any]:
  """Logarithms, from 0 for 10^-DECADES of the step's largest norm to 1 for that norm."""
  norms = np.nan_to_num(np.asarray(saliency, np.float64))
  largest = norms.max(axis=1)
  relative = norms / np.where(largest > 0, largest, 1)[:, None]
  return {
    "reach": saliency.shape[1],
    "decades": DECADES,
    "largest": _rounded(largest),
    "values": _base64(1 + np.log10(np.maximum(relative, 10.0**-DECADES)) / DECADES),
  }


def _rounded(numbers: np.ndarray) -> list[float]:
  return [float(f"{a:.4g}") for a in numbers]


def _base64(shares: np.ndarray) -> str:
  """Numbers from 0 to 1, a byte each, row by row."""
  steps = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
  return base64.b64encode(steps.tobytes()).decode("ascii")
