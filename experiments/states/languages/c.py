"""The features of C source."""

from __future__ import annotations

import re

from experiments.states.languages import line
from experiments.states.languages.code import Code

LEGENDS = {
  "inside quotes": "in a string or character literal, the opening quote included",
  "inside a comment": "from // to the end of the line, or from /* to */",
  "inside a directive": "in a line of the preprocessor, from # to the end of the line",
  "inside brackets": "in (…) or […], outside of strings and comments",
  "bracket depth": "number of open ( and [",
  "block depth": "number of open {",
  **line.LEGENDS,
  "inside a name": "in a name or keyword, outside of strings and comments",
  "inside a number": "in a number, outside of strings and comments",
}

_PREFIX = re.compile("(L|u8|u|U)?")


class C:
  """A scanner of C source.

  A line that ends in a backslash continues in the next one. A string ends with its line at the
  latest; an apostrophe after a digit, as in 1'000, or in a word does not open a literal.
  """

  def __init__(self) -> None:
    self._strings = _Strings()
    self._code = Code(self._strings, "([")

  def read(self, c: str) -> dict[str, bool | int | float]:
    """Reads the next character, and returns the features after it."""
    features = self._code.read(c)
    return features | {
      "inside a directive": self._strings.directive,
      "block depth": self._strings.depth,
    }


class _Strings:
  """The strings, comments, directives and blocks of C; see `Strings`."""

  def __init__(self) -> None:
    self.quote = ""
    self.comment = self.directive = False
    self.depth = 0
    self._block = False  # whether the current comment ends with */, not with its line
    self._escaped = False
    self._before = ""  # the last character, unless it was part of the last comment's delimiters

  def read(self, c: str, word: str, leading: bool) -> bool:
    """Reads the next character, and returns whether it is code; see `Strings`."""
    before, self._before = self._before, c
    line_ends = c == "\n" and before != "\\"
    block = self.comment and self._block
    self.directive &= block or not line_ends
    if block:
      if before == "*" and c == "/":
        self.comment, self._before = False, ""
    elif self.comment:
      self.comment = not line_ends
    elif self.quote:
      if line_ends or (c == self.quote and not self._escaped):
        self.quote = ""
      self._escaped = c == "\\" and not self._escaped
    elif before == "/" and c in "/*":
      self.comment, self._block, self._before = True, c == "*", ""
    elif c == '"' or (c == "'" and _PREFIX.fullmatch(word)):
      self.quote, self._escaped = c, False
    else:
      self.directive = self.directive or (c == "#" and leading)
      self.depth = max(self.depth + (c == "{") - (c == "}"), 0)
      return True
    return False
