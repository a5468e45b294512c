"""F14: its closed forms, and its checks on made-up errors."""

from __future__ import annotations

import numpy as np
import pytest
from outcomes import draws

from experiments.reproduce.figures import f14_teacher_student
from experiments.reproduce.training import SeedAndRate

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_meets_its_closed_forms_and_compares_the_growth_of_errors(monkeypatch):
  monkeypatch.setattr(f14_teacher_student, "STEPS", 400)
  monkeypatch.setattr(f14_teacher_student, "DECAYS", (0.5, 0.9))

  def train(name, memory, runs, *_):
    grows = (name == "dense") is good
    return np.array([0.01 * (memory if grows else 1.1)] * len(runs))

  monkeypatch.setattr(f14_teacher_student, "train", train)
  good = True
  outcome = f14_teacher_student.run()
  assert all(check.met for check in outcome.checks) and len(outcome.checks) == 9
  assert len(outcome.table) == 2 + 6
  assert draws(outcome)
  good = False
  monkeypatch.setattr(f14_teacher_student, "one_unit", lambda: outcome.table[:2])
  assert not any(check.met for check in f14_teacher_student.run().checks[-2:])


def test_trains():
  run = SeedAndRate(np.uint32(0), np.float32(1e-3))
  (error,) = f14_teacher_student.train("LRU", 2.0, [run], 2, 2)
  assert 0 < error < np.inf
