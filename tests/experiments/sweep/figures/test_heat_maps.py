"""Tests of heat maps: gradient norms with axes (layer, time), and decay profiles of many cells."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from plotted import CELLS, FULL, diverge, legend, named, panel, records, small, values

from experiments.plotting import style
from experiments.sweep.figures import gradients as figures


def test_heat_maps_show_layers_by_time_on_one_scale():
  gradients, _ = records(num_time=24, steps=(0, 10))
  figure = figures.depth_by_time(gradients)
  images = {axis.get_title(): axis.images[0] for axis in figure.axes if axis.images}
  assert len(images) == 6
  for cell in CELLS:
    seeds = values(gradients, "log10_grad_norm", cell=cell, depth=2, truncation=FULL)
    for step, when in [(0, "initialization (step 0)"), (-1, "after training (step 10)")]:
      image = images[f"{cell}, depth 2, full BPTT\n{when}"]
      np.testing.assert_allclose(image.get_array(), seeds[:, step].mean(axis=0))
      assert image.origin == "lower"  # layer 1 is at the bottom
      assert image.get_extent() == [0.5, 24.5, 0.5, 2.5]
  shown = np.concatenate([image.get_array() for image in images.values()])
  assert {image.get_clim() for image in images.values()} == {(shown.min(), shown.max())}
  assert any("log" in axis.get_ylabel() for axis in figure.axes)
  assert not figure.legends


def test_heat_maps_show_the_deepest_network_of_every_cell():
  gradients, _ = small(cells=("gru", "lstm"), depths=(1, 3))
  keep = (gradients["cell"].values == "lstm") | (gradients["depth"].values == 1)
  figure = figures.depth_by_time(gradients.isel(run=keep))
  shapes = {
    axis.get_title().split("\n")[0]: axis.images[0].get_array().shape
    for axis in figure.axes
    if axis.images
  }
  assert shapes == {"gru, depth 1, full BPTT": (1, 16), "lstm, depth 3, full BPTT": (3, 16)}
  assert not figure.legends  # a layer that the network lacks does not count as "not measured"


def test_heat_maps_distinguish_zero_overflow_and_absent_values():
  gradients, _ = small(depths=(2,), seeds=(0,))
  norms = gradients["log10_grad_norm"].values
  norms[0, 0, 0, :3] = -np.inf, np.inf, np.nan
  figure = figures.depth_by_time(gradients)
  image = figure.axes[0].images[0]
  colors = image.to_rgba(image.get_array())[0]
  assert tuple(colors[0]) == to_rgba("black")
  assert tuple(colors[1]) == to_rgba("white")
  assert colors[2, 3] == 0 and figure.axes[0].patch.get_hatch()
  assert legend(figure) == [style.ZERO, "out of range (inf)", "not measured"]
  finite = norms[:, [0, -1]][np.isfinite(norms[:, [0, -1]])]
  assert image.get_clim() == (finite.min(), finite.max())


def test_heat_maps_of_diverged_runs_say_which_step_they_show():
  gradients, _ = small(seeds=(0, 1))
  diverge(gradients, run=0, step=20)
  figure = figures.depth_by_time(gradients)
  after = panel(figure, "lstm, depth 1, full BPTT\nafter training (step 40)")
  expected = gradients["log10_grad_norm"][1, -1]
  np.testing.assert_array_equal(after.images[0].get_array(), expected)
  diverge(gradients, run=1, step=40)
  figure = figures.depth_by_time(gradients)
  assert "diverged: last step measured" in figure.axes[1].get_title()


def test_many_cells_are_rows_of_a_heat_map_sorted_by_the_remaining_gradient():
  cells = [f"cell{i}" for i in range(figures.MAX_LINES + 1)]
  gradients, _ = records(cells=cells, depths=(1,), truncations=(FULL,), num_time=30, steps=(0, 10))
  norms = gradients["log10_lag_norm"]
  norms.values[:] = -np.arange(30) * (1 + np.arange(len(cells)).repeat(2)[:, None, None, None])
  before, after = figures.decay_maps(gradients).axes[:2]
  labels = [text.get_text() for text in before.get_yticklabels()]
  assert labels == cells[::-1]  # the cell that loses the most gradient is at the bottom
  (image,) = before.images
  np.testing.assert_allclose(image.get_array()[-1], -np.arange(30))
  assert "initialization (step 0)" in before.get_title()
  assert "after training (step 10)" in after.get_title()


def test_few_cells_are_lines_and_many_are_maps(tmp_path):
  few, metrics = records(cells=("elman",), depths=(1,), truncations=(FULL,), num_time=8, steps=(0,))
  drawn = []
  cells = [f"cell{i}" for i in range(figures.MAX_LINES + 1)]
  many, _ = records(cells=cells, depths=(1,), truncations=(FULL,), num_time=8, steps=(0,))
  with pytest.MonkeyPatch.context() as patch:
    for name in ("gradient_decay", "decay_maps"):
      original = getattr(figures, name)
      patch.setattr(figures, name, lambda *a, n=name, f=original: drawn.append(n) or f(*a))
    patch.setattr(style, "save", named)
    figures.save_all(few, metrics, tmp_path)
    figures.save_all(many, metrics, tmp_path)
  assert drawn == ["gradient_decay", "decay_maps"]
