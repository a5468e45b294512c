"""Text that fits a figure: its size on paper, and lines broken where it is too wide."""

from __future__ import annotations

import re

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
  between two `$`, are not broken.

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
    return line.strip(" \2").replace("\0", " ").replace("\1", "=").replace("\2", " ")

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
