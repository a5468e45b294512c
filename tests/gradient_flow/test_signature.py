"""All measures of a network share one signature, and their errors name the wrong argument."""

from __future__ import annotations

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from networks import draw, mean_loss, network
from other_array import OtherArray

from rnn_jax import DeepRNN, gradient_flow, make_cell
from rnn_jax.losses import squared_error
from rnn_jax.tasks import Batch

T, B, D, H = 3, 2, 2, 3
XS = draw(80, T, B, D)
CELLS, PARAMS = network(["gru", "gru"], H)

# The measures of a network. Each has a dict of values for the options that have no default.
MEASURES = {
  "carry_gradients": {},
  "flossing": {},
  "gate_values": {},
  "jacobian_norm": {"key": jax.random.key(0)},
  "lag_profile": {},
  "lyapunov_spectrum": {},
  "newton_in_time": {},
  "omega": {},
  "saturation": {},
  "sensitivity": {"direction": PARAMS},
  "singular_values": {},
  "step_jacobians": {},
  "truncation_bias": {"truncations": [1]},
  "underflow": {"dtype": "float16"},
  "weight_share_norms": {},
  "weight_shares": {},
}
LOSSES = {
  "lag_profile": lambda y: y[:, 0],
  "underflow": lambda ys: mean_loss(ys.astype(float)),  # ys are in half precision, too
}
OTHERS = {
  *("Curvature", "curvature", "FixedPoints", "fixed_points", "visited_carries"),
  *(
    "NewtonConvergence",
    "NonFinite",
    "Pass",
    "Saturation",
    "TruncationBias",
    "forward_layers",
    "joint_size",
  ),
  *("saliency", "first_nonfinite", "describe_nonfinite"),
  *("ScanGradient", "ScanGradients", "scan_gradients"),
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


def in_half(tree):
  return jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree)


@pytest.mark.parametrize("name", MEASURES)
def test_measures_of_half_precision_are_those_of_the_same_numbers_in_float32(name):
  def both(params, xs):
    rounded = jax.tree.map(lambda a: a.astype(float), (params, xs))
    return [
      call(name, CELLS, p, x, **({"direction": p} if name == "sensitivity" else {}))
      for p, x in ((params, xs), rounded)
    ]

  found, expected = jax.jit(both)(in_half(PARAMS), in_half(XS))
  chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
  chex.assert_trees_all_close(found, expected, rtol=1e-5)


def test_summaries_of_a_half_precision_profile_are_float32():
  profile = jnp.linspace(0, -8, 1000, dtype=jnp.bfloat16)
  memory = gradient_flow.effective_memory(profile, 0.01)
  assert int(memory) == int(jnp.argmax(profile.astype(float) < -2))
  for found in (memory, gradient_flow.half_life(gradient_flow.decay_rate(profile))):
    assert found.dtype == jnp.float32
  assert gradient_flow.choose_truncation(profile, 0.1) == gradient_flow.choose_truncation(
    profile.astype(float), 0.1
  )


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
  ("wrong", "error", "message"),
  [
    ({"cells": CELLS[0]}, TypeError, "cells must be a sequence, one cell a layer, got Cell"),
    ({"cells": []}, ValueError, "cells must hold at least one cell, got none"),
    ({"cells": ["gru", "gru"]}, TypeError, r"cells\[0\] must be a Cell, got 'gru'"),
    ({"params": PARAMS[0]}, TypeError, "params must be a sequence, one entry a layer, got dict"),
    ({"params": PARAMS[:1]}, ValueError, "params must have 2 entries, one a layer, got 1"),
    ({"xs": XS[0, 0]}, ValueError, r"xs must be \[T, B, D\]"),
    ({"xs": XS[None]}, ValueError, r"xs must be \[T, B, D\]"),
    ({"xs": jnp.float32(1)}, ValueError, r"xs must be \[T, B, D\]"),
    ({"xs": XS[:0]}, ValueError, r"xs must be \[T, B, D\]"),
    ({"xs": XS[..., :1]}, ValueError, r"xs must be \[T, B, 2\], got \[3, 2, 1\]"),
    ({"xs": XS.astype(complex)}, TypeError, "xs must be an array of floats or integers, got compl"),
    ({"xs": None}, TypeError, "xs must be an array of floats or integers, got None"),
  ],
)
def test_arguments_that_do_not_fit_are_named(name, wrong, error, message):
  with pytest.raises(error, match=message):
    call(name, **wrong)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", MEASURES)
def test_xs_may_be_an_array_of_another_library(name):
  other = OtherArray(XS)
  shapes = [jax.eval_shape(lambda xs=xs: call(name, xs=xs)) for xs in (XS, other)]
  chex.assert_trees_all_equal(*shapes)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
  ("params", "message"),
  [
    ([None, PARAMS[1]], r"params\[0\] must have the structure"),
    (
      [PARAMS[0], {**PARAMS[1], "b": PARAMS[1]["b"][:1]}],
      r"params\[1\]\['b'\] must be floats \[9\], got float32\[1\]",
    ),
  ],
)
def test_params_that_do_not_fit_are_named(name, params, message):
  options = {"direction": params} if name == "sensitivity" else {}
  with pytest.raises(ValueError, match=message):
    call(name, params=params, **options)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("name", "options", "error", "message"),
  [
    ("step_jacobians", {"carries": PARAMS[:1]}, ValueError, "carries must have 2 entries"),
    ("singular_values", {"carries": [draw(0, B, H)]}, ValueError, "carries must have 2 entries"),
    ("lyapunov_spectrum", {"carries": [draw(0, H)] * 2}, ValueError, "carry must be float"),
    ("sensitivity", {"direction": PARAMS[:1]}, ValueError, "direction must have 2 entries"),
    ("lag_profile", {"positions": T}, ValueError, f"positions must be below T = {T}, got {T}"),
    ("truncation_bias", {"truncations": 1}, ValueError, "truncations must be a list"),
    ("jacobian_norm", {"key": 3}, TypeError, "key must be a random key"),
    ("step_jacobians", {"carries": draw(0, B, H)}, TypeError, "carries must be a sequence"),
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
    ("decay_rate", (jnp.arange(3),), TypeError, "profile must be an array of floats"),
    ("effective_memory", (jnp.zeros(0), 0.5), ValueError, r"profile must be \[lag, ...\]"),
    ("effective_memory", (jnp.zeros(3), 2), ValueError, "epsilon must be at most 1, got 2"),
    ("choose_truncation", ((), 0.1), ValueError, "profile must have leaves"),
    ("choose_truncation", ((jnp.zeros(3), jnp.zeros(2)), 0.1), ValueError, "with the same lags"),
    ("choose_truncation", (jnp.float32(0), 0.1), ValueError, "profile must have leaves"),
    ("choose_truncation", (jnp.arange(3), 0.1), TypeError, "profile must be an array of floats"),
    (
      "choose_truncation",
      ((jnp.zeros((3, 1)), jnp.zeros((3, 2))), 0.1),
      ValueError,
      "profile must have leaves of the same size",
    ),
    ("choose_truncation", (jnp.zeros(3), 1), ValueError, "tolerance must be below 1, got 1"),
    ("decay_rate", (None,), TypeError, "profile must be an array of floats, got None"),
    ("half_life", ("x",), TypeError, "rate must be an array of floats, got 'x'"),
    ("half_life", (True,), TypeError, r"rate must be an array of floats, got bool\[\]"),
    ("joint_size", ("gru",), TypeError, "cell must be a Cell, got 'gru'"),
    ("describe_nonfinite", (None,), TypeError, "found must be a NonFinite, from first_nonfinite"),
  ],
)
def test_profiles_that_do_not_fit_are_named(function, arguments, error, message):
  with pytest.raises(error, match=message):
    getattr(gradient_flow, function)(*arguments)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  "name",
  [
    *("carry_gradients", "lag_profile", "omega", "truncation_bias"),
    *("weight_share_norms", "weight_shares"),
  ],
)
@pytest.mark.parametrize(
  ("loss", "message"),
  [
    (None, "loss must be a function, got None"),
    (lambda ys: (ys, 0), r"loss must return floats, got \(float32"),
    (lambda ys: ys.astype(complex), "loss must return floats, got complex64"),
  ],
)
def test_a_wrong_loss_is_named(name, loss, message):
  with pytest.raises(TypeError, match=message):
    getattr(gradient_flow, name)(CELLS, PARAMS, XS, loss, **MEASURES[name])


MODEL = DeepRNN([make_cell("gru", H)], output_size=1)
READER = DeepRNN([make_cell("gru", H)], output_size=3, vocabulary_size=3)
BATCH = Batch(XS, jnp.zeros((T, B, 1)), jnp.ones((T, B), bool))
VALUES = {"layers_0": {"cell": PARAMS[0]}, "head": {"kernel": draw(1, H, 1), "bias": draw(2, 1)}}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("wrong", "error", "message"),
  [
    ({"model": "x"}, TypeError, "model must be a DeepRNN, got 'x'"),
    ({"params": None}, ValueError, "variables must be those of this network"),
    ({"params": {"params": VALUES}}, ValueError, "variables must be those of this network"),
    (
      {"params": {**VALUES, "layers_0": {"cell": PARAMS[0] | {"b": draw(0, 3)}}}},
      ValueError,
      r"params\['layers_0'\]\['cell'\]\['b'\] must be floats \[9\], got float32\[3\]",
    ),
    ({"batch": None}, TypeError, "batch must be a Batch, from rnn_jax.tasks, got None"),
    ({"batch": BATCH._replace(mask=XS)}, TypeError, "mask must be an array of booleans"),
    ({"loss": None}, TypeError, "loss must be a function, got None"),
    ({"carries": [draw(0, B, H)] * 2}, ValueError, "carries must have 1 entries, one a layer"),
    ({"optimizer": "sgd"}, TypeError, "optimizer must be a GradientTransformation, got 'sgd'"),
    ({"optimizer": optax.sgd(0.1)}, ValueError, "opt_state must be given with an optimizer"),
    ({"key": 3}, TypeError, "key must be a random key"),
    ({"clip_carry": -1.0}, ValueError, "clip_carry must be greater than 0, got -1.0"),
    ({"truncation": 0}, ValueError, "truncation must be at least 1, got 0"),
  ],
)
def test_wrong_arguments_of_first_nonfinite_are_named(wrong, error, message):
  arguments = {"model": MODEL, "params": VALUES, "batch": BATCH, "loss": squared_error}
  with pytest.raises(error, match=message):
    gradient_flow.first_nonfinite(**{**arguments, **wrong})


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("wrong", "error", "message"),
  [
    ({"model": "x"}, TypeError, "model must be a DeepRNN, got 'x'"),
    ({"model": MODEL}, ValueError, "model must read tokens and predict at every step"),
    ({"model": READER.clone(output_size=None)}, ValueError, "output_size None"),
    ({"model": READER.clone(learned_carry=True)}, ValueError, "learned_carry must be False"),
    ({"variables": VALUES}, ValueError, "variables must be those of this network"),
    ({"tokens": None}, TypeError, "tokens must be an array of integers, got None"),
    ({"reach": 0}, ValueError, "reach must be at least 1, got 0"),
  ],
)
def test_wrong_arguments_of_saliency_are_named(wrong, error, message):
  arguments = {"model": READER, "variables": {}, "tokens": [0, 1, 2], "reach": 1}
  with pytest.raises(error, match=message):
    gradient_flow.saliency(**{**arguments, **wrong})
