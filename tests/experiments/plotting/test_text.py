"""Tests of text that is broken into lines that fit a width."""

from __future__ import annotations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.plotting import text


@pytest.fixture(scope="module")
def figure():
  figure = Figure()
  FigureCanvasAgg(figure)
  return figure


@pytest.mark.parametrize(
  ("words", "width", "lines"),
  [
    ("one, two", 2.0, "one, two"),
    (
      "trained with full BPTT; median over 3 seeds",
      2.0,
      "trained with full BPTT;|median over 3 seeds",
    ),
    ("gru, after training (step 200)", 1.2, "gru, after training|(step 200)"),
    ("(a long remark that goes on)", 1.2, "(a long remark|that goes on)"),
    ("recurrent_kernel=identity", 1.2, "recurrent_kernel=|identity"),
    (r"$\log_{10} a b c d = e$ of $f$", 0.5, r"$\log_{10} a b c d = e$|of $f$"),
    ("title\nof two lines", 9.0, "title|of two lines"),
    ("unbreakable", 0.2, "unbreakable"),
    ("costs $5 of all", 9.0, "costs $5 of all"),
    ("", 1.0, ""),
  ],
)
def test_lines_are_broken_where_they_read_best(words, width, lines, figure):
  wrapped = text.wrap(figure, words, width, 9.0)
  assert wrapped == lines.replace("|", "\n")
  assert not figure.texts


def test_a_size_is_that_on_paper(figure):
  width, height = text.size(figure, "wide text", 9.0)
  assert 0.4 < width < 0.7 and 0.08 < height < 0.2
  assert text.size(figure, "wide text", 18.0) == pytest.approx((2 * width, 2 * height), rel=0.15)
  figure.set_dpi(200)
  assert text.size(figure, "wide text", 9.0) == pytest.approx((width, height), rel=0.15)


def test_what_latex_would_interpret_is_escaped_outside_of_formulas():
  escaped = text.latex(r"95 % of copy_memory, $\|h_t\|$ & $5 {a} ~^\ #")
  assert escaped == (
    r"95 \% of copy\_memory, $\|h_t\|$ \& \$5 \{a\} "
    r"\textasciitilde{}\textasciicircum{}\textbackslash{} \#"
  )
