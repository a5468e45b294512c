"""Tests which steps are recorded, and how a `NonFinite` is converted to text and from JSON."""

from __future__ import annotations

import json

import pytest
from configured import make_run, make_settings

from experiments.sweep.records.record import (
  nonfinite_from_json,
  nonfinite_text,
  recorded_steps,
)
from rnn_jax.gradient_flow import NonFinite

RUN = make_run(steps=200)


@pytest.mark.parametrize(
  ("log_every", "measure_every", "steps"),
  [(20, 20, [*range(0, 201, 20)]), (150, 999, [0, 150, 200]), (999, 80, [0, 80, 160, 200])],
)
def test_recorded_steps_hold_the_first_and_the_last(log_every, measure_every, steps):
  settings = make_settings(log_every, "lag", measure_every)
  assert recorded_steps(RUN, settings) == steps


def test_the_first_non_finite_value_survives_json():
  found = NonFinite("forward", None, 1, "xs", (2, 1), "nan", 1.0, False)
  assert nonfinite_from_json(json.loads(json.dumps(found._asdict()))) == found
  assert nonfinite_from_json(None) is None
  assert nonfinite_text(None) == "no non-finite value was found"
