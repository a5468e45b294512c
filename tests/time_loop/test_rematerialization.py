"""Tests that rematerialization changes no values or gradients, and saves memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unrolled import B, D, assert_close, problem, together

from rnn_jax import unroll

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(
  ("name", "num_steps", "remats"),
  [
    *(("elman", num_steps, ["sqrt"]) for num_steps in (1, 2, 16)),
    ("lstm", 17, ["step", "sqrt"]),
  ],
)
def test_rematerialization_changes_nothing(name, num_steps, remats):
  cell, arrays = problem(name, num_steps)
  time = {
    "lengths": np.array([num_steps, num_steps // 2]),
    "resets": np.random.default_rng(num_steps).random((num_steps, B)) < 0.2,
    "truncation": 3,
    "reverse": True,
  }
  plain = together(cell, **time)(*arrays)
  for remat in remats:
    again = together(cell, remat=remat, **time)(*arrays)
    assert_close(again, plain)


def test_rematerialization_changes_nothing_forward_in_time():
  cell, arrays = problem("elman", 17)
  plain = together(cell)(*arrays)
  for remat in ("step", "sqrt"):
    again = together(cell, remat=remat)(*arrays)
    assert_close(again, plain)


def temporaries(remat, key, num_steps=1024):
  cell, (params, *_) = problem("lstm")
  xs = jax.ShapeDtypeStruct((num_steps, 8, D), float)
  loss = jax.jit(jax.grad(lambda p, xs: jnp.sum(unroll(cell, p, xs, remat=remat, key=key)[1][-1])))
  return loss.lower(params, xs).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("key", [None, jax.random.key(0)], ids=["no_key", "key"])
def test_rematerialization_in_blocks_saves_memory(key):
  assert temporaries("sqrt", key) < 0.6 * temporaries("none", key)


def test_rematerialization_in_blocks_draws_the_same_masks():
  cell, arrays = problem("zoneout_lstm", 9)
  plain = together(cell, key=jax.random.key(1))(*arrays)
  again = together(cell, remat="sqrt", key=jax.random.key(1))(*arrays)
  assert_close(again, plain)
