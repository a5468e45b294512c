"""F16: a tiny training with each forget bias."""

from __future__ import annotations

import numpy as np
import pytest
from outcomes import by_name, draws

from experiments.reproduce.figures import f16_forget_bias
from rnn_jax.tasks import adding

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_trains_each_bias(monkeypatch):
  name = "adding, T = 4"
  monkeypatch.setattr(f16_forget_bias, "TASKS", {name: adding(4, 2)})
  monkeypatch.setattr(f16_forget_bias, "CALL", 5)
  outcome = f16_forget_bias.run(10, (0,), 4)
  checks = by_name(outcome)
  assert checks["decay rate, W_h = 0: largest relative distance from ln σ(b_f)"].met
  losses = [row[f"{name}: mean loss / baseline"] for row in outcome.table]
  assert np.isfinite(losses).all() and len(set(losses)) == len(f16_forget_bias.BIASES)
  first = checks[f"{name}: loss at b_f = 1 minus b_f = 0"]
  assert first.measured == pytest.approx(losses[2] - losses[1])
  assert outcome.table[2]["half-life, W_h = 0"] == pytest.approx(2.2127, abs=1e-4)
  assert draws(outcome)
