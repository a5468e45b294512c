"""Tests of what a sweep's figures have in common: panels, lines, captions and files."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest
import xarray as xr
from plotted import FULL, draw, lay_out, legend, line, lines, named, panel, records, small

from experiments.plotting import style as plot_style
from experiments.sweep.figures import gradients as plots
from experiments.sweep.figures import panels
from experiments.sweep.figures.panels import Look


def test_records_of_step_0_alone_show_nothing_as_trained():
  gradients, metrics = small(steps=(0,))
  decay = plots.gradient_decay(gradients)
  assert "initialization (step 0)" in legend(decay)
  assert not lines(decay.axes[0], "lstm")
  by_truncation = plots.gradient_by_truncation(gradients)
  assert "at initialization (step 0)" in by_truncation.get_suptitle()
  heat = plots.depth_by_time(gradients)
  assert len([axis for axis in heat.axes if axis.images]) == 1
  for figure in (decay, by_truncation, heat, plots.training(metrics)):
    texts = [figure.get_suptitle(), *(axis.get_title() for axis in figure.axes)]
    assert "after training" not in " ".join(texts + (legend(figure) if figure.legends else []))
    draw(figure)


def test_panels_share_their_axes():
  gradients, metrics = records(num_time=16, steps=(0, 20))
  for plot, data, stack in [
    (plots.gradient_decay, gradients, 1),
    (plots.gradient_by_truncation, gradients, 1),
    (plots.training, metrics, 2),
  ]:
    figure = plot(data)
    lay_out(figure)
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
    assert len({axis.get_ylim() for axis in figure.axes}) == stack
    assert min(axis.get_window_extent().height for axis in figure.axes) > 1.4 * figure.dpi


def test_a_depth_that_a_cell_lacks_leaves_an_empty_panel():
  gradients, metrics = records(num_time=8, steps=(0, 4), cells=("gru", "lstm"))
  keep = (gradients["cell"].values == "lstm") | (gradients["depth"].values == 1)
  figure = plots.gradient_by_truncation(gradients.isel(run=keep))
  axis = panel(figure, "gru, depth 2")
  assert [text.get_text() for text in axis.texts] == ["no runs"]
  draw(figure)
  draw(plots.training(metrics.isel(run=keep)))


def test_of_too_many_rows_of_panels_some_are_drawn(monkeypatch):
  monkeypatch.setattr(panels, "MAX_ROWS", 3)
  rates = (1.0, 2.0, 3.0, 4.0, 5.0)
  gradients, _ = small(cells=("lstm",), learning_rate=rates)
  for plot in (plots.gradient_by_truncation, plots.depth_by_time):
    figure = plot(gradients)
    titles = " ".join(axis.get_title() for axis in figure.axes)
    assert [rate for rate in rates if f"learning rate {rate:g}" in titles] == [1, 3, 5]
    assert figure.get_suptitle().endswith("3 of 5 settings are shown")
    whole = plot(gradients.sel(run=gradients["learning_rate"] <= 3))
    assert "are shown" not in whole.get_suptitle()


def test_every_figure_draws_a_cell_in_its_style():
  styles = plot_style.cell_styles(["mgu", "indrnn"])
  gradients, metrics = small(cells=("mgu", "indrnn"))
  for figure in (plots.gradient_decay(gradients), plots.training(metrics)):
    for name in ("mgu", "indrnn"):
      assert line(figure.axes[0], name).get_color() == styles[name].color


def with_options(data, options, **columns):
  """Returns the records with each run's cell options and other coordinates added."""
  along_run = {name: ("run", column) for name, column in columns.items()}
  return data.assign_coords(options=("run", options), **along_run)


def test_options_distinguish_cells_and_only_seeds_are_pooled():
  gradients, metrics = small(cells=("elman", "lstm"), seeds=(0, 1, 2, 3))
  options = ["modules=10"] * 2 + ["modules=9"] * 2 + [""] * 4
  nan, widths = [np.nan] * 4, [8] * 2 + [9] * 2 + [5] * 4
  columns = {"recurrent_gain": [*nan, 1.0, 1.0, 1.0, 1.0], "hidden_size": widths}
  gradients, metrics = (with_options(data, options, **columns) for data in (gradients, metrics))
  decay = plots.gradient_decay(gradients)
  names = ["elman modules=9", "elman modules=10", "lstm"]
  assert legend(decay)[:3] == names
  norms = gradients["log10_lag_norm"].values[:, 0, 0].astype(float)
  for name, runs in zip(names, (slice(2, 4), slice(0, 2), slice(4, 8)), strict=True):
    drawn = line(decay.axes[0], f"{name}, initialization").get_ydata()
    np.testing.assert_allclose(drawn, np.median(norms[runs], axis=0))
  assert "median over 2 to 4 seeds" in decay.get_suptitle()
  for figure in (plots.gradient_by_truncation(gradients), plots.depth_by_time(gradients)):
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert [title.split(", depth")[0] for title in dict.fromkeys(titles)][:1] == names[:1]
    assert {title.split(", depth")[0] for title in titles} == set(names)
    draw(figure)
  assert legend(plots.training(metrics))[:3] == names


def test_a_cell_without_a_recurrent_gain_has_a_line_of_its_own():
  gradients, _ = small(cells=("elman", "lru"), recurrent_gain=(0.5, 1.0))
  one = (gradients["cell"].values == "elman") | (gradients["recurrent_gain"].values == 1)
  gradients = gradients.isel(run=one)
  gains = np.where(gradients["cell"].values == "lru", np.nan, gradients["recurrent_gain"].values)
  decay = plots.gradient_decay(gradients.assign_coords(recurrent_gain=("run", gains)))
  assert legend(decay)[:3] == ["recurrent gain 0.5", "recurrent gain 1", "no recurrent gain"]
  assert lines(panel(decay, "lru, depth 1"), "no recurrent gain")
  assert not lines(panel(decay, "elman, depth 1"), "no recurrent gain")
  draw(decay)


@pytest.mark.parametrize(
  "axes",
  [
    {},
    {"num_time": 1},
    {"num_time": 2, "steps": (0,), "seeds": (0,)},
    {"cells": ("elman", "lstm", "mgu", "nas"), "depths": (1, 3), "truncations": (2.0, 4.0, 9.0)},
    {"recurrent_gain": (1.0, 2.0), "clip_norm": (1.0, FULL), "forget_bias": (0.0, 1.0)},
    {"recurrent_gain": (1.25, 1.5), "clip_norm": (1.25, 2.5), "depths": (1, 2), "seeds": (0,)},
  ],
)
def test_captions_and_legends_do_not_cover_data(axes):
  gradients, metrics = small(**axes)
  figures = [
    plots.gradient_decay(gradients),
    plots.gradient_by_truncation(gradients),
    plots.depth_by_time(gradients),
    plots.training(metrics),
  ]
  for figure in figures:
    lay_out(figure)
    panels = [axis.get_tightbbox() for axis in figure.axes]
    for words in [*figure.legends, *figure.texts]:
      assert not any(words.get_window_extent().overlaps(panel) for panel in panels)
    assert min(axis.get_window_extent().height for axis in figure.axes) > 0.3 * figure.dpi
    for one, other in itertools.combinations(panels, 2):
      assert not one.padded(-1).overlaps(other.padded(-1))
    for words in figure.legends:
      assert figure.bbox.x0 <= words.get_window_extent().x0
      assert words.get_window_extent().x1 <= figure.bbox.x1


def test_without_lag_norms_there_is_no_decay_figure(tmp_path, monkeypatch):
  monkeypatch.setattr(plot_style, "save", named)
  gradients, metrics = small(num_time=8)
  names = {path.name for path in plots.save_all(gradients, metrics, tmp_path)}
  rest = plots.save_all(gradients.drop_vars("log10_lag_norm"), metrics, tmp_path)
  assert names - {path.name for path in rest} == {"gradient_decay"}


def test_all_figures_are_saved_the_same_every_time(tmp_path):
  gradients, metrics = small(num_time=8)
  gradients["log10_lag_norm"].values[:, :, :, 5:] = -np.inf
  before = dict(matplotlib.rcParams)
  paths = plots.save_all(gradients, metrics, tmp_path / "new" / "one")
  again = plots.save_all(gradients, metrics, tmp_path / "two")
  names = ("gradient_decay", "gradient_by_truncation", "depth_by_time", "training")
  assert sorted(path.name for path in paths) == sorted(
    f"{name}.{kind}" for name in names for kind in ("png", "svg")
  )
  for one, two in zip(paths, again, strict=True):
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes()[:4] == (b"\x89PNG" if one.suffix == ".png" else b"<?xm")
  assert dict(matplotlib.rcParams) == before


def test_the_records_are_not_modified():
  gradients, metrics = small()
  metrics["loss"].values[0, 30:] = 1e12
  copies = gradients.copy(deep=True), metrics.copy(deep=True)
  plots.gradient_decay(gradients), plots.gradient_by_truncation(gradients)
  plots.depth_by_time(gradients), plots.training(metrics)
  xr.testing.assert_identical(gradients, copies[0])
  xr.testing.assert_identical(metrics, copies[1])


@pytest.mark.parametrize(
  ("width", "axes"),
  [
    (2.5, {"cells": [f"cell{i} activation=relu, recurrent_kernel=identity" for i in range(11)]}),
    (3.25, {"cells": ("gru", "lstm"), "recurrent_gain": (1.0, 1.5), "clip_norm": (1.0, FULL)}),
    (6.5, {"depths": (1, 2, 3), "seeds": (0,)}),
    (12.0, {"cells": [f"cell{i}" for i in range(4)]}),
  ],
)
def test_figures_of_any_width_fit(width, axes):
  gradients, metrics = small(**axes)
  gradients["log10_lag_norm"].values[0, 0] = -np.inf
  for name, make in plots.figure_makers(gradients).items():
    figure = make(metrics if name == "training" else gradients, Look(width=width))
    lay_out(figure)
    assert figure.get_figwidth() == width
    axes_boxes = [axis.get_tightbbox() for axis in figure.axes]
    words = [*figure.legends, *figure.texts, *(axis.title for axis in figure.axes)]
    boxes = [found.get_window_extent() for found in words]
    for box in [*boxes, *axes_boxes]:
      assert figure.bbox.padded(1).contains(box.x0, box.y0), name
      assert figure.bbox.padded(1).contains(box.x1, box.y1), name
    for box in boxes[: len(figure.legends) + len(figure.texts)]:
      assert not any(box.overlaps(other) for other in axes_boxes)
    for one, other in itertools.combinations(axes_boxes, 2):
      assert not one.padded(-1).overlaps(other.padded(-1))
    shown = [axis.get_window_extent() for axis in figure.axes if axis.lines or axis.images]
    assert min(box.height for box in shown) > 0.1 * figure.dpi
    assert min(box.width for box in shown) > 0.5 * figure.dpi


def test_panels_that_do_not_fit_are_put_below_each_other():
  gradients, _ = small(depths=(1, 2, 3))
  figure = plots.gradient_decay(gradients, Look(width=3.25))
  lay_out(figure)
  first, second, third = (axis.get_window_extent() for axis in figure.axes)
  assert first.y0 == second.y0 > third.y1 and first.x0 == third.x0
  labels = [axis.get_xlabel() for axis in figure.axes]
  assert labels == ["", *2 * ["lag $k$ (time steps)"]]  # below the first panel is another
  shown = [axis.xaxis.get_tick_params()["labelbottom"] for axis in figure.axes]
  assert shown == [False, True, True]


def test_a_run_of_fewer_steps_did_not_diverge():
  gradients, metrics = small(seeds=(0,), cells=("gru", "lstm"))
  gradients, metrics = (
    data.assign_coords(steps=("run", [20, 40])) for data in (gradients, metrics)
  )
  for variable in gradients.data_vars.values():
    variable.values[0, -1] = np.nan
  figure = plots.gradient_decay(gradients)
  panel_lines = [line for axis in figure.axes for line in axis.lines]
  assert not [line for line in panel_lines if str(line.get_label()).endswith(panels.EARLY)]
  (drawn,) = [found for found in panel_lines if found.get_label() == "steps 20"]
  np.testing.assert_array_equal(drawn.get_ydata(), gradients["log10_lag_norm"][0, 1, 0])
  assert "after training" in legend(figure)


@pytest.mark.parametrize(
  ("facet", "rows", "line"),
  [
    (None, ["cell", "clip_norm"], "recurrent_gain"),
    ("cell", ["cell", "clip_norm"], "recurrent_gain"),
    ("clip_norm", ["clip_norm", "cell"], "recurrent_gain"),
    ("recurrent_gain", ["recurrent_gain", "cell"], "clip_norm"),
    ("truncation", ["truncation", "cell", "clip_norm"], "recurrent_gain"),
  ],
)
def test_a_facet_distinguishes_rows_and_all_settings_stay_apart(facet, rows, line):
  gradients, metrics = small(
    cells=("gru", "lstm"),
    truncations=(4.0, FULL),
    recurrent_gain=(1.0, 1.5, 2.0),
    clip_norm=(1.0, FULL),
  )
  assert panels.rows_and_line(gradients, facet) == (rows, line)
  assert facet is None or facet in panels.facets(gradients)
  figure = plots.training(metrics, Look(facet=facet))
  titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
  sizes = {"cell": 2, "clip_norm": 2, "recurrent_gain": 3, "truncation": 2}
  assert len(titles) == len(set(titles)) == np.prod([sizes[name] for name in rows])


def test_facets_are_settings_with_several_values():
  assert panels.facets(small(seeds=(0,))[0]) == []
  gradients, _ = small(cells=("gru", "lstm"), recurrent_gain=(1.0, 2.0))
  assert panels.facets(gradients) == ["cell", "seed", "recurrent_gain"]


def test_no_figure_has_too_many_rows_of_axes(monkeypatch):
  monkeypatch.setattr(panels, "MAX_ROWS", 4)
  gradients, metrics = small(
    cells=[f"cell{i}" for i in range(9)], recurrent_gain=(1.0, 2.0), seeds=(0,)
  )
  gradients = gradients.assign(omega=(("run", "step"), np.zeros((18, 3))))
  for name, make in plots.figure_makers(gradients).items():
    figure = make(metrics if name == "training" else gradients)
    rows = {axis.get_subplotspec().rowspan.start for axis in figure.axes if axis.get_subplotspec()}
    assert len(rows) == 4, name
    assert " settings are shown" in figure.get_suptitle()


def test_a_setting_whose_best_value_was_selected_does_not_distinguish_lines():
  gradients, metrics = small(cells=("gru", "lstm"), learning_rate=(0.1, 0.2), clip_norm=(1.0, FULL))
  rate, cell = gradients["learning_rate"].values, gradients["cell"].values
  chosen = rate == np.where(cell == "gru", 0.1, 0.2)
  selected = [data.assign_attrs(selected="learning_rate") for data in (gradients, metrics)]
  for data in (data.isel(run=chosen) for data in selected):
    assert panels.rows_and_line(data) == (["cell"], "clip_norm")
    one = data.isel(run=data["clip_norm"].values == 1)
    assert panels.rows_and_line(one) == ([], "cell")
    figure = (plots.training if "loss" in data else plots.gradient_decay)(one)
    assert "learning rate selected for each setting on held-out data" in figure.get_suptitle()
  # With several values for one setting, the values are kept apart.
  assert panels.rows_and_line(selected[0])[0] == ["cell", "clip_norm"]
