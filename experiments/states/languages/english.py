"""The features of English prose."""

from __future__ import annotations

from experiments.states.languages import line
from experiments.states.languages.line import Line

LEGENDS = {
  "inside quotes": 'in “…”, ‘…’ or "…"; an apostrophe, as in don\'t, is not a quote',
  "inside parentheses": "in (…) or […]",
  **line.LEGENDS,
  "inside a word": "in a word, from its first letter to its last one",
  "inside a capitalized word": "in a word that begins with a capital letter",
  "inside a number": "in a run of digits",
}

_CLOSING = {"“": "”", "‘": "’"}


class English:
  """A scanner of English prose.

  Quotes and parentheses end with their paragraph at the latest. A straight ' is an apostrophe. A ’
  closes ‘ unless it follows a space, or is between two letters; after a letter, the character that
  follows it decides, and it counts as inside.
  """

  def __init__(self) -> None:
    self._line = Line()
    self._quotes: list[str] = []  # the marks that close the open quotes, the innermost last
    self._before = ""  # the last character
    self._undecided = False  # whether the last character is a ’ after a letter, inside ‘
    self._depth = 0
    self._word = ""  # the current word or number, as far as it was read

  def read(self, c: str) -> dict[str, bool | int | float]:
    """Reads the next character, and returns the features after it."""
    if c == "\n" and self._line.blank:
      self._quotes, self._depth, self._undecided = [], 0, False
    self._read_quote(c)
    self._depth = max(self._depth + (c in "([") - (c in ")]"), 0)
    continues = c.isalnum() or (self._word != "" and c in "'’")
    self._word = self._word + c if continues else ""
    self._before = c
    return {
      "inside quotes": bool(self._quotes),
      "inside parentheses": self._depth > 0,
      "inside a word": self._word[:1].isalpha(),
      "inside a capitalized word": self._word[:1].isupper(),
      "inside a number": self._word[:1].isdigit(),
      **self._line.read(c),
    }

  def _read_quote(self, c: str) -> None:
    if self._undecided and not c.isalnum():
      self._close("’")
    after_letter = self._before.isalnum()
    self._undecided = c == "’" and after_letter and c in self._quotes
    if c in _CLOSING:
      self._quotes.append(_CLOSING[c])
    elif c == "”" or (c == '"' and c in self._quotes):
      self._close(c)
    elif c == '"' and not after_letter:
      self._quotes.append(c)
    elif c == "’" and not (after_letter or self._before.isspace() or self._before in _CLOSING):
      self._close(c)

  def _close(self, mark: str) -> None:
    """Closes the innermost quote that `mark` closes, if there is one, and those inside of it."""
    if mark in self._quotes:
      while self._quotes.pop() != mark:
        pass
