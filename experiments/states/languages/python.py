"""The features of Python source."""

from __future__ import annotations

import re

from experiments.states.languages import line
from experiments.states.languages.code import Code

LEGENDS = {
  "inside quotes": "in a string of any kind, the opening quotes included",
  "inside triple quotes": "in a string that \"\"\" or ''' opened",
  "inside a comment": "from # to the end of the line",
  "inside brackets": "in (…), […] or {…}, outside of strings and comments",
  "bracket depth": "number of open (, [ and {",
  **line.LEGENDS,
  "inside a name": "in a name or keyword, outside of strings and comments",
  "inside a number": "in a number, outside of strings and comments",
}

_PREFIX = re.compile("[bfrtu]{0,2}", re.IGNORECASE)


class Python:
  """A scanner of Python source.

  A string that is not triple-quoted ends with its line at the latest; an apostrophe within a word,
  as in don't, does not open a string.
  """

  def __init__(self) -> None:
    self._strings = _Strings()
    self._code = Code(self._strings, "([{")

  def read(self, c: str) -> dict[str, bool | int | float]:
    """Reads the next character, and returns the features after it."""
    features = self._code.read(c)
    return features | {"inside triple quotes": len(self._strings.quote) == 3}


class _Strings:
  """The strings and comments of Python; see `Strings`."""

  def __init__(self) -> None:
    self.quote = ""
    self.comment = False
    self._escaped = False
    self._num_closing = 0  # number of quotes in a row so far that may close the string
    self._position = -1  # position of the current character
    self._opened = -1  # position of the quote that opened the current string
    self._empty = ""  # the quote, if the last two characters are an empty string; otherwise ''

  def read(self, c: str, word: str, leading: bool) -> bool:
    """Reads the next character, and returns whether it is code; see `Strings`."""
    self._position += 1
    empty, self._empty = self._empty, ""
    if self.comment:
      self.comment = c != "\n"
    elif self.quote:
      self._read_string(c)
    elif c == "#":
      self.comment = True
    elif c == '"' or (c == "'" and _PREFIX.fullmatch(word)):
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
