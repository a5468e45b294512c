"""Tests of the figures of gradient norms against lag and time: what their lines and bands show."""

from __future__ import annotations

import numpy as np
import pytest
from plotted import CELLS, FULL, diverge, draw, legend, line, lines, panel, records, small, values

from experiments.plotting import style
from experiments.sweep.figures import gradients as figures


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_decay_shows_the_seeds_with_full_bptt_at_both_ends_of_training(cell, depth):
  gradients, _ = records(num_time=40, steps=(0, 5, 10))
  axis = panel(figures.gradient_decay(gradients), f"depth {depth}")
  seeds = values(gradients, "log10_lag_norm", cell=cell, depth=depth, truncation=FULL)[:, :, 0]
  for label, step, dashed in [(f"{cell}, initialization", 0, True), (cell, -1, False)]:
    drawn = line(axis, label)
    np.testing.assert_array_equal(drawn.get_xdata(), gradients["lag"])
    # The median of two seeds is their mean.
    np.testing.assert_allclose(drawn.get_ydata(), seeds[:, step].mean(axis=0))
    assert drawn.is_dashed() is dashed
    assert drawn.get_color() == style.CELL_STYLES[cell].color
    (band,) = [band for band in axis.collections if band.get_label() == label]
    outline = band.get_paths()[0].vertices
    for lag in (0, 17, 39):
      ends = outline[outline[:, 0] == lag, 1]
      np.testing.assert_allclose([ends.min(), ends.max()], np.sort(seeds[:, step, lag]))


def test_decay_marks_where_shorter_truncations_cut():
  gradients, _ = records(num_time=40, steps=(0, 10), truncations=(8.0, 32.0, 40.0, FULL))
  figure = figures.gradient_decay(gradients)
  axis = panel(figure, "depth 2")
  # Truncation n keeps lag n - 1 and cuts lag n. Truncation 40 cuts nothing, because T is 40.
  assert [line(axis, f"cut {n}").get_xdata()[0] for n in (8, 32)] == [7.5, 31.5]
  assert not lines(axis, "cut 40") and not lines(axis, "cut inf")
  (top,) = axis.child_axes
  assert [text.get_text() for text in top.get_xticklabels()] == ["8", "32"]
  assert "trained with full BPTT" in figure.get_suptitle()


def test_marks_that_are_close_share_their_label():
  gradients, _ = small(truncations=(8.0, 16.0, 64.0, FULL), num_time=500)
  (top,) = figures.gradient_decay(gradients).axes[0].child_axes
  assert [text.get_text() for text in top.get_xticklabels()] == ["8, 16", "64"]


def test_with_one_finite_truncation_its_runs_are_drawn():
  gradients, _ = small(truncations=(8.0,))
  figure = figures.gradient_decay(gradients)
  expected = gradients["log10_lag_norm"].values[:, -1, 0].mean(axis=0)
  np.testing.assert_allclose(line(figure.axes[0], "lstm").get_ydata(), expected, rtol=1e-6)
  assert "trained with truncation 8;" in figure.get_suptitle()


def test_one_seed_has_no_band():
  gradients, _ = small(seeds=(3,))
  figure = figures.gradient_decay(gradients)
  assert not figure.axes[0].collections
  assert "one seed" in figure.get_suptitle()
  assert not [text for text in legend(figure) if "maximum" in text]


def test_the_bottom_layer_is_shown_and_named():
  gradients, _ = small(depths=(3,), seeds=(0,))
  flipped = gradients.isel(layer=slice(None, None, -1))
  for data in (gradients, flipped):
    for plot, name in [
      (figures.gradient_decay, "log10_lag_norm"),
      (figures.gradient_by_truncation, "log10_grad_norm"),
    ]:
      axis = plot(data).axes[0]
      label = "lstm" if name == "log10_lag_norm" else "full BPTT"
      np.testing.assert_array_equal(line(axis, label).get_ydata(), gradients[name][0, -1, 0])
      assert "layer 1" in axis.get_ylabel()


def test_a_setting_that_varies_is_not_averaged():
  gradients, metrics = records(
    num_time=16, steps=(0, 20), cells=("elman", "lstm"), recurrent_gain=(1.0, 1.5, 2.0)
  )
  figure = figures.gradient_decay(gradients)
  assert len(figure.axes) == 4  # two cells times two depths
  axis = panel(figure, "elman, depth 2")
  for gain in (1.0, 1.5, 2.0):
    seeds = values(
      gradients, "log10_lag_norm", cell="elman", depth=2, truncation=FULL, recurrent_gain=gain
    )
    assert len(seeds) == 2
    drawn = line(axis, f"recurrent gain {gain:g}").get_ydata()
    np.testing.assert_allclose(drawn, seeds[:, -1, 0].mean(axis=0))
  assert {f"recurrent gain {gain:g}" for gain in (1.0, 1.5, 2.0)} <= set(legend(figure))
  colors = {line(axis, f"recurrent gain {gain:g}").get_color() for gain in (1.0, 1.5, 2.0)}
  assert len(colors) == 3

  axis = panel(figures.gradient_by_truncation(gradients), "lstm, recurrent gain 1.5, depth 1")
  seeds = values(
    gradients, "log10_grad_norm", cell="lstm", depth=1, truncation=8, recurrent_gain=1.5
  )
  drawn = line(axis, "truncation 8").get_ydata()
  np.testing.assert_allclose(drawn, seeds[:, -1, 0].mean(axis=0))
  assert len(figures.depth_by_time(gradients).axes) == 2 * 3 * 2 + 1
  assert len(figures.training(metrics).axes) == 4 * 2


def test_two_settings_that_vary_are_kept_apart():
  gradients, _ = small(learning_rate=(0.1, 0.2, 0.3), clip_norm=(1.0, FULL), seeds=(0,))
  figure = figures.gradient_decay(gradients)
  assert len(figure.axes) == 2
  for clip_norm, words in [(1.0, "clip norm 1"), (FULL, "no clipping")]:
    axis = panel(figure, f"lstm, {words}, depth 1")
    for rate in (0.1, 0.2, 0.3):
      (run,) = values(gradients, "log10_lag_norm", clip_norm=clip_norm, learning_rate=rate)
      drawn = line(axis, f"learning rate {rate:g}").get_ydata()
      np.testing.assert_array_equal(drawn, run[-1, 0])


def test_an_unknown_setting_is_kept_apart():
  gradients, _ = small(seeds=(0, 1))
  gradients = gradients.assign_coords(kernel=("run", ["normal", "orthogonal"]))
  axis = figures.gradient_decay(gradients).axes[0]
  for run, kernel in enumerate(["normal", "orthogonal"]):
    drawn = line(axis, f"kernel {kernel}").get_ydata()
    np.testing.assert_array_equal(drawn, gradients["log10_lag_norm"][run, -1, 0])


def test_a_setting_that_some_cells_lack_does_not_count_as_varied():
  gradients, _ = small(cells=("elman", "lstm"))
  assert len(figures.gradient_decay(gradients).axes) == 1
  gradients, _ = small(cells=("elman", "lstm"), forget_bias=(0.0, 2.0))
  figure = figures.gradient_decay(gradients)
  assert lines(panel(figure, "elman, depth 1"), "no forget bias")
  assert lines(panel(figure, "lstm, depth 1"), "forget bias 2")


def test_zeros_and_overflows_are_marked_on_the_edges():
  gradients, _ = small(cells=("elman", "lstm"))
  norms = gradients["log10_lag_norm"].values
  elman = gradients["cell"].values == "elman"
  norms[elman, -1, :, 10:] = -np.inf
  norms[~elman, 0, :, 14:] = np.inf
  figure = figures.gradient_decay(gradients)
  axis = figure.axes[0]
  zero, overflow = line(axis, style.ZERO), line(axis, "out of range (inf)")
  np.testing.assert_array_equal(zero.get_xdata(), np.arange(10, 16))
  np.testing.assert_array_equal(overflow.get_xdata(), [14, 15])
  assert zero.get_color() == style.CELL_STYLES["elman"].color
  assert {style.ZERO, "out of range (inf)"} <= set(legend(figure))
  draw(figure)
  to_axes = axis.transAxes.inverted()
  heights = [to_axes.transform(mark.get_window_extent())[:, 1].mean() for mark in (zero, overflow)]
  assert 0 < heights[0] < 0.2 and 0.8 < heights[1] < 1
  elman = line(axis, "elman").get_ydata()
  assert np.isfinite(elman[:10]).all() and np.isnan(elman[10:]).all()
  # The lines stay above the markers along the bottom edge.
  lowest = min(
    np.nanmin(drawn.get_ydata()) for drawn in axis.lines if drawn not in (zero, overflow)
  )
  assert to_axes.transform(axis.transData.transform((0, lowest)))[1] > heights[0]


def test_finite_values_have_no_edge_markers():
  figure = figures.gradient_decay(small()[0])
  assert not {style.ZERO, "out of range (inf)"} & set(legend(figure))


def test_the_band_reaches_the_edge_if_one_seed_is_zero():
  gradients, _ = small(seeds=(0, 1, 2))
  gradients["log10_lag_norm"].values[0, -1, 0, 10:] = -np.inf
  figure = figures.gradient_decay(gradients)
  axis = figure.axes[0]
  (band,) = [band for band in axis.collections if band.get_label() == "lstm"]
  outline = band.get_paths()[0].vertices
  draw(figure)
  assert outline[outline[:, 0] == 12, 1].min() < axis.get_ylim()[0]
  assert axis.get_ylim()[0] > -100  # the zero norm (log10 is -inf) does not extend the axis
  np.testing.assert_array_equal(line(axis, style.ZERO).get_xdata(), np.arange(10, 16))
  expected = np.median(gradients["log10_lag_norm"].values[:, -1, 0], axis=0)
  np.testing.assert_allclose(line(axis, "lstm").get_ydata(), expected)


def test_a_profile_of_zeros_has_markers_and_no_scale():
  gradients, _ = small()
  for name in gradients.data_vars:
    gradients[name].values[:] = -np.inf
  for plot, x in [(figures.gradient_decay, "lag"), (figures.gradient_by_truncation, "time")]:
    figure = plot(gradients)
    draw(figure)
    for mark in lines(figure.axes[0], style.ZERO):
      np.testing.assert_array_equal(mark.get_xdata(), gradients[x])
    assert len(figure.axes[0].get_yticks()) == 0
    assert style.ZERO in legend(figure)
  assert style.ZERO in legend(figures.depth_by_time(gradients))


def test_a_value_without_neighbors_has_a_marker():
  gradients, _ = small(seeds=(0,))
  gradients["log10_grad_norm"].values[..., :-1] = -np.inf
  drawn = line(figures.gradient_by_truncation(gradients).axes[0], "full BPTT")
  assert 15 in drawn.get_markevery()


def test_unmeasured_values_are_not_drawn():
  gradients, _ = small()
  gradients["log10_lag_norm"].values[:, :, :, 3] = np.nan
  gradients["log10_lag_norm"].values[0, :, :, 5] = np.nan
  axis = figures.gradient_decay(gradients).axes[0]
  drawn = line(axis, "lstm").get_ydata()
  assert np.isnan(drawn[3])
  assert drawn[5] == pytest.approx(gradients["log10_lag_norm"].values[1, -1, 0, 5])
  assert not lines(axis, style.ZERO)


def test_by_truncation_shows_every_truncation():
  gradients, _ = records(num_time=40, steps=(0, 10))
  axis = panel(figures.gradient_by_truncation(gradients), "gru, depth 2")
  for truncation, label in [(8, "truncation 8"), (32, "truncation 32"), (FULL, "full BPTT")]:
    seeds = values(gradients, "log10_grad_norm", cell="gru", depth=2, truncation=truncation)
    drawn = line(axis, label)
    np.testing.assert_array_equal(drawn.get_xdata(), gradients["time"])
    np.testing.assert_allclose(drawn.get_ydata(), seeds[:, -1, 0].mean(axis=0))


@pytest.mark.parametrize(
  ("plot", "name", "label"),
  [
    (figures.gradient_decay, "log10_lag_norm", "lstm"),
    (figures.gradient_by_truncation, "log10_grad_norm", "full BPTT"),
  ],
)
def test_a_run_that_diverged_is_drawn_apart_at_its_last_measured_step(plot, name, label):
  gradients, _ = small(steps=(0, 20, 40, 60))
  diverge(gradients, run=1, step=40)
  figure = plot(gradients)
  axis = figure.axes[0]
  np.testing.assert_array_equal(line(axis, label).get_ydata(), gradients[name][0, -1, 0])
  early = line(axis, f"{label}, diverged: last step measured")
  np.testing.assert_array_equal(early.get_ydata(), gradients[name][1, 1, 0])
  assert early.get_linestyle() == ":"
  assert "diverged: last step measured" in legend(figure)


def test_an_overflow_at_the_last_step_counts_as_measured():
  gradients, _ = small(seeds=(0,))
  gradients["log10_lag_norm"].values[:, -1] = np.inf
  axis = figures.gradient_decay(gradients).axes[0]
  assert np.isnan(line(axis, "lstm").get_ydata()).all()
  np.testing.assert_array_equal(line(axis, "out of range (inf)").get_xdata(), gradients["lag"])
