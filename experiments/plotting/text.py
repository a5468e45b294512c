"""Text that fits a figure: its size on paper, and lines broken where it is too wide."""

from __future__ import annotations

import re

import matplotlib
from matplotlib.figure import Figure


def size(figure: Figure, text: str, fontsize: float | str) -> tuple[float, float]:
  """Returns the width and height, in inches, that text has in a figure.

  Args:
    figure: the figure, whose canvas must have a renderer.
    text: the text; it may have several lines.
    fontsize: in points, or one of matplotlib's names of sizes.
  """
  probe = figure.text(0, 0, text, fontsize=fontsize)
  box = probe.get_window_extent()
  probe.remove()
  return box.width / figure.dpi, box.height / figure.dpi


def wrap(figure: Figure, text: str, width: float, fontsize: float | str) -> str:
  """Breaks text into lines of at most `width` inches.

  Lines are broken after commas and semicolons. A line with a part that is too wide is broken at
  spaces outside of parentheses; if that does not help, at any space and after `=`. Formulas,
  between two `$`, are not broken. If LaTeX draws the figure, the rest of the text is escaped.

  Args:
    figure, fontsize: as in `size`.
    text: the text; its own line breaks are kept.
    width: the width in inches.
  """
  # Characters at which lines may be broken are replaced meanwhile, in formulas and parentheses.
  formula, words = {" ": "\0", "=": "\1"}, {" ": "\2"}

  def hide(found: re.Match[str]) -> str:
    table = formula if found[0][0] == "$" else words
    return "".join(table.get(c, c) for c in found[0])

  def show(line: str) -> str:
    shown = line.strip(" \2").replace("\0", " ").replace("\1", "=").replace("\2", " ")
    return latex(shown) if matplotlib.rcParams["text.usetex"] else shown

  def fits(line: str) -> bool:
    return size(figure, show(line), fontsize)[0] <= width

  def fill(line: str) -> list[str]:
    lines = [line]
    for end in ("[,;] ", " ", "[ =\2]"):
      if all(map(fits, lines)):
        break
      lines = [""]
      for part in re.split(f"(?<={end})", line):
        if lines[-1] and not fits(lines[-1] + part):
          lines.append("")
        lines[-1] += part
    return [show(line) for line in lines]

  hidden = re.sub(r"\$[^$]*\$|\([^()]*\)", hide, text)
  return "\n".join(filled for line in hidden.split("\n") for filled in fill(line))


_SPECIAL = {
  **{letter: f"\\{letter}" for letter in "&%$#_{}"},
  **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
}


def latex(text: str) -> str:
  """Escapes what LaTeX would interpret, except in formulas, between two `$`."""
  parts = re.split(r"(\$[^$]*\$)", text)
  return "".join(
    part if i % 2 else "".join(_SPECIAL.get(letter, letter) for letter in part)
    for i, part in enumerate(parts)
  )
