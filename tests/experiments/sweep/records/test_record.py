"""Tests which steps are recorded, and how a `NonFinite` is converted to text and from JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from experiments.sweep.config.runs import Settings
from experiments.sweep.records.record import (
  nonfinite_from_json,
  nonfinite_text,
  recorded_steps,
)
from rnn_jax.gradient_flow import NonFinite

SETTINGS = Settings("charlm", "stdlib", 64, 128, 32, 200, "adam", 20, "lag", 20)


@pytest.mark.parametrize(
  ("log_every", "measure_every", "steps"),
  [(20, 20, [*range(0, 201, 20)]), (150, 999, [0, 150, 200]), (999, 80, [0, 80, 160, 200])],
)
def test_recorded_steps_hold_the_first_and_the_last(log_every, measure_every, steps):
  settings = dataclasses.replace(SETTINGS, log_every=log_every, measure_every=measure_every)
  assert recorded_steps(settings) == steps


def test_the_first_non_finite_value_survives_json():
  found = NonFinite("forward", None, 1, "xs", (2, 1), "nan", 1.0, False)
  assert nonfinite_from_json(json.loads(json.dumps(found._asdict()))) == found
  assert nonfinite_from_json(None) is None
  assert nonfinite_text(None) == "no non-finite value was found"
