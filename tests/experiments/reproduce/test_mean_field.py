"""Tests of mean-field theory against closed forms and limits."""

from __future__ import annotations

import math

import pytest

from experiments.reproduce import mean_field
from experiments.reproduce.figures import f2_gain

EXPONENTS = {0.5: -0.693, 0.9: -0.105, 1.25: 0.0235, 1.5: 0.0652, 2.0: 0.1547, 3.0: 0.3103}
WITH_INPUTS = {0.5: -0.706, 0.9: -0.142, 1.0: -0.066, 1.1: -0.024, 1.5: 0.061}  # of variance 0.01


def test_exponents_match_their_closed_forms():
  for gain, value in EXPONENTS.items():
    assert mean_field.exponent(gain) == pytest.approx(value, abs=6e-4)
  for gain, value in WITH_INPUTS.items():
    assert mean_field.exponent(gain, f2_gain.SCALE**2) == pytest.approx(value, abs=6e-4)
  assert mean_field.exponent(0.7) == pytest.approx(math.log(0.7))
  # At a small gain, only the inputs drive the units: a ~ N(0, w_i² D), and sech⁴ a ≈ 1 − 2 a².
  small = mean_field.exponent(1e-3, f2_gain.SCALE**2)
  assert small == pytest.approx(math.log(1e-3) - f2_gain.SCALE**2, abs=3e-4)
