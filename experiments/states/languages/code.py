"""The features of source code: strings, comments, brackets, names and numbers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from experiments.states.languages.line import Line


@runtime_checkable
class Strings(Protocol):
  """A scanner that tracks the strings and comments of a text.

  Attributes:
    quote: the quotes that close the current string; '' outside of strings.
    comment: whether the current character is inside a comment.
  """

  quote: str
  comment: bool

  def read(self, c: str, word: str, leading: bool) -> bool:
    """Reads the next character, and returns whether it is code, outside of strings and comments.

    Args:
      c: the character.
      word: the name or number directly before it, which may be the prefix of a string.
      leading: whether only white space precedes it in its line.
    """
    ...


class Code:
  """A scanner of source code; `strings` has the language's rules, `brackets` its opening ones."""

  def __init__(self, strings: Strings, brackets: str) -> None:
    self._strings = strings
    self._opening = brackets
    self._closing = brackets.translate(str.maketrans("([{", ")]}"))
    self._line = Line()
    self._word = ""  # the current name or number, as far as it was read
    self._depth = 0

  def read(self, c: str) -> dict[str, bool | int | float]:
    """Reads the next character, and returns the features after it."""
    strings = self._strings
    if strings.read(c, self._word, self._line.blank):
      self._depth = max(self._depth + (c in self._opening) - (c in self._closing), 0)
    in_code = not strings.quote and not strings.comment
    continues = c.isalnum() or c == "_" or (c == "." and self._word[:1].isdigit())
    self._word = self._word + c if in_code and continues else ""
    number = self._word[:1].isdigit()
    return {
      "inside quotes": bool(strings.quote),
      "inside a comment": strings.comment,
      "inside brackets": self._depth > 0,
      "bracket depth": self._depth,
      "inside a name": bool(self._word) and not number,
      "inside a number": number,
      **self._line.read(c),
    }
