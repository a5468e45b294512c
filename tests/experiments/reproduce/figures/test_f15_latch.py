"""F15: a tiny training, and the unit with its learned inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import by_name, draws

from experiments.reproduce.figures import f15_latch

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_trains_a_latch(monkeypatch):
  monkeypatch.setattr(f15_latch, "GAINS", (2.0,))
  monkeypatch.setattr(f15_latch, "HOLD", 500)
  outcome = f15_latch.run((4, 8), (0, 1), 2)
  checks = by_name(outcome)
  assert checks["decay rate without noise, largest distance from closed form"].met
  assert checks["log₁₀(gradient / bound) in noise, largest"].met
  assert [row["latch"] for row in outcome.table] == [
    "w = 2, untrained",
    "T = 4, trained",
    "T = 8, trained",
  ]
  assert draws(outcome)


def test_loss_is_that_of_the_unit_with_its_learned_inputs():
  xs, signs = f15_latch.batch(5, 4, jax.random.key(0))
  inputs = np.arange(6.0) / 10
  params = {"w": jnp.asarray(1.3), "inputs": jnp.asarray(inputs, jnp.float32)}
  noise = np.asarray(xs)[:, :, -1]
  assert (noise[:3] == 0).all() and (noise[3:] != 0).all()
  wanted = []
  for b, sign in enumerate(np.asarray(signs)):
    h = 0.0
    for t in range(5):
      learned = inputs[t + (3 if sign > 0 else 0)] if t < 3 else 0.0
      h = np.tanh(1.3 * h + learned + noise[t, b])
    wanted.append(h)
  np.testing.assert_allclose(f15_latch.final(params, xs), wanted, rtol=1e-5)
