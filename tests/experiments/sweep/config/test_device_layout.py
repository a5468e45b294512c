"""Tests of the layout of runs on devices."""

from __future__ import annotations

import pytest

from experiments.sweep.config.device_layout import runs_together


@pytest.mark.parametrize(
  ("num_runs", "rows", "most", "together"),
  [(1, 1, 1, 1), (36, 2, 1, 1), (4, 1, 16, 4), (17, 1, 16, 9), (16, 8, 16, 2), (3, 8, 16, 1)],
)
def test_runs_are_spread_evenly_over_devices_and_rounds(num_runs, rows, most, together):
  assert runs_together(num_runs, rows, most) == together
