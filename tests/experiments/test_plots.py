"""The figures show what the records hold, as read back from their artists."""

from __future__ import annotations

import itertools
import math
from typing import Any

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments import plot_lines, plot_style, plots

CELLS = ("elman", "gru", "lstm")
DECAY = {"elman": 0.30, "gru": 0.06, "lstm": 0.03}  # log10 per time step, at initialisation
SETTINGS = {
  "learning_rate": 0.002,
  "clip_norm": 1.0,
  "clip_by": "global_norm",
  "recurrent_gain": 1.0,
  "forget_bias": 1.0,
}
FULL = math.inf


def records(
  cells=CELLS,
  depths=(1, 2),
  truncations=(8.0, 32.0, FULL),
  seeds=(0, 1),
  num_time=128,
  steps=tuple(range(0, 1001, 100)),
  **settings: tuple[float, ...],
) -> tuple[xr.Dataset, xr.Dataset]:
  """Gradients and metrics of a grid of made-up runs.

  Gradients decay geometrically in time, more slowly after training; under the training loss each
  sums over what is left of its truncation's window, a sawtooth.
  """
  axes = [settings.get(name, (value,)) for name, value in SETTINGS.items()]
  grid = itertools.product(cells, depths, truncations, seeds, *axes)
  # A cell without forget gates is not repeated for every bias.
  runs = list(dict.fromkeys((*run[:-1], run[-1] if run[0] == "lstm" else None) for run in grid))
  names = ("cell", "depth", "truncation", "seed", *SETTINGS)
  columns: dict[str, Any] = dict(zip(names, map(list, zip(*runs, strict=True)), strict=True))
  columns["forget_bias"] = [math.nan if b is None else b for b in columns["forget_bias"]]
  columns["run"] = [
    f"{run[0]}-d{run[1]}-k{run[2]:g}-s{run[3]}-{i:08x}" for i, run in enumerate(runs)
  ]
  columns["status"] = ["finished"] * len(runs)
  columns["diverged_step"] = [math.nan] * len(runs)

  lags, updates = np.arange(num_time), np.arange(steps[-1] + 1)
  shape = (len(runs), len(steps), max(depths), num_time)
  time_norm, lag_norm = np.full((2, *shape), np.nan, np.float32)
  loss, grad_norm = np.empty((2, len(runs), len(updates)), np.float32)
  for i, (cell, depth, truncation, *_, gain, _) in enumerate(runs):
    rng = np.random.default_rng(i)
    decay = DECAY.get(cell, 0.1) * (1 + 0.1 * rng.normal()) - 0.05 * math.log10(gain)
    for j, layer in itertools.product(range(len(steps)), range(depth)):
      slope = decay * (1 - 0.4 * j / max(len(steps) - 1, 1))
      through_depth = (depth - 1 - layer) * (0.5 + 0.004 * lags)
      walk = 0.03 * rng.normal(size=num_time).cumsum()
      lag_norm[i, j, layer] = -1 - slope * lags - through_depth + walk
      left = np.minimum(min(truncation, num_time) - 1 - lags % truncation, num_time - 1 - lags)
      window = np.log10((1 - 10 ** (-slope * (left + 1))) / (1 - 10**-slope))
      noise = 0.02 * rng.normal(size=num_time)
      time_norm[i, j, layer] = -2 + window - through_depth[0] + noise
    fall = 1.2 + 0.1 * min(truncation, 128) ** 0.5 * (cell != "elman")
    noise = rng.normal(size=(2, len(updates)))
    loss[i] = 3.3 - fall * (1 - np.exp(-updates / 200)) + 0.05 * noise[0]
    grad_norm[i] = 10 ** (0.4 * np.exp(-updates / 150) - 0.4 + 0.15 * noise[1])

  clipped = grad_norm > np.array(columns["clip_norm"])[:, None]
  along_run = {name: ("run", column) for name, column in columns.items()}
  dims = ("run", "step", "layer")
  absent = np.full(shape, np.nan, np.float32)
  gradients = xr.Dataset(
    {
      "log10_grad_norm": ((*dims, "time"), time_norm),
      "log10_lag_norm": ((*dims, "lag"), lag_norm),
      "log10_grad_norm_cell": ((*dims, "time"), absent),
      "log10_lag_norm_cell": ((*dims, "lag"), absent.copy()),
    },
    {
      **along_run,
      "step": list(steps),
      "layer": np.arange(1, max(depths) + 1),
      "time": lags + 1,
      "lag": lags,
    },
  )
  metrics = xr.Dataset(
    {
      "loss": (("run", "update"), loss),
      "grad_norm": (("run", "update"), grad_norm),
      "clipped": (("run", "update"), clipped.astype(np.float32)),
    },
    {**along_run, "update": updates},
    {"task": "characters", "loss_unit": "nats per character", "baseline": 2.9},
  )
  return gradients, metrics


def small(**axes: Any) -> tuple[xr.Dataset, xr.Dataset]:
  defaults = {"cells": ("lstm",), "depths": (1,), "truncations": (FULL,), "num_time": 16}
  return records(**{**defaults, "steps": (0, 20, 40), **axes})


def diverge(data: xr.Dataset, run: int, step: int) -> None:
  """Makes everything of a run NaN from `step` on, in place."""
  status = data["status"].values.tolist()
  status[run] = "diverged"
  data["status"] = ("run", status)
  data["diverged_step"].values[run] = step
  for variable in data.data_vars.values():
    when = variable["step" if "step" in variable.dims else "update"].values
    variable.values[run, when >= step] = np.nan


def panel(figure: Figure, title: str) -> Axes:
  (axis,) = [axis for axis in figure.axes if axis.get_title() == title]
  return axis


def lines(axis: Axes, label: str) -> list[Line2D]:
  return [line for line in axis.lines if line.get_label() == label]


def line(axis: Axes, label: str) -> Line2D:
  (found,) = lines(axis, label)
  return found


def legend(figure: Figure) -> list[str]:
  return [text.get_text() for text in figure.legends[0].get_texts()]


def values(data: xr.Dataset, name: str, **where: Any) -> np.ndarray:
  """The variable of the runs with these coordinates, [run, ...]."""
  chosen = np.ones(data.sizes["run"], bool)
  for coordinate, value in where.items():
    chosen &= data[coordinate].values == value
  assert chosen.any()
  return data[name].values[chosen].astype(float)


def draw(figure: Figure) -> None:
  FigureCanvasAgg(figure).draw()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_decay_shows_the_seeds_with_full_bptt_at_both_ends_of_training(cell, depth):
  gradients, _ = records(num_time=40, steps=(0, 5, 10))
  axis = panel(plots.gradient_decay(gradients), f"depth {depth}")
  seeds = values(gradients, "log10_lag_norm", cell=cell, depth=depth, truncation=FULL)[:, :, 0]
  for label, step, dashed in [(f"{cell}, initialisation", 0, True), (cell, -1, False)]:
    drawn = line(axis, label)
    np.testing.assert_array_equal(drawn.get_xdata(), gradients["lag"])
    np.testing.assert_allclose(drawn.get_ydata(), seeds[:, step].mean(axis=0))  # of two
    assert drawn.is_dashed() is dashed
    assert drawn.get_color() == plot_style.CELL_STYLES[cell].colour
    (band,) = [band for band in axis.collections if band.get_label() == label]
    outline = band.get_paths()[0].vertices
    for lag in (0, 17, 39):
      ends = outline[outline[:, 0] == lag, 1]
      np.testing.assert_allclose([ends.min(), ends.max()], np.sort(seeds[:, step, lag]))


def test_decay_marks_where_shorter_truncations_cut():
  gradients, _ = records(num_time=40, steps=(0, 10), truncations=(8.0, 32.0, 40.0, FULL))
  figure = plots.gradient_decay(gradients)
  axis = panel(figure, "depth 2")
  # The lag n - 1 is kept and the lag n is not; a truncation of all 40 steps cuts nothing.
  assert [line(axis, f"cut {n}").get_xdata()[0] for n in (8, 32)] == [7.5, 31.5]
  assert not lines(axis, "cut 40") and not lines(axis, "cut inf")
  (top,) = axis.child_axes
  assert [text.get_text() for text in top.get_xticklabels()] == ["8", "32"]
  assert "trained with full BPTT" in figure.get_suptitle()


def test_marks_that_are_close_share_their_label():
  gradients, _ = small(truncations=(8.0, 16.0, 64.0, FULL), num_time=500)
  (top,) = plots.gradient_decay(gradients).axes[0].child_axes
  assert [text.get_text() for text in top.get_xticklabels()] == ["8, 16", "64"]


def test_with_one_finite_truncation_its_runs_are_drawn():
  gradients, _ = small(truncations=(8.0,))
  figure = plots.gradient_decay(gradients)
  expected = gradients["log10_lag_norm"].values[:, -1, 0].mean(axis=0)
  np.testing.assert_allclose(line(figure.axes[0], "lstm").get_ydata(), expected, rtol=1e-6)
  assert "trained with truncation 8;" in figure.get_suptitle()


def test_one_seed_has_no_band():
  gradients, _ = small(seeds=(3,))
  figure = plots.gradient_decay(gradients)
  assert not figure.axes[0].collections
  assert "one seed" in figure.get_suptitle()
  assert not [text for text in legend(figure) if "maximum" in text]


def test_the_bottom_layer_is_shown_and_named():
  gradients, _ = small(depths=(3,), seeds=(0,))
  flipped = gradients.isel(layer=slice(None, None, -1))
  for data in (gradients, flipped):
    for plot, name in [
      (plots.gradient_decay, "log10_lag_norm"),
      (plots.gradient_by_truncation, "log10_grad_norm"),
    ]:
      axis = plot(data).axes[0]
      label = "lstm" if name == "log10_lag_norm" else "full BPTT"
      np.testing.assert_array_equal(line(axis, label).get_ydata(), gradients[name][0, -1, 0])
      assert "layer 1" in axis.get_ylabel()


def test_a_setting_that_varies_is_not_averaged():
  gradients, metrics = records(
    num_time=16, steps=(0, 20), cells=("elman", "lstm"), recurrent_gain=(1.0, 1.5, 2.0)
  )
  figure = plots.gradient_decay(gradients)
  assert len(figure.axes) == 4  # cell × depth
  axis = panel(figure, "elman, depth 2")
  for gain in (1.0, 1.5, 2.0):
    seeds = values(
      gradients, "log10_lag_norm", cell="elman", depth=2, truncation=FULL, recurrent_gain=gain
    )
    assert len(seeds) == 2
    drawn = line(axis, f"recurrent gain {gain:g}").get_ydata()
    np.testing.assert_allclose(drawn, seeds[:, -1, 0].mean(axis=0))
  assert {f"recurrent gain {gain:g}" for gain in (1.0, 1.5, 2.0)} <= set(legend(figure))
  colours = {line(axis, f"recurrent gain {gain:g}").get_color() for gain in (1.0, 1.5, 2.0)}
  assert len(colours) == 3

  axis = panel(plots.gradient_by_truncation(gradients), "lstm, recurrent gain 1.5, depth 1")
  seeds = values(
    gradients, "log10_grad_norm", cell="lstm", depth=1, truncation=8, recurrent_gain=1.5
  )
  drawn = line(axis, "truncation 8").get_ydata()
  np.testing.assert_allclose(drawn, seeds[:, -1, 0].mean(axis=0))
  assert len(plots.depth_by_time(gradients).axes) == 2 * 3 * 2 + 1
  assert len(plots.training(metrics).axes) == 4 * 2


def test_two_settings_that_vary_are_kept_apart():
  gradients, _ = small(learning_rate=(0.1, 0.2, 0.3), clip_norm=(1.0, FULL), seeds=(0,))
  figure = plots.gradient_decay(gradients)
  assert len(figure.axes) == 2
  for clip_norm, words in [(1.0, "clip norm 1"), (FULL, "no clipping")]:
    axis = panel(figure, f"lstm, {words}, depth 1")
    for rate in (0.1, 0.2, 0.3):
      (run,) = values(gradients, "log10_lag_norm", clip_norm=clip_norm, learning_rate=rate)
      drawn = line(axis, f"learning rate {rate:g}").get_ydata()
      np.testing.assert_array_equal(drawn, run[-1, 0])


def test_a_setting_that_this_module_never_heard_of_is_kept_apart():
  gradients, _ = small(seeds=(0, 1))
  gradients = gradients.assign_coords(kernel=("run", ["normal", "orthogonal"]))
  axis = plots.gradient_decay(gradients).axes[0]
  for run, kernel in enumerate(["normal", "orthogonal"]):
    drawn = line(axis, f"kernel {kernel}").get_ydata()
    np.testing.assert_array_equal(drawn, gradients["log10_lag_norm"][run, -1, 0])


def test_a_setting_that_some_cells_lack_does_not_vary_for_that():
  gradients, _ = small(cells=("elman", "lstm"))
  assert len(plots.gradient_decay(gradients).axes) == 1
  gradients, _ = small(cells=("elman", "lstm"), forget_bias=(0.0, 2.0))
  figure = plots.gradient_decay(gradients)
  assert lines(panel(figure, "elman, depth 1"), "no forget bias")
  assert lines(panel(figure, "lstm, depth 1"), "forget bias 2")


def test_zeros_and_overflows_are_marked_on_the_edges():
  gradients, _ = small(cells=("elman", "lstm"))
  norms = gradients["log10_lag_norm"].values
  elman = gradients["cell"].values == "elman"
  norms[elman, -1, :, 10:] = -np.inf
  norms[~elman, 0, :, 14:] = np.inf
  figure = plots.gradient_decay(gradients)
  axis = figure.axes[0]
  zero, overflow = line(axis, plot_style.ZERO), line(axis, "overflow (inf)")
  np.testing.assert_array_equal(zero.get_xdata(), np.arange(10, 16))
  np.testing.assert_array_equal(overflow.get_xdata(), [14, 15])
  assert zero.get_color() == plot_style.CELL_STYLES["elman"].colour
  assert {plot_style.ZERO, "overflow (inf)"} <= set(legend(figure))
  draw(figure)
  to_axes = axis.transAxes.inverted()
  heights = [to_axes.transform(mark.get_window_extent())[:, 1].mean() for mark in (zero, overflow)]
  assert 0 < heights[0] < 0.2 and 0.8 < heights[1] < 1
  elman = line(axis, "elman").get_ydata()
  assert np.isfinite(elman[:10]).all() and np.isnan(elman[10:]).all()
  # The markers have the strip along the edge to themselves.
  lowest = min(
    np.nanmin(drawn.get_ydata()) for drawn in axis.lines if drawn not in (zero, overflow)
  )
  assert to_axes.transform(axis.transData.transform((0, lowest)))[1] > heights[0]


def test_what_is_finite_has_no_edge_markers():
  figure = plots.gradient_decay(small()[0])
  assert not {plot_style.ZERO, "overflow (inf)"} & set(legend(figure))


def test_the_band_reaches_the_edge_where_one_seed_is_zero():
  gradients, _ = small(seeds=(0, 1, 2))
  gradients["log10_lag_norm"].values[0, -1, 0, 10:] = -np.inf
  figure = plots.gradient_decay(gradients)
  axis = figure.axes[0]
  (band,) = [band for band in axis.collections if band.get_label() == "lstm"]
  outline = band.get_paths()[0].vertices
  draw(figure)
  assert outline[outline[:, 0] == 12, 1].min() < axis.get_ylim()[0]
  assert axis.get_ylim()[0] > -100  # the zero itself sets no scale
  np.testing.assert_array_equal(line(axis, plot_style.ZERO).get_xdata(), np.arange(10, 16))
  expected = np.median(gradients["log10_lag_norm"].values[:, -1, 0], axis=0)
  np.testing.assert_allclose(line(axis, "lstm").get_ydata(), expected)


def test_a_profile_of_zeros_alone_has_markers_and_no_scale():
  gradients, _ = small()
  for name in gradients.data_vars:
    gradients[name].values[:] = -np.inf
  for plot, x in [(plots.gradient_decay, "lag"), (plots.gradient_by_truncation, "time")]:
    figure = plot(gradients)
    draw(figure)
    for mark in lines(figure.axes[0], plot_style.ZERO):
      np.testing.assert_array_equal(mark.get_xdata(), gradients[x])
    assert len(figure.axes[0].get_yticks()) == 0
    assert plot_style.ZERO in legend(figure)
  assert plot_style.ZERO in legend(plots.depth_by_time(gradients))


def test_a_value_without_neighbours_has_a_marker():
  gradients, _ = small(seeds=(0,))
  gradients["log10_grad_norm"].values[..., :-1] = -np.inf
  drawn = line(plots.gradient_by_truncation(gradients).axes[0], "full BPTT")
  assert 15 in drawn.get_markevery()


def test_what_was_not_measured_is_absent():
  gradients, _ = small()
  gradients["log10_lag_norm"].values[:, :, :, 3] = np.nan
  gradients["log10_lag_norm"].values[0, :, :, 5] = np.nan
  axis = plots.gradient_decay(gradients).axes[0]
  drawn = line(axis, "lstm").get_ydata()
  assert np.isnan(drawn[3])
  assert drawn[5] == pytest.approx(gradients["log10_lag_norm"].values[1, -1, 0, 5])
  assert not lines(axis, plot_style.ZERO)


def test_by_truncation_shows_every_truncation():
  gradients, _ = records(num_time=40, steps=(0, 10))
  axis = panel(plots.gradient_by_truncation(gradients), "gru, depth 2")
  for truncation, label in [(8, "truncation 8"), (32, "truncation 32"), (FULL, "full BPTT")]:
    seeds = values(gradients, "log10_grad_norm", cell="gru", depth=2, truncation=truncation)
    drawn = line(axis, label)
    np.testing.assert_array_equal(drawn.get_xdata(), gradients["time"])
    np.testing.assert_allclose(drawn.get_ydata(), seeds[:, -1, 0].mean(axis=0))


@pytest.mark.parametrize(
  ("plot", "name", "label"),
  [
    (plots.gradient_decay, "log10_lag_norm", "lstm"),
    (plots.gradient_by_truncation, "log10_grad_norm", "full BPTT"),
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
  axis = plots.gradient_decay(gradients).axes[0]
  assert np.isnan(line(axis, "lstm").get_ydata()).all()
  np.testing.assert_array_equal(line(axis, "overflow (inf)").get_xdata(), gradients["lag"])


def test_heat_maps_show_layers_by_time_on_one_scale():
  gradients, _ = records(num_time=24, steps=(0, 10))
  figure = plots.depth_by_time(gradients)
  images = {axis.get_title(): axis.images[0] for axis in figure.axes if axis.images}
  assert len(images) == 6
  for cell in CELLS:
    seeds = values(gradients, "log10_grad_norm", cell=cell, depth=2, truncation=FULL)
    for step, when in [(0, "initialisation (step 0)"), (-1, "after training (step 10)")]:
      image = images[f"{cell}, depth 2, full BPTT\n{when}"]
      np.testing.assert_allclose(image.get_array(), seeds[:, step].mean(axis=0))
      assert image.origin == "lower"  # layer 1 at the bottom
      assert image.get_extent() == [0.5, 24.5, 0.5, 2.5]
  shown = np.concatenate([image.get_array() for image in images.values()])
  assert {image.get_clim() for image in images.values()} == {(shown.min(), shown.max())}
  assert any("log" in axis.get_ylabel() for axis in figure.axes)
  assert not figure.legends


def test_heat_maps_show_the_deepest_network_of_every_cell():
  gradients, _ = small(cells=("gru", "lstm"), depths=(1, 3))
  keep = (gradients["cell"].values == "lstm") | (gradients["depth"].values == 1)
  figure = plots.depth_by_time(gradients.isel(run=keep))
  shapes = {
    axis.get_title().split("\n")[0]: axis.images[0].get_array().shape
    for axis in figure.axes
    if axis.images
  }
  assert shapes == {"gru, depth 1, full BPTT": (1, 16), "lstm, depth 3, full BPTT": (3, 16)}
  assert not figure.legends  # the layers that a network lacks are not missing


def test_heat_maps_tell_zero_overflow_and_absent_from_values():
  gradients, _ = small(depths=(2,), seeds=(0,))
  norms = gradients["log10_grad_norm"].values
  norms[0, 0, 0, :3] = -np.inf, np.inf, np.nan
  figure = plots.depth_by_time(gradients)
  image = figure.axes[0].images[0]
  colours = image.to_rgba(image.get_array())[0]
  assert tuple(colours[0]) == to_rgba("black")
  assert tuple(colours[1]) == to_rgba("white")
  assert colours[2, 3] == 0 and figure.axes[0].patch.get_hatch()
  assert legend(figure) == [plot_style.ZERO, "overflow (inf)", "not measured"]
  finite = norms[:, [0, -1]][np.isfinite(norms[:, [0, -1]])]
  assert image.get_clim() == (finite.min(), finite.max())


def test_heat_maps_of_diverged_runs_say_which_step_they_show():
  gradients, _ = small(seeds=(0, 1))
  diverge(gradients, run=0, step=20)
  figure = plots.depth_by_time(gradients)
  after = panel(figure, "lstm, depth 1, full BPTT\nafter training (step 40)")
  expected = gradients["log10_grad_norm"][1, -1]
  np.testing.assert_array_equal(after.images[0].get_array(), expected)
  diverge(gradients, run=1, step=40)
  figure = plots.depth_by_time(gradients)
  assert "diverged: last step measured" in figure.axes[1].get_title()


def test_training_shows_every_run_the_median_and_the_baseline():
  _, metrics = records(num_time=1, steps=(0, 50))
  figure = plots.training(metrics)
  loss_axis = panel(figure, "depth 2")
  norm_axis = figure.axes[3]
  for axis, name in [(loss_axis, "loss"), (norm_axis, "grad_norm")]:
    for cell in CELLS:
      runs = values(metrics, name, cell=cell, depth=2)
      drawn = lines(axis, f"{cell}, one run")
      np.testing.assert_array_equal([run.get_ydata() for run in drawn], runs)
      seeds = values(metrics, name, cell=cell, depth=2, truncation=FULL)
      median = line(axis, cell)
      np.testing.assert_allclose(median.get_ydata(), seeds.mean(axis=0))
      np.testing.assert_array_equal(median.get_xdata(), metrics["update"])
      assert median.get_linewidth() > 1.5 * drawn[0].get_linewidth()
      assert median.get_color() == plot_style.CELL_STYLES[cell].colour
  assert set(line(loss_axis, "baseline").get_ydata()) == {2.9}
  assert "baseline (2.9 nats per character)" in legend(figure)
  assert "median over 2 seeds with full BPTT" in legend(figure)
  assert (loss_axis.get_yscale(), norm_axis.get_yscale()) == ("linear", "log")
  assert "nats per character" in figure.axes[0].get_ylabel()


def test_long_training_is_shown_by_medians_over_blocks():
  _, metrics = small(steps=(0, 250), seeds=(0,), clip_norm=(0.6,))
  figure = plots.training(metrics)
  loss, norm = metrics["loss"].values[0], metrics["grad_norm"].values[0]
  drawn = line(figure.axes[0], "lstm")
  assert len(drawn.get_xdata()) == 84  # of 251 updates, by threes
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
  figure = plots.training(metrics)
  axis = figure.axes[1]
  assert [line.get_ydata()[0] for line in lines(axis, "clip norm")] == [0.5, 2.0]
  clipped = metrics["grad_norm"].values > metrics["clip_norm"].values[:, None]
  for run, dots in enumerate(lines(axis, "clipped")):
    np.testing.assert_array_equal(dots.get_xdata(), np.flatnonzero(clipped[run]))
  assert clipped[0].any() and not clipped[2].any()
  assert "clip norm (0.5, 2)" in legend(figure)


def test_what_was_clipped_elsewhere_than_in_the_norm_is_marked_without_a_threshold():
  _, metrics = small(seeds=(0,), clip_norm=(0.5,), clip_by=("carry", "element"))
  metrics["clipped"].values[:] = 0
  metrics["clipped"].values[0, 5] = 0.01
  figure = plots.training(metrics)
  assert not lines(figure.axes[1], "clip norm")
  drawn = [dots.get_xdata().tolist() for dots in lines(figure.axes[1], "clipped")]
  assert drawn == [[5], []] and "clipped" in legend(figure)


def test_without_clipping_nothing_is_marked():
  _, metrics = small(clip_norm=(FULL,))
  figure = plots.training(metrics)
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
  figure = plots.training(metrics)
  for axis, name in zip(figure.axes, ("loss", "grad_norm"), strict=True):
    cross = line(axis, "diverged")
    assert cross.get_marker() == "x"
    assert cross.get_xdata().tolist() == [30]
    last = metrics[name].values[1, 29 if name in broken else 30]
    assert cross.get_ydata().tolist() == [last]
  assert f"diverged: {reason} not finite (1 run)" in legend(figure)
  assert bool(lines(figure.axes[1], "overflow (inf)")) is (reason == "gradient norm")


def test_a_run_that_diverged_at_once_still_has_its_cross():
  _, metrics = small(seeds=(0,))
  diverge(metrics, run=0, step=0)
  figure = plots.training(metrics)
  draw(figure)
  assert [line(axis, "diverged").get_xdata()[0] for axis in figure.axes] == [0, 0]


def test_a_loss_that_explodes_does_not_flatten_the_others():
  _, metrics = small(seeds=(0, 1))
  metrics["loss"].values[0, 30:] = 1e12
  figure = plots.training(metrics)
  (note,) = [text for text in legend(figure) if text.startswith("losses above")]
  ceiling = float(note.split()[2])
  assert figure.axes[0].get_ylim()[1] < 10
  drawn = lines(figure.axes[0], "lstm, one run")[0].get_ydata()
  np.testing.assert_allclose(drawn[30:], ceiling, rtol=1e-2)


def test_a_loss_that_falls_by_decades_has_a_logarithmic_axis():
  _, metrics = small(seeds=(0,))
  metrics["loss"].values[0] = 10.0 ** -np.linspace(0, 5, 41)
  assert plots.training(metrics).axes[0].get_yscale() == "log"


def test_norms_of_zero_are_marked_on_the_logarithmic_axis():
  _, metrics = small(seeds=(0,))
  metrics["grad_norm"].values[0, 7:9] = 0
  figure = plots.training(metrics)
  assert line(figure.axes[1], plot_style.ZERO).get_xdata().tolist() == [7, 8]
  assert np.isnan(line(figure.axes[1], "lstm").get_ydata()[7:9]).all()
  assert not lines(figure.axes[0], plot_style.ZERO)
  assert plot_style.ZERO in legend(figure)


def test_with_initialisation_alone_nothing_is_called_trained():
  gradients, metrics = small(steps=(0,))
  decay = plots.gradient_decay(gradients)
  assert "initialisation (step 0)" in legend(decay)
  assert not lines(decay.axes[0], "lstm")
  by_truncation = plots.gradient_by_truncation(gradients)
  assert "at initialisation (step 0)" in by_truncation.get_suptitle()
  heat = plots.depth_by_time(gradients)
  assert len([axis for axis in heat.axes if axis.images]) == 1
  for figure in (decay, by_truncation, heat, plots.training(metrics)):
    texts = [figure.get_suptitle(), *(axis.get_title() for axis in figure.axes)]
    assert "after training" not in " ".join(texts + (legend(figure) if figure.legends else []))
    draw(figure)


def test_panels_can_be_compared():
  gradients, metrics = records(num_time=16, steps=(0, 20))
  for plot, data, stack in [
    (plots.gradient_decay, gradients, 1),
    (plots.gradient_by_truncation, gradients, 1),
    (plots.training, metrics, 2),
  ]:
    figure = plot(data)
    draw(figure)
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


def test_styles_belong_to_names():
  styles = plot_style.cell_styles(["mgu", "lstm", "elman", "gru", "indrnn"])
  assert {name: styles[name] for name in CELLS} == plot_style.CELL_STYLES
  assert styles == plot_style.cell_styles(["indrnn", "gru", "mgu", "lstm", "elman"])
  assert styles["mgu"] == plot_style.cell_styles(["indrnn", "mgu"])["mgu"]
  assert len({style.colour for style in styles.values()}) == 5
  assert len({style.marker for style in styles.values()}) == 5
  gradients, metrics = small(cells=("mgu", "indrnn"))
  for figure in (plots.gradient_decay(gradients), plots.training(metrics)):
    for name in ("mgu", "indrnn"):
      assert line(figure.axes[0], name).get_color() == styles[name].colour


def test_lines_of_a_setting_get_darker():
  styles = plot_style.value_styles([1, 2, 4, 8])
  light = [np.dot(to_rgba(style.colour)[:3], (0.3, 0.6, 0.1)) for style in styles.values()]
  assert np.all(np.diff(light) < -0.1)
  assert len({style.marker for style in styles.values()}) == 4


def test_spread_leaves_out_nan_and_counts_infinities():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(5, 40))
  values[rng.random(values.shape) < 0.3] = np.nan
  values[0] = 0.5
  low, middle, high = plot_lines.spread(values)
  np.testing.assert_array_equal(low, np.nanmin(values, axis=0))
  np.testing.assert_allclose(middle, np.nanmedian(values, axis=0))
  np.testing.assert_array_equal(high, np.nanmax(values, axis=0))
  inf, nan = np.inf, np.nan
  values = np.array([[-inf, -inf, inf, nan], [-inf, 1.0, 2.0, nan], [3.0, 2.0, nan, nan]])
  low, middle, high = plot_lines.spread(values)
  np.testing.assert_array_equal(low, [-inf, -inf, 2, nan])
  np.testing.assert_array_equal(middle, [-inf, 1, inf, nan])
  np.testing.assert_array_equal(high, [3, 2, inf, nan])


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
def test_nothing_covers_data(axes):
  gradients, metrics = small(**axes)
  figures = [
    plots.gradient_decay(gradients),
    plots.gradient_by_truncation(gradients),
    plots.depth_by_time(gradients),
    plots.training(metrics),
  ]
  for figure in figures:
    draw(figure)
    panels = [axis.get_tightbbox() for axis in figure.axes]
    for words in [*figure.legends, *figure.texts]:
      assert not any(words.get_window_extent().overlaps(panel) for panel in panels)
    assert min(axis.get_window_extent().height for axis in figure.axes) > 0.3 * figure.dpi
    for one, other in itertools.combinations(panels, 2):
      assert not one.padded(-1).overlaps(other.padded(-1))
    for words in figure.legends:
      assert figure.bbox.x0 <= words.get_window_extent().x0
      assert words.get_window_extent().x1 <= figure.bbox.x1


def test_without_lags_there_is_no_figure_of_them(tmp_path):
  gradients, metrics = small(num_time=8)
  names = {path.stem for path in plots.save_all(gradients, metrics, tmp_path)}
  rest = plots.save_all(gradients.drop_vars("log10_lag_norm"), metrics, tmp_path)
  assert names - {path.stem for path in rest} == {"gradient_decay"}


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


def test_the_records_are_left_as_they_were():
  gradients, metrics = small()
  metrics["loss"].values[0, 30:] = 1e12
  copies = gradients.copy(deep=True), metrics.copy(deep=True)
  plots.gradient_decay(gradients), plots.gradient_by_truncation(gradients)
  plots.depth_by_time(gradients), plots.training(metrics)
  xr.testing.assert_identical(gradients, copies[0])
  xr.testing.assert_identical(metrics, copies[1])
