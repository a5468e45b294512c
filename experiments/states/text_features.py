"""What there is to keep track of in a text: quotes, comments, brackets, lines, indentation."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

FEATURES = (
  "inside quotes",
  "inside triple quotes",
  "inside a comment",
  "inside brackets",
  "bracket depth",
  "position in the line",
  "indentation",
  "inside a name",
  "inside a number",
)

_LINE = 80  # characters that count as 1 in the position
_INDENT = 4  # columns of a level, and of a tab
_STRING_PREFIX = re.compile("[bfrtu]{0,2}", re.IGNORECASE)


def text_features(pieces: Sequence[str]) -> dict[str, np.ndarray]:
  """What holds after each piece of a text, as far as the text has come by then.

  Nothing looks ahead, so that a network that reads the text could know it all: an opening quote is
  inside, a closing one outside. The rules are Python's, kept loosely: any text will do, and it may
  begin and end anywhere; it counts as beginning outside of everything. A string of one line ends
  with it at the latest; an apostrophe in a word, as in don't, opens none. Position and indentation
  are in lines of 80 characters (at most 1) and in levels of 4 columns.

  Args:
    pieces: the text, character by character, or word by word with the space behind it; then
      there is no indentation, no triple quote, and nothing that ends inside a name or number.
  Returns:
    {name: float64 [len(pieces)]}, 0 or 1 but for depth, position and indentation.
  """
  scanned = np.array([[0.0] * len(FEATURES), *_scan("".join(pieces))])
  ends = np.cumsum([len(piece) for piece in pieces], dtype=int)
  return dict(zip(FEATURES, scanned[ends].T, strict=True))


def _scan(text: str) -> list[tuple[float, ...]]:
  """FEATURES after each character."""
  rows: list[tuple[float, ...]] = []
  quote = word = ""  # what closes the string; the name or number, so far
  comment = escaped = False
  depth = column = indentation = same = 0  # same: quotes in a row that may close three
  # Where a string began, and where one without a character ended: it may have opened three quotes.
  opened = empty = -1
  leading = True
  for i, c in enumerate(text):
    if comment:
      comment = c != "\n"
    elif quote:
      same = same + 1 if c == quote[0] and not escaped else 0
      if same == len(quote) or (c == "\n" and len(quote) == 1 and not escaped):
        empty = i if c == quote and i == opened + 1 else -1
        quote = ""
      escaped = c == "\\" and not escaped
    elif c == "#":
      comment = True
    elif c == '"' or (c == "'" and _STRING_PREFIX.fullmatch(word)):
      quote = 3 * c if empty == i - 1 and text[i - 1 : i] == c else c
      opened, same, escaped = i, 0, False
    elif c in "([{":
      depth += 1
    elif c in ")]}":
      depth = max(depth - 1, 0)
    in_code = not quote and not comment
    continues = c.isalnum() or c == "_" or (c == "." and word[:1].isdigit())
    word = word + c if in_code and continues else ""
    leading = c == "\n" or (leading and c in " \t")
    column = 0 if c == "\n" else column + 1
    if c == "\n":
      indentation = 0
    elif leading:
      indentation += _INDENT - indentation % _INDENT if c == "\t" else 1
    number = word[:1].isdigit()
    rows.append(
      (
        bool(quote),
        len(quote) == 3,
        comment,
        depth > 0,
        depth,
        min(column / _LINE, 1),
        indentation / _INDENT,
        bool(word) and not number,
        number,
      )
    )
  return rows
