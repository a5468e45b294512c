"""Tests of the checks that compare a measured with an expected value."""

from __future__ import annotations

import math

from experiments.reproduce.figure import absolute, at_least, at_most, relative


def test_a_check_is_met_only_within_its_tolerance():
  assert relative("", 1.19, 1.0, 0.2).met and relative("", -0.81, -1.0, 0.2).met
  assert not relative("", 1.21, 1.0, 0.2).met and not relative("", -0.79, -1.0, 0.2).met
  assert absolute("", 0.9, 1.0, 0.11).met and not absolute("", 0.9, 1.0, 0.09).met
  assert at_most("", 1.0, 1.0).met and not at_most("", 1.1, 1.0).met
  assert at_least("", 1.0, 1.0).met and not at_least("", 0.9, 1.0).met
  for check in (relative, absolute):
    assert not check("", math.nan, 1.0, 9.0).met
  for check in (at_most, at_least):
    assert not check("", math.nan, 1.0).met
