"""The features of LaTeX source."""

from __future__ import annotations

from experiments.states.languages import line
from experiments.states.languages.line import Line

LEGENDS = {
  "inside a comment": r"from % (not \%) to the end of the line",
  "inside math": r"in $…$, $$…$$, \(…\), \[…\] or an environment such as equation",
  "inside displayed math": r"in math other than $…$ and \(…\)",
  "inside a command": r"in a backslash and the name after it",
  "inside braces": "in {…}",
  "brace depth": "number of open {",
  "environment depth": r"number of \begin{…} without their \end{…}",
  **line.LEGENDS,
}

_INLINE = {"$", "\\("}
_DELIMITED = {"\\(": "\\)", "\\[": "\\]"}
_MATH = {
  *("math", "displaymath", "equation", "align", "alignat", "flalign", "gather", "multline"),
  *("eqnarray", "dmath"),
}
_VERBATIM = {"verbatim", "Verbatim", "lstlisting", "minted", "comment"}


class LaTeX:
  r"""A scanner of LaTeX source.

  Math ends with its paragraph at the latest, as in TeX. Verbatim text has no math, comments,
  commands or braces.
  """

  def __init__(self) -> None:
    self._line = Line()
    self._comment = False
    self._command = ""  # the current command from its backslash on, as far as it was read
    self._last = ""  # the last command, if only spaces have followed it
    self._group: str | None = None  # the argument of \begin or \end, as far as it was read
    self._ends = False  # whether that is the argument of \end
    self._math = ""  # what opened the current math: $, $$, \(, \[ or an environment's name
    self._dollars = 0  # number of dollars in a row so far
    self._verbatim = ""  # the text that ends the current verbatim text
    self._tail = ""  # the verbatim text's last characters
    self._depth = self._environments = 0

  def read(self, c: str) -> dict[str, bool | int | float]:
    """Reads the next character, and returns the features after it."""
    if c == "\n" and self._line.blank:
      self._math = ""
    position = self._line.read(c)
    self._read(c)
    return {
      "inside a comment": self._comment,
      "inside math": bool(self._math),
      "inside displayed math": bool(self._math) and self._math not in _INLINE,
      "inside a command": bool(self._command),
      "inside braces": self._depth > 0,
      "brace depth": self._depth,
      "environment depth": self._environments,
      **position,
    }

  def _read(self, c: str) -> None:
    dollars, self._dollars = self._dollars, 0
    if self._verbatim:
      self._read_verbatim(c)
    elif self._comment:
      self._comment = c != "\n"
    elif self._command and self._continues(c):
      self._command += c
      if self._command in _DELIMITED and not self._math:
        self._math = self._command
      elif self._math and self._command == _DELIMITED.get(self._math):
        self._math = ""
    else:
      self._last = self._command or self._last
      self._command = "\\" if c == "\\" else ""
      self._read_text(c, dollars)
      self._last = self._last if c == " " else ""

  def _continues(self, c: str) -> bool:
    """Returns whether a character belongs to the current command: \\name, or \\ and a symbol."""
    letter = c.isascii() and c.isalpha()
    return self._command == "\\" or (letter and self._command[1:].isalpha())

  def _read_text(self, c: str, dollars: int) -> None:
    """Reads a character that is no part of a command, except as its first one."""
    if self._last == "\\verb" and c == "*":
      self._command = self._last
    elif self._last == "\\verb" and not c.isspace():
      self._verbatim, self._tail = c, ""
    elif c == "%":
      self._comment = True
    elif c == "$":
      self._read_dollar(dollars)
    elif c == "{":
      self._depth += 1
      if self._last in ("\\begin", "\\end"):
        self._group, self._ends = "", self._last == "\\end"
    elif c == "}":
      self._depth = max(self._depth - 1, 0)
      if self._group is not None:
        self._read_environment(self._group.strip())
      self._group = None
    elif self._group is not None:
      self._group += c

  def _read_dollar(self, dollars: int) -> None:
    """Reads a dollar sign; `dollars` others directly before it opened or may close this math."""
    if self._math == "$" and dollars:
      self._math = "$$"
    elif self._math == "$" or (self._math == "$$" and dollars):
      self._math = ""
    elif not self._math:
      self._math, self._dollars = "$", 1
    elif self._math == "$$":
      self._dollars = 1

  def _read_environment(self, name: str) -> None:
    r"""Begins or ends an environment, whose \begin{name} or \end{name} has just been read."""
    self._environments = max(self._environments + (-1 if self._ends else 1), 0)
    if name.removesuffix("*") in _MATH and self._ends:
      self._math = ""
    elif name.removesuffix("*") in _MATH and not self._math:
      self._math = name
    elif name.removesuffix("*") in _VERBATIM and not self._ends:
      self._verbatim, self._tail = f"\\end{{{name}}}", ""

  def _read_verbatim(self, c: str) -> None:
    if c != " ":
      self._tail = (self._tail + c)[-len(self._verbatim) :]
    verb = len(self._verbatim) == 1  # \verb ends with its line at the latest
    if self._tail == self._verbatim or (verb and c == "\n"):
      self._environments = max(self._environments - (not verb), 0)
      self._verbatim = ""
