"""Tests of `scan_gradients` against the gradient probe and explicit perturbations."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core.primitives import remat_p
from networks import draw, mean_loss, network

from rnn_jax import gradient_probe, make_cell, tap, unroll
from rnn_jax.gradient_flow import carry_gradients, lag_profile, scan_gradients

T, B, D, H = 5, 2, 3, 4
XS = draw(80, T, B, D)
WEIGHTS = {
  "w": draw(1, H, H),
  "u": draw(2, D, H),
  "out": draw(3, H, 2),
  "tau": jnp.asarray(0.7),
}


def cell(params, carry, x):
  """Returns (new carry, y) of a cell whose second leaf is computed from its first one."""
  h, c = carry
  c = params["tau"] * c + jnp.tanh(h @ params["w"] + x @ params["u"])
  h = jnp.sin(c) * jax.nn.sigmoid(x @ params["u"])
  return (h, c), jnp.tanh(h @ params["out"]) + jnp.cos(c[:, :2])


def start():
  return jnp.ones((B, H)), jnp.zeros((B, H))


def loss_of(step, **options):
  """Returns the loss of a scan over `step`."""

  def loss(params, xs):
    def body(carry, x):
      return step(params, carry, x)

    final, ys = jax.lax.scan(body, start(), xs, **options)
    return jnp.sum(draw(4, *ys.shape) * ys) + jnp.sum(final[1])

  return loss


def by_hand(params, xs, reverse=False):
  """Returns dL/dh_t of `loss_of(cell)` from explicit perturbations of each step's carry."""

  def loss(nudges):
    carry, ys = start(), [jnp.zeros((B, 2))] * T
    for t in reversed(range(T)) if reverse else range(T):
      (h, c), _ = cell(params, carry, xs[t])
      carry = (h + nudges[0][t], c + nudges[1][t])
      ys[t] = jnp.tanh(carry[0] @ params["out"]) + jnp.cos(carry[1][:, :2])
    ys = jnp.stack(ys)
    return jnp.sum(draw(4, *ys.shape) * ys) + jnp.sum(carry[1])

  return jax.jit(jax.grad(loss))((jnp.zeros((T, B, H)), jnp.zeros((T, B, H))))


def masked(params, carry, x):
  new, y = jax.checkpoint(cell)(params, carry, x)
  run = x[:, :1] < 100
  return tuple(jnp.where(run, a, b) for a, b in zip(new, carry, strict=True)), y


BODIES = {
  "plain": cell,
  "jit": jax.jit(cell),
  "jit in jit": jax.jit(lambda params, carry, x: jax.jit(cell)(params, carry, x)),
  "checkpoint": jax.checkpoint(cell),
  "checkpoint with policy": jax.checkpoint(
    jax.jit(cell), policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False
  ),
  "checkpoint, then mask": masked,
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("reverse", [False, True])
def test_vectors_are_those_of_explicit_perturbations(x64, body, reverse):
  loss = loss_of(BODIES[body], reverse=reverse, unroll=1 if reverse else 2)
  weights, xs = jax.tree.map(lambda a: a.astype(float), (WEIGHTS, XS))
  measure = scan_gradients(loss, vectors=True, argnums=(0, 1))
  found = jax.jit(measure)(weights, xs)
  (scan,) = found.scans
  chex.assert_trees_all_close(scan.gradients, by_hand(weights, xs, reverse), rtol=1e-9, atol=1e-14)
  assert (scan.length, scan.reverse, scan.includes_outputs) == (T, reverse, True)
  assert scan.shapes == ((B, H), (B, H))
  value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(weights, xs)
  chex.assert_trees_all_close((found.value, found.grads), (value, grads), rtol=1e-12)
  assert found.skipped == ()


def test_a_checkpoint_in_the_body_is_kept():
  kept = {
    name: str(jax.make_jaxpr(scan_gradients(loss_of(body)))(WEIGHTS, XS))
    for name, body in BODIES.items()
  }
  for name, text in kept.items():
    assert (str(remat_p) in text) == ("checkpoint" in name)


def test_the_place_of_a_scan_is_the_line_that_runs_it():
  with jax.named_scope("core"):
    found = scan_gradients(loss_of(cell))(WEIGHTS, XS)
  (scan,) = found.scans
  line = loss_of.__code__.co_firstlineno + 7
  assert scan.source == f"{__file__}:{line} (loss_of.<locals>.loss)"
  assert str(scan).startswith(f"scan of 5 steps at {scan.source}")
  assert str(scan).endswith(": carry carry[0] [2, 4], carry[1] [2, 4]")


@pytest.mark.parametrize("compiled", [False, True])
def test_loss_and_gradients_of_the_params_are_unchanged(compiled):
  loss, jit = loss_of(cell), jax.jit if compiled else lambda f: f
  found = jit(scan_gradients(loss, argnums=0))(WEIGHTS, XS)
  value, grads = jit(jax.value_and_grad(loss))(WEIGHTS, XS)
  np.testing.assert_array_equal(found.value, value)
  chex.assert_trees_all_close(found.grads, grads, rtol=2e-6)


TIME = {
  "truncation": 2,
  "lengths": np.array([5, 3]),
  "resets": np.arange(T)[:, None] == np.array([2, 1]),
}


@pytest.mark.parametrize(
  ("name", "time"), [("gru", TIME), ("lstm", {**TIME, "reverse": True, "remat": "step"})]
)
def test_norms_are_those_of_the_probe_in_unroll(name, time):
  cell = make_cell(name, H)
  params = cell.init(jax.random.key(0), D)

  def loss(params, probe=None, plain=False):
    return mean_loss(unroll(cell, params, XS, probe=probe, forward_mode=plain, **time)[1])

  both = jax.jit(
    lambda params: (
      scan_gradients(functools.partial(loss, plain=True))(params).scans[0].gradients,
      jax.tree.leaves(jax.grad(loss, argnums=1)(params, gradient_probe(cell, T, B))),
    )
  )
  found, expected = both(params)
  # At a skipped step, the probe is 0, and the carry that leaves the step is the one before it.
  valid = np.arange(T)[:, None] < TIME["lengths"]
  for norms, probe in zip(found, expected, strict=True):
    np.testing.assert_allclose(norms[valid], probe[valid], rtol=1e-5)
    assert np.any(norms[valid])


def test_layers_are_separate_scans_in_their_order(x64):
  cells, params = network(["gru", "lstm"], H, D)
  xs = draw(80, T, B, D)

  def loss(params):
    ys = xs
    for depth, (cell, layer) in enumerate(zip(cells, params, strict=True)):
      with jax.named_scope(f"layer_{depth}"):
        ys = unroll(cell, layer, ys, forward_mode=True)[1]
    return mean_loss(ys)

  scans = scan_gradients(jax.jit(loss), vectors=True)(params).scans
  assert [scan.scope for scan in scans] == ["layer_0", "layer_1"]
  expected = carry_gradients(cells, params, xs, mean_loss)
  chex.assert_trees_all_close(
    [list(scan.gradients) for scan in scans], list(map(jax.tree.leaves, expected)), rtol=1e-9
  )


def test_norms_of_a_last_step_loss_are_the_lag_profile():
  cell = make_cell("gru", H)
  params = cell.init(jax.random.key(0), D)

  def loss(params):
    return jnp.sum(unroll(cell, params, XS, forward_mode=True)[1][-1, :, 0])

  (scan,) = scan_gradients(loss)(params).scans
  (profile,) = lag_profile([cell], [params], XS, lambda y: y[:, 0])
  np.testing.assert_allclose(np.log10(scan.gradients[0][::-1]), profile, atol=1e-5)


def test_float32_gradients_underflow_where_the_lag_profile_does_not():
  cell = make_cell("elman", 1, activation="linear")
  params = {"w_x": jnp.ones((1, 1)), "w_h": jnp.full((1, 1), 0.01), "b": jnp.zeros(1)}
  xs = jnp.ones((30, 1, 1))

  def loss(params):
    return unroll(cell, params, xs, forward_mode=True)[1][-1, 0, 0]

  (norms,) = scan_gradients(loss)(params).scans[0].gradients
  by_lag = norms[::-1, 0]
  np.testing.assert_allclose(by_lag[:19], 100.0 ** -np.arange(19), rtol=1e-5)
  assert not np.any(by_lag[20:])
  (profile,) = lag_profile([cell], [params], xs, lambda y: y[:, 0])
  np.testing.assert_allclose(profile[:, 0], -2.0 * np.arange(30), rtol=1e-5)


@pytest.mark.parametrize(
  ("keep", "included"),
  [
    (lambda mask, new, old: jnp.where(mask, new, old), True),
    (lambda mask, new, old: jax.lax.select(mask, jnp.where(mask, new, old), 0 * old), True),
    (lambda mask, new, old: mask * new + (1 - mask) * old, False),
  ],
)
def test_outputs_that_read_the_carry_before_a_mask_are_included(keep, included):
  mask = jnp.broadcast_to(np.arange(T)[:, None, None] < 3, (T, B, H))
  weights = draw(5, T, B, H)

  def loss(params):
    def body(h, now):
      x, mask = now
      new = jnp.tanh(h @ params["w"] + x @ params["u"])
      return keep(mask if included else mask.astype(float), new, h), jnp.sin(new)

    hs = jax.lax.scan(body, jnp.ones((B, H)), (XS, mask))[1]
    return jnp.sum(jnp.where(mask, weights * hs, jnp.zeros_like(hs)))

  def same(params, probe):
    def body(h, now):
      x, probe = now
      h = tap(jnp.tanh(h @ params["w"] + x @ params["u"]), probe)
      return h, jnp.sin(h)

    hs = jax.lax.scan(body, jnp.ones((B, H)), (XS[:3], probe))[1]
    return jnp.sum(weights[:3] * hs)

  (scan,) = jax.jit(scan_gradients(loss))(WEIGHTS).scans
  expected = jax.jit(jax.grad(same, argnums=1))(WEIGHTS, jnp.zeros((3, B)))
  assert scan.includes_outputs == included
  if included:
    np.testing.assert_allclose(scan.gradients[0][:3], expected, rtol=1e-5)
    assert not np.any(scan.gradients[0][3:])


# Under transformations


def test_mapping_over_seeds_measures_each_seed():
  measure = jax.jit(scan_gradients(loss_of(cell)))
  seeds = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), WEIGHTS)
  found = jax.jit(jax.vmap(scan_gradients(loss_of(cell)), (0, None)))(seeds, XS)
  for i in range(2):
    alone = measure(jax.tree.map(lambda a, i=i: a[i], seeds), XS)
    chex.assert_trees_all_close(
      jax.tree.map(lambda a, i=i: a[i], found.scans[0].gradients),
      alone.scans[0].gradients,
      rtol=1e-5,
    )


def test_a_mapped_axis_inside_the_loss_is_the_first_axis():
  def example_loss(params, x):
    def body(h, x):
      h = jnp.tanh(h @ params["w"] + x @ params["u"])
      return h, h

    return jnp.sum(jax.lax.scan(body, jnp.zeros(H), x)[1][-1])

  def loss(params, xs):
    return jnp.sum(jax.vmap(example_loss, (None, 1))(params, xs))

  (scan,) = scan_gradients(loss)(WEIGHTS, XS).scans
  assert scan.shapes == ((B, H),)
  assert scan.scope == ""
  for b in range(B):
    (alone,) = scan_gradients(example_loss)(WEIGHTS, XS[:, b]).scans
    np.testing.assert_allclose(scan.gradients[0][:, b], alone.gradients[0], rtol=1e-5)


def test_bfloat16_gradients_are_bfloat16_and_near_those_in_float32():
  half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (WEIGHTS, XS))

  def loss(params, xs):
    def body(h, x):
      h = jnp.tanh(h @ params["w"] + x @ params["u"])
      return h, h

    hs = jax.lax.scan(body, jnp.zeros((B, H), xs.dtype), xs)[1]
    return jnp.sum(hs[-1].astype(jnp.float32))

  found = scan_gradients(loss)(*half).scans[0].gradients[0]
  expected = scan_gradients(loss)(*jax.tree.map(lambda a: a.astype(jnp.float32), half))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(found.astype(jnp.float32), expected.scans[0].gradients[0], rtol=0.05)


@pytest.mark.usefixtures("optax_promotion")
def test_a_training_step_with_the_gradients_trains_as_one_without():
  optimizer = optax.adam(0.1)
  loss = loss_of(cell)

  def train(gradient):
    @jax.jit
    def update(params, state):
      grads, norms = gradient(params)
      updates, state = optimizer.update(grads, state)
      return optax.apply_updates(params, updates), state, norms

    params, state = WEIGHTS, optimizer.init(WEIGHTS)
    for _ in range(3):
      params, state, norms = update(params, state)
    return params, norms

  def measured(params):
    found = scan_gradients(loss, argnums=0)(params, XS)
    return found.grads, found.scans[0].gradients

  params, norms = train(measured)
  chex.assert_trees_all_close(params, train(lambda p: (jax.grad(loss)(p, XS), ()))[0], rtol=1e-5)
  assert all(np.all(norm > 0) for norm in norms)


# What is held fixed, and other carries


def test_leaves_that_are_no_arrays_are_held_fixed_and_aux_is_returned():
  def loss(model, xs, *, training):
    assert training is True
    activation, params = model
    final, _ = jax.lax.scan(
      lambda h, x: (activation(h + x @ params["u"]), None), xs[0] @ params["u"], xs
    )
    return jnp.sum(final), {"final": final, "length": 3}

  found = scan_gradients(loss, argnums=0, has_aux=True)(
    (jnp.tanh, {"u": WEIGHTS["u"], "n": jnp.arange(2)}), XS, training=True
  )
  assert found.grads[0] is None and found.grads[1]["n"] is None
  assert found.grads[1]["u"].shape == (D, H)
  assert found.aux["final"].shape == (B, H)
  np.testing.assert_allclose(jnp.sum(found.aux["final"]), found.value, rtol=1e-6)


def test_carries_of_any_rank_with_integers_and_keys():
  def loss(w, key):
    def body(carry, _):
      count, key, matrix, scalar, phase = carry
      key, new = jax.random.split(key)
      matrix = jnp.tanh(w * matrix) + 0.1 * jax.random.normal(new, (B, D, H))
      phase = 1j * phase * w.astype(complex)
      scalar = scalar + jnp.sum(matrix**2) + jnp.sum(phase.real)
      return (count + 1, key, matrix, scalar, phase), count

    first = jnp.int32(0), key, jnp.ones((B, D, H)), jnp.float32(0), jnp.ones((B, H), complex)
    return jax.lax.scan(body, first, length=T)[0][3]

  found = scan_gradients(loss)(jnp.float32(0.5), jax.random.key(0))
  (scan,) = found.scans
  assert scan.names == ("carry[2]", "carry[3]", "carry[4]")
  assert [a.shape for a in scan.gradients] == [(T, B, D), (T,), (T, B)]
  np.testing.assert_array_equal(scan.gradients[1], 1)
  assert np.all(scan.gradients[0][:-1] > 0) and np.all(scan.gradients[2][:-1] > 0)


def test_effects_run_once():
  seen = []

  def loss(w):
    def body(h, _):
      h = jnp.tanh(w * h)
      jax.debug.callback(lambda h: seen.append(float(h)), h)
      return h, h * 2

    return jnp.sum(jax.lax.scan(body, jnp.float32(1), length=T)[1])

  jax.block_until_ready(jax.jit(scan_gradients(loss))(jnp.float32(0.5)))
  jax.effects_barrier()
  assert len(seen) == T


# Errors


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("options", "error", "message"),
  [
    ({"fn": None}, TypeError, "fn must be a function, got None"),
    ({"has_aux": 1}, TypeError, "has_aux must be True or False, got 1"),
    ({"vectors": "x"}, TypeError, "vectors must be True or False, got 'x'"),
    ({"argnums": -1}, ValueError, "argnums must be at least 0, got -1"),
    ({"argnums": "0"}, TypeError, "argnums must be an integer, got '0'"),
    ({"argnums": 1.0}, TypeError, "argnums must be an integer, got 1.0"),
    (
      {"argnums": 2},
      ValueError,
      "argnums must be below the number of positional arguments, 1, got 2",
    ),
    ({"fn": lambda w: (w, 0)}, TypeError, "fn must return a real scalar, got .* pass has_aux=True"),
    ({"fn": lambda w: w[None]}, ValueError, r"fn must return a scalar, got \[1\]"),
    ({"fn": lambda w: w.astype(int)}, TypeError, r"fn must return a real scalar, got int32\[\]"),
    ({"has_aux": True}, TypeError, r"fn must return \(loss, aux\) with has_aux, got float32\[\]"),
  ],
)
def test_wrong_arguments_are_named(options, error, message):
  with pytest.raises(error, match=message):
    scan_gradients(**{"fn": lambda w: w, **options})(jnp.float32(1))
