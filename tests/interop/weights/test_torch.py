"""Conversion of torch's state dicts, against its documented equations and against torch itself."""

from __future__ import annotations

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn, params_of

from rnn_jax import make_cell, unroll
from rnn_jax.interop import params_from_torch, params_to_torch

T, B, D, H = 4, 2, 3, 5
MODULES = {"elman": "RNN", "gru": "GRU", "lstm": "LSTM"}
GATES = {"elman": 1, "gru": 3, "lstm": 4}
OPTIONS = {"elman": {}, "gru": {"inner_bias": True}, "lstm": {}}
every_name = pytest.mark.parametrize("name", GATES)
NO_TORCH = "torch is a baseline of the benchmark, not a dependency"
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def state_dict_of(name, depth=2, suffixes=("", "_reverse"), bias=True):
  """Returns a state dict of random arrays, with the names and shapes of a torch network's."""
  shapes, rows = {}, GATES[name] * H
  for layer, suffix in itertools.product(range(depth), suffixes):
    width = D if layer == 0 else len(suffixes) * H
    for entry, shape in {
      "weight_ih": (rows, width),
      "weight_hh": (rows, H),
      **({"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}),
    }.items():
      shapes[f"{entry}_l{layer}{suffix}"] = jnp.zeros(shape)
  return drawn(shapes, seed=4)


def torchs_equations(name, state, xs):
  """Returns a bidirectional two-layer torch network's outputs, by torch's documented equations."""
  for layer in range(2):
    directions = []
    for suffix in ("", "_reverse"):
      w, u, b, c = (
        np.asarray(state[f"{entry}_l{layer}{suffix}"])
        for entry in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
      )
      h = cell = np.zeros((B, H))
      ys = []
      for x in xs[::-1] if suffix else xs:
        from_x = np.split(x @ w.T + b, GATES[name], axis=1)
        from_h = np.split(h @ u.T + c, GATES[name], axis=1)
        if name == "elman":
          h = np.tanh(from_x[0] + from_h[0])
        elif name == "gru":
          r, z = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
          h = (1 - z) * np.tanh(from_x[2] + r * from_h[2]) + z * h
        else:
          i, f, g, o = (p + q for p, q in zip(from_x, from_h, strict=True))
          cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
          h = sigmoid(o) * np.tanh(cell)
        ys.append(h)
      directions.append(np.stack(ys[::-1] if suffix else ys))
    xs = np.concatenate(directions, axis=-1)
  return xs


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


def our_layers(name, layers, xs, **options):
  cell = make_cell(name, H, **options)
  for layer in layers:
    pair = layer if isinstance(layer, tuple) else (layer,)
    ys = [unroll(cell, p, xs, reverse=i == 1)[1] for i, p in enumerate(pair)]
    xs = jnp.concatenate(ys, axis=-1)
  return xs


def ours(name, state, xs, **options):
  return our_layers(name, params_from_torch(name, state, **options), xs, **options)


@every_name
def test_a_state_dict_computes_torchs_equations(x64, name):
  state, xs = state_dict_of(name), drawn(jnp.zeros((T, B, D)), seed=5)
  found = jax.jit(lambda *a: ours(name, *a, **OPTIONS[name]))(state, xs)
  np.testing.assert_allclose(found, torchs_equations(name, state, np.asarray(xs)), **CLOSE)


@every_name
def test_torch_itself_computes_the_same(x64, name):
  torch = pytest.importorskip("torch", reason=NO_TORCH)
  kind, xs = getattr(torch.nn, MODULES[name]), drawn(jnp.zeros((T, B, D)), seed=5)
  theirs = kind(D, H, 1, bidirectional=True, dtype=torch.float64)
  state = {k: jnp.asarray(v.numpy()) for k, v in theirs.state_dict().items()}
  tensor = torch.tensor(np.asarray(xs), requires_grad=True)
  ys, _ = theirs(tensor)
  ys.cos().sum().backward()
  grads = {k: jnp.asarray(p.grad.numpy()) for k, p in theirs.named_parameters()}

  def loss(state, xs):
    ys = ours(name, state, xs, **OPTIONS[name])
    return jnp.sum(jnp.cos(ys)), ys

  run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
  (our_grads, our_xs_grad), our_ys = run(state, xs)
  chex.assert_trees_all_close(our_ys, jnp.asarray(ys.detach().numpy()), **CLOSE)
  chex.assert_trees_all_close(our_grads, grads, **CLOSE)
  chex.assert_trees_all_close(our_xs_grad, jnp.asarray(tensor.grad.numpy()), **CLOSE)


@every_name
def test_torch_loads_our_state_dict(x64, name):
  torch = pytest.importorskip("torch", reason=NO_TORCH)
  xs = torch.tensor(np.random.default_rng(5).standard_normal((T, B, D)))
  kind = getattr(torch.nn, MODULES[name])
  first, second = (kind(D, H, 2, bidirectional=True, dtype=torch.float64) for _ in range(2))
  layers = params_from_torch(
    name, {k: v.numpy() for k, v in first.state_dict().items()}, **OPTIONS[name]
  )
  arrays = params_to_torch(name, layers, **OPTIONS[name])
  assert list(arrays) == list(first.state_dict())
  second.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
  ys, again = (rnn(xs)[0].detach().numpy() for rnn in (first, second))
  np.testing.assert_allclose(again, ys, **CLOSE)


def test_a_state_dict_without_biases_has_zero_biases(x64):
  state = state_dict_of("gru", bias=False)
  zeros = {k: jnp.zeros(3 * H) for k in state_dict_of("gru") if k.startswith("bias")}
  expected = params_from_torch("gru", {**state, **zeros}, inner_bias=True)
  chex.assert_trees_all_equal(params_from_torch("gru", state, inner_bias=True), expected)


@every_name
def test_the_round_trip_is_the_identity(name):
  for options in (OPTIONS[name], {}):
    one = [params_of(name, D, H, 1, **options), params_of(name, H, H, 2, **options)]
    both = [tuple(params_of(name, D, H, seed, **options) for seed in (3, 4))]
    for layers in (one, both):
      arrays = params_to_torch(name, layers, prefix="rnn.", **options)
      assert all(key.startswith("rnn.") and a.flags.writeable for key, a in arrays.items())
      others = {**arrays, "head.weight": np.ones((2, 2))}
      back = params_from_torch(name, others, prefix="rnn.", **options)
      chex.assert_trees_all_equal(back, layers)


def test_relu_is_accepted_and_linear_refused():
  state = state_dict_of("elman", 1, ("",))
  chex.assert_trees_all_equal(
    params_from_torch("elman", state, activation="relu"), params_from_torch("elman", state)
  )
  rule = r"Unknown activation in torch.nn.RNN 'linear'. Choose one of: relu, tanh."
  with pytest.raises(ValueError, match=rule):
    params_from_torch("elman", state, activation="linear")
  with pytest.raises(ValueError, match=rule):
    params_to_torch("elman", [params_of("elman", D, H)], activation="linear")


def without(entry):
  return lambda state: {k: v for k, v in state.items() if k != entry}


def with_entry(entry, value):
  return lambda state: {**state, entry: value}


@pytest.mark.parametrize(
  ("name", "change", "options", "message"),
  [
    ("lstm", without("weight_hh_l1"), {}, r"^Missing entry 'weight_hh_l1'"),
    ("lstm", without("bias_hh_l0_reverse"), {}, r"^Missing entry 'bias_hh_l0_reverse'"),
    (
      "lstm",
      lambda s: {k.replace("weight_ih_l1_r", "wieght_ih_l1_r"): v for k, v in s.items()},
      {},
      r"^Unknown entry 'wieght_ih_l1_reverse'; did you mean 'weight_ih_l1_reverse'\?",
    ),
    (
      "lstm",
      with_entry("weight_hr_l0", np.ones((2, H))),
      {},
      "^Unsupported entry 'weight_hr_l0': proj_size must be 0",
    ),
    (
      "lstm",
      with_entry("weight_hh_l1", np.ones((4 * H, H + 1))),
      {},
      r"^weight_hh_l1 must be \[4·H, H\] = \[20, 5\], got \[20, 6\]",
    ),
    (
      "lstm",
      with_entry("weight_ih_l1", np.ones((4 * H, H))),
      {},
      r"^weight_ih_l1 must be \[4·H, D\] = \[20, 10\], got \[20, 5\]",
    ),
    ("lstm", with_entry("bias_ih_l0", np.ones(4)), {}, r"^bias_ih_l0 must be .*\[20\], got \[4\]"),
    (
      "lstm",
      with_entry("bias_ih_l0", np.ones(20, int)),
      {},
      r"^bias_ih_l0 must be an array of floats, got int",
    ),
    ("gru", lambda s: s, {}, r"^bias_hh_l0 must be zero where r scales it, .* inner_bias=True"),
    ("gru", lambda s: s, {"reset": "before"}, r"^Unknown cell of torch.nn 'gru reset=before'"),
    ("gru", lambda s: s, {"rest": "after"}, r"did you mean 'reset'\?"),
    ("lsmt", lambda s: s, {}, r"^Unknown cell 'lsmt'; did you mean 'lstm'\?"),
    ("lstm", lambda s: s, {"prefix": "rnn."}, r"^state_dict must have entries like rnn.weight_ih"),
    (
      "lstm",
      lambda s: {},
      {},
      r"^state_dict must have entries like weight_ih_l0, with prefix='', got none",
    ),
    (
      "lstm",
      lambda s: {k.replace("weight_ih_l1", "weight_ih_l7"): v for k, v in s.items()},
      {},
      r"^Unknown entry 'weight_ih_l7'; did you mean 'weight_ih_l\d'",
    ),
    ("lstm", lambda s: list(s), {}, r"^state_dict must be a Mapping, got \["),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_state_dict_that_does_not_fit_is_named(name, change, options, message):
  state = change(state_dict_of(name if name in GATES else "lstm"))
  with pytest.raises((TypeError, ValueError), match=message) as error:
    params_from_torch(name, state, **options)
  assert "\n" not in str(error.value)


def test_the_weights_of_another_cell_are_refused():
  with pytest.raises(ValueError, match=r"weight_hh_l0 must be \[3·H, H\] = \[15, 5\], got \[20, 5"):
    params_from_torch("gru", state_dict_of("lstm"), inner_bias=True)


@pytest.mark.parametrize(
  ("name", "layers", "options", "message"),
  [
    ("gru", [("gru", D)], {"reset": "before"}, r"'gru reset=before'.* Choose one of: elman, gru"),
    ("gru", [("lstm", D)], {}, r"^w_h of layer 0 must be \[H, 3·H\] = \[5, 15\], got \[5, 20\]"),
    ("lstm", [("lstm", D), ("lstm", D)], {}, r"^w_x of layer 1 must be \[D, 4·H\] = \[5, 20\]"),
    ("lstm", [], {}, "^layers must be a list with the params of at least one layer"),
    ("lstm", [(("lstm", D),) * 2, ("lstm", 2 * H)], {}, r"^layers must all be params"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_layers_that_do_not_fit_are_named(name, layers, options, message):
  def params(layer):
    return params_of(*layer, H) if isinstance(layer[0], str) else tuple(map(params, layer))

  with pytest.raises(ValueError, match=message):
    params_to_torch(name, [params(layer) for layer in layers], **options)


@pytest.mark.usefixtures("unchecked_types")
def test_params_with_a_wrong_name_are_named():
  params = params_of("lstm", D, H)
  params["w_hh"] = params.pop("w_h")
  with pytest.raises(ValueError, match=r"^Unknown entry 'w_hh of layer 0'; did you mean 'w_h of"):
    params_to_torch("lstm", [params])
  with pytest.raises(ValueError, match=r"^layers must be a list"):
    params_to_torch("lstm", params_of("lstm", D, H))
