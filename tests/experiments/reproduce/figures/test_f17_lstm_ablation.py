"""F17: a tiny training, and the parts that each variant lacks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import draws

import rnn_jax
from experiments.reproduce.figures import f17_lstm_ablation
from rnn_jax.cells import LSTMCarry, peephole_lstm

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_trains_each_variant(tmp_path):
  (tmp_path / "text").write_bytes(b"the quick brown fox " * 50)
  outcome = f17_lstm_ablation.run(str(tmp_path / "text"), 3, (0, 1), 4)
  assert [row["variant"] for row in outcome.table] == list(f17_lstm_ablation.VARIANTS)
  assert outcome.table[0]["relative effect"] == 0
  losses = [row["held-out loss, median"] for row in outcome.table]
  assert np.isfinite(losses).all() and len(set(losses)) == len(losses)
  assert draws(outcome)


def test_variants_replace_one_part():
  hidden, key = 3, jax.random.key(0)
  usual = peephole_lstm(hidden, forget_bias=0.0)
  keys = iter(jax.random.split(key, 9))
  params = {k: jax.random.normal(next(keys), a.shape) for k, a in usual.init(key, 2).items()}
  carry = LSTMCarry(*jax.random.normal(next(keys), (2, 4, hidden)))
  drive = usual.project(params, jax.random.normal(next(keys), (4, 2)))
  a_i, a_f, a_g, a_o = np.split(np.asarray(drive + usual.recur(params, carry), float), 4, axis=-1)
  p_o, c = np.asarray(params["p"], float)[2 * hidden :], np.asarray(carry.cell, float)

  def sigma(a):
    return 1 / (1 + np.exp(-a))

  def expected(name):
    i = 1 if name == "NIG" else sigma(a_i)
    f = {"NFG": 1, "CIFG": 1 - i}.get(name, sigma(a_f))
    new = f * c + i * (a_g if name == "NIAF" else np.tanh(a_g))
    o = 1 if name == "NOG" else sigma(a_o + p_o * new)
    return o * (new if name == "NOAF" else np.tanh(new)), new

  for index, name in enumerate(f17_lstm_ablation.VARIANTS):
    found = rnn_jax.step(f17_lstm_ablation.ablated(hidden, index), params, carry, drive)
    if name == "NP":
      none = {**params, "p": jnp.zeros_like(params["p"])}
      wanted = rnn_jax.step(usual, none, carry, drive)
    else:
      wanted = expected(name)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
