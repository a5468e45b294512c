"""`fused_gates` of LSTM and GRU equals the plain reference `gates`, derivatives included."""

from __future__ import annotations

import functools
import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

H = 3
# Widths of the arguments of `gates`: (a, c) for the LSTM, (h, drive, recurrent) for the GRU.
WIDTHS = {"lstm": (4 * H, H), "gru": (H, 3 * H, 3 * H)}


@pytest.mark.parametrize("name", WIDTHS)
def test_fused_gates_equal_the_specification(x64, name):
  family, random = importlib.import_module(f"rnn_jax.cells.{name}"), np.random.default_rng(0)
  args, tangents = (
    tuple(jnp.asarray(2 * random.standard_normal((5, width))) for width in WIDTHS[name])
    for _ in range(2)
  )

  @functools.partial(jax.jit, static_argnums=0)
  def everything(gates):
    values, forward = jax.jvp(gates, args, tangents)
    _, vjp = jax.vjp(gates, *args)
    return values, forward, vjp(forward)

  chex.assert_trees_all_close(
    everything(family.fused_gates), everything(family.gates), rtol=1e-13, atol=1e-14
  )
