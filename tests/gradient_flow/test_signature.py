"""All measures of a network share one signature, and name the argument that does not fit."""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import pytest
from networks import draw, mean_loss, network

from rnn_jax import gradient_flow

T, B, D, H = 3, 2, 2, 3
XS = draw(80, T, B, D)
CELLS, PARAMS = network(["gru", "gru"], H)

# Measures of a network, and the options without a default.
MEASURES = {
  "gate_values": {},
  "jacobian_norm": {"key": jax.random.key(0)},
  "lag_profile": {},
  "lyapunov_spectrum": {},
  "omega": {},
  "saturation": {},
  "sensitivity": {"direction": PARAMS},
  "singular_values": {},
  "step_jacobians": {},
  "truncation_bias": {"truncations": [1]},
  "weight_share_norms": {},
  "weight_shares": {},
}
LOSSES = {"lag_profile": lambda y: y[:, 0]}
OTHERS = {
  *("NonFinite", "Pass", "Saturation", "TruncationBias", "forward_layers", "joint_size"),
  *("saliency", "first_nonfinite", "describe_nonfinite"),
  *("choose_truncation", "decay_rate", "effective_memory", "half_life"),
}


def call(name, cells=CELLS, params=PARAMS, xs=XS, **options):
  measure = getattr(gradient_flow, name)
  loss = [LOSSES.get(name, mean_loss)] if "loss" in inspect.signature(measure).parameters else []
  return measure(cells, params, xs, *loss, **{**MEASURES[name], **options})


def test_every_exported_measure_is_in_the_table():
  assert MEASURES.keys() | OTHERS == set(gradient_flow.__all__)


@pytest.mark.parametrize("name", MEASURES)
def test_arguments_have_the_same_names_and_order(name):
  parameters = inspect.signature(getattr(gradient_flow, name)).parameters
  positional = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
  assert positional in (["cells", "params", "xs"], ["cells", "params", "xs", "loss"])
  assert all(p.kind is p.KEYWORD_ONLY for n, p in parameters.items() if n not in positional)


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "truncation_bias"])
def test_results_have_one_entry_a_layer(name):
  assert len(jax.eval_shape(functools.partial(call, name, CELLS), PARAMS, XS)) == len(CELLS)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
  ("wrong", "error", "message"),
  [
    ({"cells": CELLS[0]}, TypeError, "cells must be a sequence, one cell a layer, got Cell"),
    ({"cells": []}, ValueError, "cells must hold at least one cell, got none"),
    ({"cells": ["gru", "gru"]}, TypeError, r"cells must hold cells, got str at \[0\]"),
    ({"params": PARAMS[0]}, TypeError, "params must be a sequence, one entry a layer, got dict"),
    ({"params": PARAMS[:1]}, ValueError, "params must have 2 entries, one a layer, got 1"),
    ({"xs": XS[0, 0]}, ValueError, r"xs must be \[T, B, D\]"),
    ({"xs": XS[None]}, ValueError, r"xs must be \[T, B, D\]"),
    ({"xs": jnp.float32(1)}, ValueError, r"xs must be \[T, B, D\]"),
    ({"xs": XS[:0]}, ValueError, r"xs must be \[T, B, D\]"),
  ],
)
def test_arguments_that_do_not_fit_are_named(name, wrong, error, message):
  with pytest.raises(error, match=message):
    call(name, **wrong)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("name", "options", "error", "message"),
  [
    ("step_jacobians", {"carries": PARAMS[:1]}, ValueError, "carries must have 2 entries"),
    ("singular_values", {"carries": [draw(0, B, H)]}, ValueError, "carries must have 2 entries"),
    ("lyapunov_spectrum", {"carries": [draw(0, H)] * 2}, ValueError, "carry must have leaves"),
    ("sensitivity", {"direction": PARAMS[:1]}, ValueError, "direction must have 2 entries"),
    ("lag_profile", {"positions": T}, ValueError, f"positions must be below T = {T}, got {T}"),
    ("truncation_bias", {"truncations": 1}, ValueError, "truncations must be a list"),
  ],
)
def test_options_that_do_not_fit_are_named(name, options, error, message):
  with pytest.raises(error, match=message):
    call(name, **options)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("function", "arguments", "error", "message"),
  [
    ("decay_rate", (1.0,), ValueError, r"profile must be \[lag, ...\]"),
    ("decay_rate", (jnp.arange(3),), TypeError, "profile must be floats"),
    ("effective_memory", (jnp.zeros(0), 0.5), ValueError, r"profile must be \[lag, ...\]"),
    ("effective_memory", (jnp.zeros(3), 2), ValueError, "epsilon must be at most 1, got 2"),
    ("choose_truncation", ((), 0.1), ValueError, "profile must have leaves"),
    ("choose_truncation", ((jnp.zeros(3), jnp.zeros(2)), 0.1), ValueError, "with the same lags"),
    ("choose_truncation", (jnp.float32(0), 0.1), ValueError, "profile must have leaves"),
  ],
)
def test_profiles_that_do_not_fit_are_named(function, arguments, error, message):
  with pytest.raises(error, match=message):
    getattr(gradient_flow, function)(*arguments)
