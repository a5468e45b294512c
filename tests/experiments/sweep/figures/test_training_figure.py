"""Tests of the figure that shows loss and gradient norm against the optimization step."""

from __future__ import annotations

import numpy as np
import pytest
from plotted import (
  CELLS,
  FULL,
  curves,
  diverge,
  draw,
  legend,
  line,
  lines,
  panel,
  records,
  small,
  values,
)

from experiments.plotting import style
from experiments.sweep.figures import gradients as figures


def test_training_shows_every_run_the_median_and_the_baseline():
  _, metrics = records(num_time=1, steps=(0, 50))
  figure = figures.training(metrics)
  loss_axis = panel(figure, "depth 2")
  norm_axis = figure.axes[3]
  for axis, name in [(loss_axis, "loss"), (norm_axis, "grad_norm")]:
    for cell in CELLS:
      runs = values(metrics, name, cell=cell, depth=2)
      drawn = curves(axis, f"{cell}, one run")
      np.testing.assert_array_equal(np.stack(drawn.get_segments())[..., 1], runs)
      seeds = values(metrics, name, cell=cell, depth=2, truncation=FULL)
      median = line(axis, cell)
      np.testing.assert_allclose(median.get_ydata(), seeds.mean(axis=0))
      np.testing.assert_array_equal(median.get_xdata(), metrics["update"])
      assert median.get_linewidth() > 1.5 * drawn.get_linewidth()[0]
      assert median.get_color() == style.CELL_STYLES[cell].color
  assert set(line(loss_axis, "baseline").get_ydata()) == {2.9}
  assert "baseline (2.9 nats per character)" in legend(figure)
  assert "median over 2 seeds with full BPTT" in legend(figure)
  assert (loss_axis.get_yscale(), norm_axis.get_yscale()) == ("linear", "log")
  assert "nats per character" in figure.axes[0].get_ylabel()


def test_long_training_is_shown_by_medians_over_blocks():
  _, metrics = small(steps=(0, 250), seeds=(0,), clip_norm=(0.6,))
  figure = figures.training(metrics)
  loss, norm = metrics["loss"].values[0], metrics["grad_norm"].values[0]
  drawn = line(figure.axes[0], "lstm")
  assert len(drawn.get_xdata()) == 84  # 251 updates make 84 blocks of at most three
  assert drawn.get_xdata()[[0, 1, -1]].tolist() == [1, 4, 249.5]
  np.testing.assert_allclose(drawn.get_ydata()[1], np.median(loss[3:6]))
  np.testing.assert_allclose(drawn.get_ydata()[-1], loss[249:].mean())
  dots = line(figure.axes[1], "clipped")
  peaks = np.append(norm[:249].reshape(83, 3).max(axis=1), norm[249:].max())
  np.testing.assert_array_equal(dots.get_ydata(), peaks[peaks > np.float32(0.6)])
  assert "medians over 3 steps at a time" in figure.get_suptitle()
  assert "clipped (largest norm of 3 steps)" in legend(figure)


def test_clipped_steps_and_their_threshold_are_marked():
  _, metrics = small(seeds=(0,), clip_norm=(0.5, 2.0, FULL))
  figure = figures.training(metrics)
  axis = figure.axes[1]
  assert [line.get_ydata()[0] for line in lines(axis, "clip norm")] == [0.5, 2.0]
  clipped = metrics["grad_norm"].values > metrics["clip_norm"].values[:, None]
  for run, dots in enumerate(lines(axis, "clipped")):
    np.testing.assert_array_equal(dots.get_xdata(), np.flatnonzero(clipped[run]))
  assert clipped[0].any() and not clipped[2].any()
  assert "clip norm (0.5, 2)" in legend(figure)


def test_clipping_other_than_by_global_norm_is_marked_without_a_threshold():
  _, metrics = small(seeds=(0,), clip_norm=(0.5,), clip_by=("carry", "element"))
  metrics["clipped"].values[:] = 0
  metrics["clipped"].values[0, 5] = 0.01
  figure = figures.training(metrics)
  assert not lines(figure.axes[1], "clip norm")
  drawn = [dots.get_xdata().tolist() for dots in lines(figure.axes[1], "clipped")]
  assert drawn == [[5], []] and "clipped" in legend(figure)


def test_without_clipping_nothing_is_marked():
  _, metrics = small(clip_norm=(FULL,))
  figure = figures.training(metrics)
  assert not lines(figure.axes[1], "clip norm")
  assert not [text for text in legend(figure) if "clip" in text]
  draw(figure)


@pytest.mark.parametrize(
  ("broken", "reason"),
  [
    ({"loss": np.nan, "grad_norm": np.nan}, "loss"),
    ({"grad_norm": np.inf}, "gradient norm"),
    ({}, "updated params"),
  ],
)
def test_divergence_is_marked_with_its_reason(broken, reason):
  _, metrics = small(seeds=(0, 1, 2))
  diverge(metrics, run=1, step=31)
  for name in ("loss", "grad_norm"):
    metrics[name].values[1, 30] = broken.get(name, 1.5)
  metrics["diverged_step"].values[1] = 30
  figure = figures.training(metrics)
  for axis, name in zip(figure.axes, ("loss", "grad_norm"), strict=True):
    cross = line(axis, "diverged")
    assert cross.get_marker() == "x"
    assert cross.get_xdata().tolist() == [30]
    last = metrics[name].values[1, 29 if name in broken else 30]
    assert cross.get_ydata().tolist() == [last]
  assert f"diverged: {reason} not finite (1 run)" in legend(figure)
  assert bool(lines(figure.axes[1], "out of range (inf)")) is (reason == "gradient norm")


def test_a_run_that_diverged_at_step_0_has_a_cross():
  _, metrics = small(seeds=(0,))
  diverge(metrics, run=0, step=0)
  figure = figures.training(metrics)
  draw(figure)
  assert [line(axis, "diverged").get_xdata()[0] for axis in figure.axes] == [0, 0]


def test_an_exploding_loss_does_not_flatten_the_others():
  _, metrics = small(seeds=(0, 1))
  metrics["loss"].values[0, 30:] = 1e12
  figure = figures.training(metrics)
  (note,) = [text for text in legend(figure) if text.startswith("losses above")]
  ceiling = float(note.split()[2])
  assert figure.axes[0].get_ylim()[1] < 10
  drawn = curves(figure.axes[0], "lstm, one run").get_segments()[0][:, 1]
  np.testing.assert_allclose(drawn[30:], ceiling, rtol=1e-2)


def test_a_value_between_values_that_cannot_be_drawn_is_a_dot():
  _, metrics = small(seeds=(0, 1))
  metrics["grad_norm"].values[1, [6, 8]] = 0
  dots = line(figures.training(metrics).axes[1], "lstm, one run")
  assert dots.get_xydata().tolist() == [[7, metrics["grad_norm"].values[1, 7]]]


def test_a_loss_that_spans_decades_has_a_logarithmic_axis():
  _, metrics = small(seeds=(0,))
  metrics["loss"].values[0] = 10.0 ** -np.linspace(0, 5, 41)
  assert figures.training(metrics).axes[0].get_yscale() == "log"


def test_norms_of_zero_are_marked_on_the_logarithmic_axis():
  _, metrics = small(seeds=(0,))
  metrics["grad_norm"].values[0, 7:9] = 0
  figure = figures.training(metrics)
  assert line(figure.axes[1], style.ZERO).get_xdata().tolist() == [7, 8]
  assert np.isnan(line(figure.axes[1], "lstm").get_ydata()[7:9]).all()
  assert not lines(figure.axes[0], style.ZERO)
  assert style.ZERO in legend(figure)


def test_held_out_losses_are_dashed_medians_where_they_were_evaluated():
  _, metrics = small(cells=("gru", "lstm"), seeds=(0, 1, 2), truncations=(4.0, FULL))
  held_out = np.full(metrics["loss"].shape, np.nan)
  held_out[:, [0, 15, 40]] = metrics["loss"].values[:, [0, 15, 40]] + 0.25
  held_out[0, 40] = np.nan  # a run that is not drawn, as its truncation is not the longest
  metrics["held_out_loss"] = ("run", "update"), held_out
  figure = figures.training(metrics)
  for cell in ("gru", "lstm"):
    drawn = line(figure.axes[0], f"{cell}, held out")
    runs = values(metrics, "held_out_loss", cell=cell, truncation=FULL)
    np.testing.assert_array_equal(drawn.get_xdata(), [0, 15, 40])
    np.testing.assert_allclose(drawn.get_ydata(), np.median(runs[:, [0, 15, 40]], axis=0))
    assert drawn.is_dashed() and drawn.get_color() == style.CELL_STYLES[cell].color
    assert not lines(figure.axes[1], f"{cell}, held out")
  assert "held-out loss (median)" in legend(figure)
  assert "held-out loss (median)" not in legend(
    figures.training(metrics.drop_vars("held_out_loss"))
  )


def test_every_panel_has_the_baselines_of_its_runs():
  _, metrics = small(seeds=(0,), depths=(1, 2))
  metrics = metrics.assign_coords(baseline=("run", [1.5, 2.5])).assign_attrs(baseline=np.nan)
  figure = figures.training(metrics)
  for depth, baseline in ((1, 1.5), (2, 2.5)):
    assert set(line(panel(figure, f"depth {depth}"), "baseline").get_ydata()) == {baseline}
  assert "baseline (1.5, 2.5 nats per character)" in legend(figure)
