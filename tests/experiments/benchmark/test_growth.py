"""One size at a time grows; costs are drawn relative to those at the smallest size."""

from __future__ import annotations

import pytest

from experiments.benchmark import growth, sweep_times
from experiments.benchmark.growth import HIDDEN, LAYERS, RUNS, STEPS, Point
from experiments.benchmark.sweep_times import SweepTime


def test_sweeps_and_gradients_are_measured(monkeypatch):
  started = []

  def time_sweep(name, flags, devices):
    started.append(flags[-1])
    return SweepTime(name, 1.5)

  monkeypatch.setattr(sweep_times, "time_sweep", time_sweep)
  monkeypatch.setattr(growth, "_SECONDS", 0.01)
  points = list(growth.measure(runs=[2, 3], steps=[4], hidden=[2], layers=[1, 2]))
  sizes = [(RUNS, 2), (RUNS, 3), (STEPS, 4), (HIDDEN, 2), (LAYERS, 1), (LAYERS, 2)]
  assert [(point.axis, point.size) for point in points] == sizes
  assert started == ["--seed=0,1", "--seed=0,1,2"]
  assert all(point.seconds > 0 for point in points)
  assert all(point.compile_seconds > 0 and point.temporaries > 0 for point in points[2:])


def test_the_picture_shows_what_was_measured():
  points = [Point(RUNS, 36, None), Point(RUNS, 72, 1.0)]
  points += [Point(LAYERS, n, 0.1 * n, 0.5, 100 * n) for n in (2, 4)]
  runs, layers = growth.picture(points).axes
  assert [line.get_label() for line in runs.lines] == ["proportional to size"]
  drawn = {line.get_label(): list(line.get_ydata()) for line in layers.lines}
  assert drawn == {
    "time": pytest.approx([1, 2]),
    "compile time": [1, 1],
    "memory": [1, 2],
    "proportional to size": [1, 2],
  }
