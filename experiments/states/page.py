"""The page of hidden states: one HTML file with text, values, saliency and ranking.

Saliency is the norm of the gradient of each loss with respect to each of the inputs before it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.states.unit_search import Match
from experiments.states.unit_values import Quantity

TEMPLATE, SCRIPT = (Path(__file__).with_suffix(kind) for kind in (".html", ".js"))
MAX_VALUES = 6_000_000  # largest number of values on a page; each takes 4/3 bytes in base64
DECADES = 2  # saliency is shown down to this many decades below each loss's largest value
_TYPICAL = 0.98  # fraction of a unit's values that are within the range of the color scale


def page(
  title: str,
  about: str,
  token: str,
  pieces: Sequence[str],
  quantities: Sequence[Quantity],
  losses: Float[np.ndarray, " T"],
  saliency: Float[np.ndarray, "T reach"],
  matches: Sequence[Match],
  method: str,
  rules: str,
  legends: Mapping[str, str],
) -> str:
  """Returns a self-contained HTML page, which loads no other file and needs no network.

  Text and names enter the page as data, never as HTML: the file contains them as JSON without `<`,
  and the script displays them as plain text. Values are rounded to 1/255 of their range, which is
  from 0 to 1 for a gate, and from −a to a for any other unit, where a is its largest absolute
  value. If the page cannot hold all units, it holds the matches' units and as many others as fit.

  Args:
    title: title of the page.
    about: description of the model.
    token: what a token is called: `character` or `word`.
    pieces: the text of each of the T tokens.
    quantities: values of all units and gates.
    losses: loss on the token after each of the T tokens, in nats.
    saliency: ‖dL_t/dx_{t−k}‖ for each step t and lag k; NaN where t − k is negative.
    matches: the units that the search found.
    method: description of the search.
    rules: says where the features come from.
    legends: what each feature is, by the feature's name.
  Returns:
    The HTML.
  """
  shown = max(1, MAX_VALUES // (len(pieces) * len(quantities)))
  data = {
    "title": title,
    "about": about,
    "help": f"Click a {token} to see what the loss that follows it depends on: the bars below the "
    f"text show ‖dL/dx‖ of each {token} before it, on a logarithmic scale of {DECADES} decades "
    "below the largest. Click again to hide the bars. The arrow keys switch units.",
    "hint": f"Point at a {token} to see its value. Click it to see what the loss that follows it "
    "depends on.",
    "method": method,
    "rules": rules,
    "legends": legends,
    "token": token,
    "pieces": list(pieces),
    "losses": [round(float(loss), 4) for loss in losses],
    "quantities": [_packed(quantity, _units(quantity, matches, shown)) for quantity in quantities],
    "saliency": _packed_saliency(saliency),
    "matches": [match._asdict() for match in matches],
  }
  text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
  template, script = (path.read_text(encoding="utf-8") for path in (TEMPLATE, SCRIPT))
  return template.replace("{{script}}", script).replace("{{data}}", text)


def _units(quantity: Quantity, matches: Sequence[Match], shown: int) -> list[int]:
  """Returns the indices of a quantity's units that are on the page, in ascending order.

  These are the units of the matches, plus the first remaining units up to a total of `shown`.
  """
  total = quantity.values.shape[1]
  first = dict.fromkeys([match.unit for match in matches if match.quantity == quantity.name])
  return sorted([*first, *(i for i in range(total) if i not in first)][: max(shown, len(first))])


def _packed(quantity: Quantity, units: Sequence[int]) -> Mapping[str, object]:
  """Returns the values of some of a quantity's units, and the range of each unit, as JSON data."""
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


def _packed_saliency(saliency: Float[np.ndarray, "T reach"]) -> Mapping[str, object]:
  """Returns the saliency as JSON data, on a logarithmic scale from 0 to 1 for each loss.

  1 stands for the loss's largest norm, and 0 for at most 10^-DECADES of that.
  """
  norms = np.nan_to_num(np.asarray(saliency, np.float64))
  largest = norms.max(axis=1)
  relative = norms / np.where(largest > 0, largest, 1)[:, None]
  return {
    "reach": saliency.shape[1],
    "decades": DECADES,
    "largest": _rounded(largest),
    "values": _base64(1 + np.log10(np.maximum(relative, 10.0**-DECADES)) / DECADES),
  }


def _rounded(numbers: Float[np.ndarray, " N"]) -> list[float]:
  return [float(f"{a:.4g}") for a in numbers]


def _base64(shares: Float[np.ndarray, ...]) -> str:
  """Returns numbers from 0 to 1 in base64, with one byte for each number, row by row."""
  steps = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
  return base64.b64encode(steps.tobytes()).decode("ascii")
