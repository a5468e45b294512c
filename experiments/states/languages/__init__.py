"""The languages whose rules say what each character of a text is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from experiments.states.languages import c, english, latex, python


@runtime_checkable
class Scanner(Protocol):
  """Reads a text character by character; no feature looks ahead."""

  def read(self, c: str, /) -> Mapping[str, bool | int | float]:
    """Reads the next character, and returns the value of each feature after it."""
    ...


class Language(NamedTuple):
  """The rules of a language.

  Attributes:
    name: the language's name in prose.
    scanner: () -> a scanner at the beginning of a text.
    legends: what each feature is, by the feature's name.
    endings: file names of texts in this language end in one of these.
  """

  name: str
  scanner: Callable[[], Scanner]
  legends: Mapping[str, str]
  endings: tuple[str, ...]


LANGUAGES = {
  "python": Language("Python", python.Python, python.LEGENDS, (".py", ".pyi")),
  "c": Language("C", c.C, c.LEGENDS, (".c", ".h", ".cc", ".cpp", ".hpp")),
  "latex": Language("LaTeX", latex.LaTeX, latex.LEGENDS, (".tex", ".sty", ".cls")),
  "english": Language("English", english.English, english.LEGENDS, (".txt", ".md")),
}
