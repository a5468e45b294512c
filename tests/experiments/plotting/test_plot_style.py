"""Tests of the line styles of cells and of a setting's values."""

from __future__ import annotations

import runpy

import matplotlib
import numpy as np
from matplotlib.colors import to_rgba

from experiments.plotting import style


def test_styles_depend_on_the_name_alone():
  styles = style.cell_styles(["mgu", "lstm", "elman", "gru", "indrnn"])
  assert {name: styles[name] for name in style.CELL_STYLES} == style.CELL_STYLES
  assert styles == style.cell_styles(["indrnn", "gru", "mgu", "lstm", "elman"])
  assert styles["mgu"] == style.cell_styles(["indrnn", "mgu"])["mgu"]
  assert len({s.color for s in styles.values()}) == 5
  assert len({s.marker for s in styles.values()}) == 5


def test_many_cells_have_different_styles():
  names = [f"cell_{i}" for i in range(21)]
  styles = style.cell_styles([*names, *style.CELL_STYLES])
  assert len({s.color for s in styles.values()}) == 24
  alone = style.cell_styles(["elman activation=relu", "gru reset=after", "gru reset=before"])
  assert alone["elman activation=relu"] == style.CELL_STYLES["elman"]
  assert style.CELL_STYLES["gru"] not in alone.values()
  assert len({s.color for s in alone.values()}) == 3


def test_lines_of_a_setting_get_darker():
  styles = style.value_styles([1, 2, 4, 8])
  light = [np.dot(to_rgba(s.color)[:3], (0.3, 0.6, 0.1)) for s in styles.values()]
  assert np.all(np.diff(light) < -0.1)
  assert len({s.marker for s in styles.values()}) == 4


def test_figures_do_not_depend_on_the_users_matplotlibrc():
  with matplotlib.rc_context({"text.usetex": True, "lines.linewidth": 7.0}):
    runpy.run_path(style.__file__)
    assert not matplotlib.rcParams["text.usetex"]
    assert matplotlib.rcParams["lines.linewidth"] == 1.5
