"""F19: its checks on made-up alignments, and closed forms of the task and of UORO."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reproduce.figures import f19_alignment

pytestmark = pytest.mark.usefixtures("optax_promotion")


def alignments(cosines, *, kept=1.0, loss=0.5):
  """Returns records of F19 with a given mean cosine of each estimator."""
  names = f19_alignment.NAMES
  jitter = 0.01 * (np.arange(8) % 2 - 0.5)
  cosine = np.array([cosines[name] for name in names])[:, None] + np.zeros((2, 3, len(names), 8))
  return f19_alignment.Record(cosine, kept + jitter + 0 * cosine, np.full((2, 3, 4), loss))


ALIGNED = {"rtrl": 1, "tbptt5": 0.9, "snap1": 0.8, "rflo": 0.7, "kf_rtrl": 0.4, "uoro1": 0.1}


@pytest.mark.parametrize(
  ("cosines", "options", "missed"),
  [
    (ALIGNED, {}, set()),
    (ALIGNED | {"rtrl": 0.99}, {}, {"rtrl: smallest cosine"}),
    (ALIGNED | {"uoro1": 0.5}, {}, {"cosine of kf_rtrl − uoro1, medians over seeds"}),
    (ALIGNED, {"loss": 0.6}, {"loss of the last 4, worst seed"}),
    (
      ALIGNED,
      {"kept": 1.1},
      {f"{n}: |mean ⟨ĝ, g⟩/‖g‖² − 1|, in standard errors" for n in f19_alignment.RANDOM},
    ),
  ],
)
def test_checks_the_order_of_the_estimators(cosines, options, missed):
  found = f19_alignment.checks_of(alignments(cosines, **options))
  assert {check.name for check in found if not check.met} == missed


def test_variance_of_uoro_is_that_over_all_signs():
  delta, slopes, x = np.array([0.3, -1.0, 0.5, 2.0]), np.array([1.0, 0.2, 0.7, 0.4]), np.ones(3)
  influence = slopes[:, None] * x  # of the row of unit i on unit i
  signs = np.array(list(itertools.product((-1, 1), repeat=4)))
  estimates = (signs @ delta)[:, None, None] * signs[:, :, None] * influence
  gradient = delta[:, None] * influence
  np.testing.assert_allclose(estimates.mean(axis=0), gradient, atol=1e-12)
  variance = ((estimates - gradient) ** 2).sum(axis=(1, 2)).mean() / (gradient**2).sum()
  found = f19_alignment.uoro_variance(jnp.array(delta), jnp.array(slopes))
  assert found == pytest.approx(variance)


def test_entropies_are_those_of_its_task():
  batch = f19_alignment.add_task(4000).batch((), jax.random.key(0))
  x, target = np.asarray(batch.xs[..., 1]), np.asarray(batch.targets)
  valid = np.asarray(batch.mask)
  first, second = (np.roll(x, lag, axis=0)[valid] for lag in (3, 6))

  def entropy(*given):
    total = 0.0
    for values in itertools.product((0, 1), repeat=len(given)):
      chosen = np.ones(first.shape, bool)
      for inputs, value in zip(given, values, strict=True):
        chosen &= inputs == value
      p = target[valid][chosen].mean()
      total -= chosen.mean() * (p * np.log(p) + (1 - p) * np.log(1 - p)) if 0 < p < 1 else 0.0
    return total

  expected = f19_alignment.GUESS, f19_alignment.FIRST_ONLY, f19_alignment.FLOOR
  found = entropy(), entropy(first), entropy(first, second)
  np.testing.assert_allclose(found, expected, atol=5e-3)


def test_one_step_meets_its_closed_forms(monkeypatch):
  monkeypatch.setattr(f19_alignment, "HIDDEN_SIZE", 4)
  measured, formula, cosine = map(float, f19_alignment.one_step(np.uint32(0), num_keys=500))
  assert measured == pytest.approx(formula, rel=0.2)
  assert cosine == pytest.approx(1, abs=1e-5)


def test_training_records_exact_gradients_of_rtrl(monkeypatch):
  for name, value in {"HIDDEN_SIZE": 3, "NAMES": ("rtrl", "uoro1")}.items():
    monkeypatch.setattr(f19_alignment, name, value)
  record = f19_alignment.train((0, 1), calls=2, call=2, windows=2, num_keys=2)
  assert record.cosine.shape == (2, 2, 2, 2) and record.loss.shape == (2, 2, 2)
  np.testing.assert_allclose(record.cosine[:, :, 0], 1, atol=1e-4)
  np.testing.assert_allclose(record.kept[:, :, 0], 1, atol=1e-3)
  assert (np.abs(record.cosine[:, :, 1]) < 0.999).all()
