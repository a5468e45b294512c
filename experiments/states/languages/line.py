"""The position in a line, for the features of all languages."""

from __future__ import annotations

LINE = 80  # `position in the line` is 1 after this many characters
INDENT = 4  # number of columns of an indentation level, and of a tab


class Line:
  """Tracks the current line of a text.

  Attributes:
    column: number of characters in the line so far.
    indentation: number of columns of white space that the line begins with.
    blank: whether the line has only white space so far.
  """

  def __init__(self) -> None:
    self.column = self.indentation = 0
    self.blank = True

  def read(self, c: str) -> dict[str, bool | int | float]:
    """Reads the next character, and returns the features of the line after it."""
    self.blank = c == "\n" or (self.blank and c in " \t")
    self.column = 0 if c == "\n" else self.column + 1
    if c == "\n":
      self.indentation = 0
    elif self.blank:
      self.indentation += INDENT - self.indentation % INDENT if c == "\t" else 1
    return {
      "position in the line": min(self.column / LINE, 1),
      "indentation": self.indentation / INDENT,
    }


LEGENDS = {
  "position in the line": f"characters since the line began, in units of {LINE}, at most 1",
  "indentation": f"white space that the line begins with, in levels of {INDENT} columns",
}
