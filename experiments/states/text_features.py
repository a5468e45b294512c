"""Features of a text that a unit may track: quotes, comments, brackets, lines, indentation."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

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

_LINE = 80  # `position in the line` is 1 after this many characters
_INDENT = 4  # number of columns of an indentation level, and of a tab
_STRING_PREFIX = re.compile("[bfrtu]{0,2}", re.IGNORECASE)


def text_features(pieces: Sequence[str]) -> dict[str, Float[np.ndarray, " T"]]:
  """Returns the features of a text after each of its pieces.

  No feature looks ahead, so that a network that reads the text could know all of them: an opening
  quote counts as inside, a closing one as outside. The rules are those of Python, but any text is
  accepted, even one that begins in the middle of a file; its beginning is assumed to be outside of
  strings, comments and brackets. A string that is not triple-quoted ends with its line at the
  latest; an apostrophe within a word, as in don't, does not open a string. Position is in units of
  80 characters (at most 1), indentation in levels of 4 columns.

  Args:
    pieces: the text, character by character, or word by word with the space after each word. A text
      of words has no indentation and no triple quotes, and no word ends inside a name or number.
  Returns:
    The values of each feature by its name; 0 or 1, except for depth, position and indentation.
  """
  scanned = np.array([[0.0] * len(FEATURES), *_scan("".join(pieces))])
  ends = np.cumsum([len(piece) for piece in pieces], dtype=int)
  return dict(zip(FEATURES, scanned[ends].T, strict=True))


def _scan(text: str) -> list[tuple[bool | int | float, ...]]:
  """Returns the values of all FEATURES after each character of a text."""
  rows: list[tuple[bool | int | float, ...]] = []
  strings = _Strings()
  word = ""  # the current name or number, as far as it was read
  depth = column = indentation = 0
  leading = True  # whether the current line has only white space so far
  for c in text:
    if strings.read(c, word):
      depth = max(depth + (c in "([{") - (c in ")]}"), 0)
    in_code = not strings.quote and not strings.comment
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
        bool(strings.quote),
        len(strings.quote) == 3,
        strings.comment,
        depth > 0,
        depth,
        min(column / _LINE, 1),
        indentation / _INDENT,
        bool(word) and not number,
        number,
      )
    )
  return rows


class _Strings:
  """A scanner that tracks the strings and comments of a text.

  Attributes:
    quote: the one or three quotes that close the current string; '' outside of strings.
    comment: whether the current character is inside a comment.
  """

  def __init__(self) -> None:
    self.quote = ""
    self.comment = False
    self._escaped = False
    self._num_closing = 0  # number of quotes in a row so far that may close the string
    self._position = -1  # position of the current character
    self._opened = -1  # position of the quote that opened the current string
    self._empty = ""  # the quote, if the last two characters are an empty string; otherwise ''

  def read(self, c: str, word: str) -> bool:
    """Reads the next character, and returns whether it is code, outside of strings and comments.

    Args:
      c: the character.
      word: the name or number directly before it, which may be the prefix of a string.
    """
    self._position += 1
    empty, self._empty = self._empty, ""
    if self.comment:
      self.comment = c != "\n"
    elif self.quote:
      self._read_string(c)
    elif c == "#":
      self.comment = True
    elif c == '"' or (c == "'" and _STRING_PREFIX.fullmatch(word)):
      self.quote = 3 * c if empty == c else c
      self._opened, self._num_closing, self._escaped = self._position, 0, False
    else:
      return True
    return False

  def _read_string(self, c: str) -> None:
    """Reads a character of a string, and ends the string if the character closes it."""
    closes = c == self.quote[0] and not self._escaped
    self._num_closing = self._num_closing + 1 if closes else 0
    line_ends = c == "\n" and len(self.quote) == 1 and not self._escaped
    if self._num_closing == len(self.quote) or line_ends:
      self._empty = c if c == self.quote and self._position == self._opened + 1 else ""
      self.quote = ""
    self._escaped = c == "\\" and not self._escaped
