"""Features of a text that a unit may track, such as quotes, comments, brackets, math and lines."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from experiments.states.languages import LANGUAGES

_SEPARATE = re.compile(r"[^\w\s] ")  # a punctuation mark in a text of words


def text_features(pieces: Sequence[str], language: str) -> dict[str, Float[np.ndarray, " T"]]:
  """Returns the features of a text after each of its pieces.

  No feature looks ahead, so that a network that reads the text could know all of them: an opening
  quote counts as inside, a closing one as outside. Any text is accepted, even one that begins in
  the middle of a file; its beginning is assumed to be outside of strings, comments and brackets.
  A carriage return or a combining mark leaves the features unchanged.

  Args:
    pieces: the text, character by character, or word by word with the space after each word. A text
      of words has no indentation, and no word ends inside a name or number. The space after a
      punctuation mark is ignored, so that `/ /` starts a comment in C. Python's rules keep the
      space, so a text of words has no triple quotes.
    language: a name in LANGUAGES.
  Returns:
    The values of each feature by its name; 0 or 1, except for depth, position and indentation.
  """
  rules = LANGUAGES[language]
  if language != "python":
    pieces = [piece[0] if _SEPARATE.fullmatch(piece) else piece for piece in pieces]
  scanner = rules.scanner()
  row: Mapping[str, bool | int | float] = dict.fromkeys(rules.legends, 0.0)
  rows = [list(row.values())]
  for c in "".join(pieces):
    if c != "\r" and not unicodedata.category(c).startswith("M"):
      row = scanner.read(c)
    rows.append([row[name] for name in rules.legends])
  ends = np.cumsum([len(piece) for piece in pieces], dtype=int)
  return dict(zip(rules.legends, np.array(rows, float)[ends].T, strict=True))
