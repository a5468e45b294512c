"""F23: the input of two tokens, and the checks on made-up accuracies."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from experiments.reproduce.figures import f23_recall
from rnn_jax.tasks import associative_recall

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_the_input_of_a_step_is_its_token_and_the_one_before():
  plain = associative_recall(16, 3, 2)
  batch, tokens = (t.batch((), jax.random.key(0)) for t in (f23_recall.windows(plain), plain))
  size = plain.vocabulary_size
  now, before = np.split(np.asarray(batch.xs), 2, axis=-1)
  np.testing.assert_array_equal(now, np.eye(size)[np.asarray(tokens.xs)])
  np.testing.assert_array_equal(before[1:], now[:-1])
  assert not before[0].any()
  np.testing.assert_array_equal(batch.mask, tokens.mask)


@pytest.mark.parametrize(
  ("small", "large", "missed"),
  [
    ((0.1, 0.2), (0.3, 0.9), []),
    ((0.1, 0.05), (0.3, 0.9), ["H = 8: accuracy, worst matrix memory minus best vector"]),
    (
      (0.4, 0.5),
      (0.3, 0.9),
      [f"{c}: accuracy at H = 32 minus that at H = 8" for c in ("gru", "lstm")],
    ),
    ((0.1, 0.2), (0.3, 0.4), ["largest accuracy"]),
  ],
)
def test_checks_compare_sizes_and_kinds_of_states(small, large, missed):
  found = {}
  for size, accuracy in ((8, small), (32, large)):
    for name in f23_recall.CELLS:
      found[name, size] = np.full(3, accuracy[name in f23_recall.MATRICES])
  checks = f23_recall.checks_of(found, (8, 32))
  assert [check.name for check in checks if not check.met] == missed


def test_one_size_is_trained():
  outcome = f23_recall.run(sizes=(2,), seeds=(0,), num_updates=1)
  assert [row["numbers in the state"] for row in outcome.table] == [2, 4, 4, 4 + 2 + 1]
