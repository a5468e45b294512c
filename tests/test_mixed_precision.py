"""Tests of training in half precision, and of loss scaling."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec
from training_problem import MODEL, B, T, assert_close, batch_of, start, updated

from rnn_jax import DeepRNN, make_cell, tap
from rnn_jax.loss_scaling import LossScaleState, with_loss_scale
from rnn_jax.losses import squared_error
from rnn_jax.optimizers import make_optimizer
from rnn_jax.penalties import omega_penalty
from rnn_jax.precision import at_least_float32, cast
from rnn_jax.tasks import Batch
from rnn_jax.training import TrainState, update
from rnn_jax.windows import train_windows

pytestmark = pytest.mark.usefixtures("optax_promotion")

HALF = ("bfloat16", "float16")
STEPS = 48
# A linear network h_t = h_{t−1} / 2, whose loss is the sum of the last step's two units, plus a
# bias: dL/dh at lag k is 2^−k in each unit, without rounding.
HALVING = DeepRNN([make_cell("elman", 2, activation="linear")], output_size=1)


def halving_state(optimizer):
  cell = {"w_x": jnp.zeros((1, 2)), "w_h": 0.5 * jnp.eye(2), "b": jnp.zeros(2)}
  params = {
    "layers_0": {"cell": cell},
    "head": {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1)},
  }
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def halving_batch():
  zeros = jnp.zeros((STEPS, 1, 1))
  return Batch(zeros, zeros, jnp.arange(STEPS)[:, None] == STEPS - 1)


def sum_of_outputs(outputs, targets):
  del targets
  return jnp.sum(outputs, axis=-1)


def halving_update(optimizer, dtype, state=None, loss=sum_of_outputs):
  run = jax.jit(functools.partial(update, HALVING, optimizer, loss, dtype=dtype))
  return run(halving_state(optimizer) if state is None else state, halving_batch())


@pytest.mark.parametrize("loss_scale", [None, 2.0**10, 2.0**-3])
def test_float16_loses_the_gradient_of_a_linear_network_at_the_lag_of_the_closed_form(loss_scale):
  optimizer = make_optimizer("sgd", 0.1, loss_scale=loss_scale)
  _, _, metrics = halving_update(optimizer, "float16")
  lag = np.arange(STEPS)[::-1].astype(float)
  scale = 1.0 if loss_scale is None else loss_scale
  # NumPy rounds to float16 as IEEE 754 says: 2^−24 is the smallest number, 2^−25 becomes 0.
  entries = (scale * 2.0**-lag).astype(np.float16).astype(float) / scale
  assert 0 < np.sum(entries == 0) == STEPS - 25 - np.log2(scale)
  (norms,) = metrics.norms
  assert norms.dtype == jnp.float32
  np.testing.assert_allclose(norms[:, 0], np.sqrt(2) * entries, rtol=1e-6, atol=0)


def test_norms_above_the_largest_float16_are_float32():
  carry = jnp.full((3, 100), 1, jnp.float16)

  def loss(probe):
    return jnp.sum(tap(carry, probe) * jnp.float16(6e4))

  norms = jax.grad(loss)(jnp.zeros(3))
  np.testing.assert_allclose(norms, np.full(3, 6e5), rtol=1e-3)
  cell = make_cell("elman", 64, activation="linear")
  model = DeepRNN([cell], output_size=1)
  batch = Batch(jnp.zeros((1, 1, 1)), jnp.zeros((1, 1, 1)), jnp.ones((1, 1), bool))
  params = jax.tree.map(jnp.ones_like, model.init(jax.random.key(0), batch.xs)["params"])
  optimizer = optax.sgd(0.0)
  state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  def large(outputs, targets):
    del targets
    return jnp.sum(outputs, axis=-1) * 6e4

  _, _, metrics = jax.jit(functools.partial(update, model, optimizer, large, dtype="float16"))(
    state, batch
  )
  np.testing.assert_allclose(metrics.norms[0], [[8 * 6e4]], rtol=1e-3)


@pytest.mark.parametrize("dtype", HALF)
def test_an_update_too_small_for_half_precision_reaches_the_params(dtype):
  rate = 1e-4  # 1 − 1e-4 rounds to 1 in half precision
  assert 1 - rate != 1 == float(jnp.asarray(1 - rate, dtype))
  new, final, _ = halving_update(make_optimizer("sgd", rate), dtype)
  np.testing.assert_allclose(new.params["head"]["bias"], 1 - rate, rtol=1e-6)
  assert {leaf.dtype for leaf in jax.tree.leaves((new.params, final))} == {np.dtype("float32")}


def test_the_default_precision_is_float32_to_the_bit():
  optimizer, batch = make_optimizer("adam", 0.01, 0.1), batch_of()
  state = start(optimizer)
  default = updated(optimizer)(state, batch)
  chex.assert_trees_all_equal(updated(optimizer, dtype="float32")(state, batch), default)
  assert default[2].loss_scale is default[2].skipped is None


@pytest.mark.parametrize(
  ("name", "dtype"), [("lstm", "float16"), ("lru", "bfloat16"), ("clockwork", "bfloat16")]
)
def test_gradients_in_half_precision_are_near_those_in_float32(name, dtype):
  model = DeepRNN([make_cell(name, 8)], output_size=1)
  optimizer = make_optimizer("sgd", 1.0, loss_scale=2.0**8)
  batch = batch_of()
  params = model.init(jax.random.key(0), batch.xs)["params"]
  state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
  norms, moved = {}, {}
  for kind in ("float32", dtype):
    new, _, metrics = updated(optimizer, model, dtype=kind)(state, batch)
    leaves = jax.tree.leaves(jax.tree.map(np.subtract, new.params, params))
    moved[kind] = np.concatenate([np.ravel(leaf) for leaf in leaves])
    norms[kind] = jax.tree.leaves(metrics.norms)
    np.testing.assert_allclose(metrics.grad_norm, np.linalg.norm(moved[kind]), rtol=1e-5)
  cosine = moved["float32"] @ moved[dtype] / np.prod([np.linalg.norm(m) for m in moved.values()])
  assert cosine > 0.99
  assert not np.array_equal(moved["float32"], moved[dtype])
  for full, half in zip(norms["float32"], norms[dtype], strict=True):
    np.testing.assert_allclose(half, full, rtol=0.1, atol=0.02 * np.max(full))


@pytest.mark.parametrize("clip_by", ["global_norm", "carry"])
def test_a_power_of_two_changes_no_bit_in_float32(clip_by):
  batch, limit = batch_of(), 0.02
  options = {"clip_carry": limit} if clip_by == "carry" else {}
  options["penalty"] = omega_penalty(MODEL, squared_error, 0.5)
  found = []
  for loss_scale in (None, 2.0**12):
    optimizer = make_optimizer("adam", 0.01, limit, clip_by, loss_scale=loss_scale)
    state, _, metrics = updated(optimizer, **options)(start(optimizer), batch)
    assert metrics.clipped > 0
    found.append((state.params, metrics._replace(loss_scale=None, skipped=None)))
  chex.assert_trees_all_close(*found, rtol=1e-6, atol=0)


def test_float16_clips_each_carrys_gradient_of_a_scaled_loss():
  limit, scale = 0.3, 2.0**14
  optimizer = make_optimizer("sgd", 1.0, limit, "carry", loss_scale=scale)
  batch = batch_of()
  runs = {
    dtype: updated(optimizer, clip_carry=limit, dtype=dtype)(start(optimizer), batch)
    for dtype in ("float32", "float16")
  }
  full, half = runs["float32"][2], runs["float16"][2]
  assert 0 < full.clipped < 1
  np.testing.assert_allclose(half.clipped, full.clipped, atol=0.03)
  np.testing.assert_allclose(half.grad_norm, full.grad_norm, rtol=0.01)


def test_dynamic_scaling_halves_on_overflow_and_doubles_after_2000_finite_updates():
  optimizer = with_loss_scale(optax.adam(0.1), "dynamic")
  params = {"w": jnp.ones(3), "v": jnp.ones(())}
  state = optimizer.init(params)
  assert (state.scale, state.finite_steps) == (2**16, 0)
  good = {"w": jnp.arange(3.0), "v": jnp.ones(())}
  for bad in (jnp.inf, jnp.nan):
    step = jax.jit(optimizer.update)
    updates, state = step(good, state, params)
    assert (state.finite_steps, state.skipped) == (1, False)
    before = state
    updates, state = step({**good, "v": jnp.asarray(bad)}, state, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    chex.assert_trees_all_equal(state.inner, before.inner)
    assert (state.scale, state.finite_steps, state.skipped) == (before.scale / 2, 0, True)
  counts = []
  for _ in range(2000):
    _, state = step(good, state, params)
    counts.append(int(state.finite_steps))
  assert counts == [*range(1, 2000), 0]
  assert state.scale == 2**15


def test_dynamic_scaling_skips_nothing_at_a_scale_of_1():
  optimizer = with_loss_scale(optax.sgd(0.1), "dynamic")
  state = optimizer.init(jnp.ones(2))._replace(scale=jnp.ones(()))
  updates, state = optimizer.update(jnp.asarray([1.0, jnp.inf]), state)
  np.testing.assert_array_equal(updates, [np.float32(-0.1), -np.inf])
  assert (state.scale, state.finite_steps, state.skipped) == (1, 0, False)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_float16_training_skips_updates_until_the_scale_fits(clip_norm):
  """dL/db of the cell is Σ_k 2 · 2^−k = 4, and 4 · 2^14 overflows, so three updates are skipped."""

  def loss(outputs, targets):
    return 2 * sum_of_outputs(outputs, targets)

  optimizer = make_optimizer("sgd", 0.1, clip_norm, loss_scale="dynamic")
  state = halving_state(optimizer)
  first = state.params
  for exponent in (16, 15, 14):
    state, _, metrics = halving_update(optimizer, "float16", state, loss)
    assert (metrics.loss_scale, metrics.skipped) == (2.0**exponent, True)
    assert not np.isfinite(metrics.grad_norm) and not np.isfinite(metrics.clipped_norm)
    assert np.isfinite(metrics.loss)
    chex.assert_trees_all_equal(state.params, first)
  state, _, metrics = halving_update(optimizer, "float16", state, loss)
  assert (metrics.loss_scale, metrics.skipped, state.step) == (2.0**13, False, 4)
  # The carry is zero, so only biases have a gradient: (2) in the readout, (4, 4) in the cell.
  clipped = 6.0 if clip_norm is None else clip_norm
  found = metrics.grad_norm, metrics.clipped_norm
  np.testing.assert_allclose(found, (6.0, clipped), rtol=1e-3)
  bias = 1 - 0.1 * 2 * clipped / 6
  np.testing.assert_allclose(state.params["head"]["bias"], [bias], rtol=1e-4)
  lag = np.arange(STEPS)[::-1]
  np.testing.assert_allclose(
    metrics.norms[0][:, 0], np.where(lag < 39, 2 * np.sqrt(2) * 2.0**-lag, 0), rtol=1e-6
  )
  assert metrics.clipped == (clip_norm is not None)
  # An update that is skipped clips nothing, though the one before it did.
  large = state.opt_state._replace(scale=jnp.float32(2.0**16))
  _, _, metrics = halving_update(optimizer, "float16", state.replace(opt_state=large), loss)
  assert (metrics.skipped, metrics.clipped) == (True, 0)


def test_a_fixed_scale_skips_nothing():
  optimizer = make_optimizer("sgd", 0.1, loss_scale=2.0**16)
  state, _, metrics = halving_update(optimizer, "float16")
  assert not metrics.skipped and metrics.loss_scale == 2.0**16
  assert not np.isfinite(state.params["head"]["bias"]).all()


def test_an_overflow_on_one_device_skips_the_update_on_all():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  optimizer = make_optimizer("adam", 0.01, loss_scale="dynamic")
  batch = batch_of(batch_size=4)
  batch = batch._replace(targets=batch.targets.at[:, 0].set(1e3), mask=jnp.ones((T, 4), bool))

  def run(state, batch, **psum):
    state, _, metrics = update(
      MODEL, optimizer, squared_error, state, batch, dtype="float16", **psum
    )
    return state, metrics.skipped

  examples = PartitionSpec(None, "data")
  mapped = jax.shard_map(
    functools.partial(run, psum=functools.partial(jax.lax.psum, axis_name="data")),
    mesh=mesh,
    in_specs=(PartitionSpec(), examples),
    out_specs=PartitionSpec(),
  )
  state = start(optimizer)
  new, skipped = jax.jit(mapped)(state, batch)
  assert skipped
  chex.assert_trees_all_equal(new.params, state.params)
  assert_close(jax.jit(run)(state, batch)[0], new)


def test_windows_in_half_precision_pass_the_carry_on():
  optimizer = make_optimizer("sgd", 0.1)
  stream = batch_of(num_steps=2 * T)._replace(mask=jnp.ones((2 * T, B), bool))
  run = jax.jit(
    functools.partial(train_windows, MODEL, optimizer, squared_error, window=T, dtype="bfloat16")
  )
  state, final, metrics = run(start(optimizer), stream)
  expected, carries = start(optimizer), None
  for i in range(2):
    part = jax.tree.map(lambda a, i=i: a[i * T : (i + 1) * T], stream)
    expected, carries, _ = updated(optimizer, dtype="bfloat16")(expected, part, carries)
  # A window computes the same in a scan, but XLA may fuse and so round its operations differently.
  chex.assert_trees_all_close((state.params, final), (expected.params, carries), atol=0.02)
  assert metrics.loss.dtype == jnp.float32


def test_casts_leave_other_leaves_unchanged():
  tree = {"f": jnp.ones(2), "i": jnp.ones(2, jnp.int32), "c": jnp.ones(2, jnp.complex64), "x": 3}
  dtypes = jax.tree.map(lambda a: getattr(a, "dtype", None), cast(tree, "float16"))
  assert dtypes == {"f": jnp.float16, "i": jnp.int32, "c": jnp.complex64, "x": None}
  chex.assert_trees_all_equal(at_least_float32(cast(tree, "float16")), tree)


@pytest.mark.parametrize(
  ("options", "error", "message"),
  [
    (
      {"dtype": "float64"},
      ValueError,
      "Unknown dtype 'float64'; did you mean 'float16'? Choose one of: bfloat16, float16, float32.",
    ),
    ({"dtype": "int8"}, TypeError, "dtype must be a float dtype, got 'int8'."),
    ({"dtype": 16}, TypeError, "dtype must be a float dtype, got 16."),
  ],
)
def test_wrong_dtypes_raise(options, error, message, x64, unchecked_types):
  optimizer = make_optimizer("sgd", 0.1)
  with pytest.raises(error) as raised:
    update(MODEL, optimizer, squared_error, start(optimizer), batch_of(), **options)
  assert message in str(raised.value)


@pytest.mark.parametrize(
  ("scale", "error", "message"),
  [
    ("dynamc", ValueError, "Unknown loss_scale 'dynamc'; did you mean 'dynamic'?"),
    (0, ValueError, "loss_scale must be greater than 0, got 0."),
    ([1.0], TypeError, "loss_scale must be a number, got [1.0]."),
    (float("inf"), ValueError, "loss_scale must be finite, got inf."),
  ],
)
def test_wrong_loss_scales_raise(scale, error, message, unchecked_types):
  with pytest.raises(error) as raised:
    make_optimizer("sgd", 0.1, loss_scale=scale)
  assert message in str(raised.value)


def test_float16_params_raise_with_loss_scaling():
  optimizer = with_loss_scale(optax.sgd(0.1), 2.0**16)
  with pytest.raises(ValueError, match="params must not be float16 with loss scaling"):
    optimizer.init({"w": jnp.ones(3, jnp.float16)})


def test_the_loss_scale_may_be_traced():
  @jax.jit
  def run(scale):
    optimizer = make_optimizer("sgd", 0.1, loss_scale=scale)
    state = halving_state(optimizer)
    return update(HALVING, optimizer, sum_of_outputs, state, halving_batch(), dtype="float16")

  state, _, metrics = run(jnp.float32(64))
  assert isinstance(state.opt_state, LossScaleState)
  assert metrics.loss_scale == 64
  assert int(np.sum(metrics.norms[0] > 0)) == 25 + 6
