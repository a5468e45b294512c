"""Tests of mean-field theory against closed forms and limits."""

from __future__ import annotations

import math

import pytest

from experiments.reproduce import mean_field
from experiments.reproduce.figures import f2_gain, f4_chaos


def test_exponents_match_their_closed_forms():
  for gain, value in zip(f4_chaos.GAINS, f4_chaos.MEAN_FIELD, strict=True):
    assert mean_field.exponent(gain) == pytest.approx(value, abs=6e-4)
  assert mean_field.exponent(0.7) == pytest.approx(math.log(0.7))
  # At a small gain, only the inputs drive the units: a ~ N(0, w_i² D), and sech⁴ a ≈ 1 − 2 a².
  small = mean_field.exponent(1e-3, f2_gain.SCALE**2)
  assert small == pytest.approx(math.log(1e-3) - f2_gain.SCALE**2, abs=3e-4)
