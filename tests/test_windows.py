"""Tests of streaming truncated backpropagation through time, against a loop of updates."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from training_problem import MODEL, B, H, assert_close, batch_of, draw, piece, start, updated

from rnn_jax import DeepRNN, make_cell
from rnn_jax.gradient_flow import choose_truncation, lag_profile
from rnn_jax.losses import squared_error
from rnn_jax.optimizers import make_optimizer
from rnn_jax.windows import train_windows

pytestmark = pytest.mark.usefixtures("optax_promotion")


N, K = 7, 3
STREAM_RESETS = np.zeros((N, B), bool)
# Resets at the start of the stream, inside a window, and at the start of a window.
STREAM_RESETS[[0, 2, 3], [0, 1, 2]] = True


@pytest.mark.parametrize(
  ("name", "resets", "with_carries"),
  [("elman", None, False), ("elman", STREAM_RESETS, False), ("lstm", STREAM_RESETS, True)],
  ids=["plain", "resets", "resets-and-carries"],
)
def test_train_windows_equals_a_loop_of_updates_that_passes_the_carry_on(
  name, resets, with_carries
):
  model = DeepRNN([make_cell(name, H)], output_size=1)
  optimizer = make_optimizer("sgd", 0.05, 1.0)
  state, stream = start(optimizer, model), batch_of(N)
  carries = model.initial_carries(B)
  if with_carries:
    carries = jax.tree.map(lambda a: draw(7, *a.shape), carries)
  windows = jax.jit(
    functools.partial(train_windows, model, optimizer, squared_error, window=K, resets=resets)
  )
  got = windows(state, stream, carries=carries if with_carries else None)

  run, records = updated(optimizer, model), []
  for first, last in ((0, 3), (3, 6)):
    window, again = piece((stream, resets), first, last)
    state, carries, metrics = run(state, window, carries, resets=again)
    records.append(metrics)
  assert_close(got, (state, carries, jax.tree.map(lambda *a: np.stack(a), *records)))


def test_one_window_is_one_update_on_the_whole_stream():
  optimizer = make_optimizer("sgd", 0.1)
  state, stream = start(optimizer), batch_of(N)
  windows = jax.jit(functools.partial(train_windows, MODEL, optimizer, squared_error, window=N))
  state_after, carries, metrics = windows(state, stream)
  expected = updated(optimizer)(state, stream)
  assert_close((state_after, carries, jax.tree.map(lambda a: a[0], metrics)), expected)


def test_the_gradient_stays_inside_a_window():
  optimizer = make_optimizer("sgd", 0.1)
  state, stream = start(optimizer), batch_of(2 * K)
  late_loss = stream._replace(mask=jnp.broadcast_to(np.arange(2 * K)[:, None] >= K, (2 * K, B)))
  windows = jax.jit(functools.partial(train_windows, MODEL, optimizer, squared_error, window=K))
  _, _, metrics = windows(state, late_loss)
  assert metrics.grad_norm[0] == 0 < metrics.grad_norm[1]
  for leaf in jax.tree.leaves(metrics.norms):
    assert not np.any(leaf[0])
    assert np.any(leaf[1])


# Tests of adaptive truncation


def adaptive(cell, scale, tolerance, num_windows, adapt_every=1):
  """Trains one layer with adaptive truncation, in windows of 8 steps.

  Args:
    cell: the layer's cell.
    scale: the recurrent kernel is initialized as `scale` times the identity.
    tolerance: as in `train_windows`.
    num_windows: number of windows in the stream.
    adapt_every: as in `train_windows`.
  Returns:
    (model, optimizer, state before, stream, state after, metrics).
  """
  model, optimizer = DeepRNN([cell], output_size=1), make_optimizer("sgd", 0.01)
  state, stream = start(optimizer, model), batch_of(8 * num_windows)
  state.params["layers_0"]["cell"]["w_h"] = scale * jnp.eye(H)
  stream = stream._replace(mask=jnp.ones_like(stream.mask))

  @jax.jit
  def run(state, stream):
    options = {"window": 8, "tolerance": tolerance, "adapt_every": adapt_every}
    return train_windows(model, optimizer, squared_error, state, stream, **options)

  after, _, metrics = run(state, stream)
  return model, optimizer, state, stream, after, metrics


def test_the_truncation_is_chosen_every_adapt_every_windows_and_reported():
  cell = make_cell("elman", H)
  model, optimizer, state, stream, after, metrics = adaptive(cell, 0.2, 0.01, 4, adapt_every=2)
  ks = np.asarray(metrics.truncation)
  assert ks.dtype == np.int32 and ks.shape == (4,)
  assert ks[0] == ks[1] and ks[2] == ks[3]
  # One step multiplies a gradient's norm by at most 0.2, since tanh's slope is at most 1. So at lag
  # 3 at most 0.2³ of it is left, which is below the tolerance 0.01.
  assert ((ks > 1) & (ks <= 3)).all()

  @jax.jit
  def chosen(params, window):
    apply = functools.partial(model.apply, {"params": params}, method="readout")
    cell_params = [params["layers_0"]["cell"]]
    profile = lag_profile(
      [cell], cell_params, window.xs, lambda y: squared_error(apply(y), window.targets[-1])
    )
    return choose_truncation(profile, 0.01)

  # Single updates with the reported truncations must give the same gradients and params.
  run, carries = updated(optimizer, model), model.initial_carries(B)
  for i, k in enumerate(ks):
    window = piece(stream, 8 * i, 8 * i + 8)
    if i % 2 == 0:
      assert chosen(state.params, window) == k
    state, carries, expected = run(state, window, carries, truncation=jnp.int32(k))
    assert_close(metrics.grad_norm[i], expected.grad_norm)
  assert_close(after, state)


def test_without_decay_the_truncation_is_the_window():
  # In the recurrence h' = h + W x, the gradient has the same norm at all lags.
  *_, metrics = adaptive(make_cell("elman", H, activation="linear"), 1.0, 0.5, 1)
  np.testing.assert_array_equal(metrics.truncation, [8])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"tolerance": 0}, "tolerance must be greater than 0, got 0"),
    ({"tolerance": 1}, "tolerance must be below 1, got 1"),
    (
      {"tolerance": 0.1, "window": 1},
      "window must be at least 2 where a tolerance is given, got 1",
    ),
    ({"tolerance": 0.1, "adapt_every": 0}, "adapt_every must be at least 1, got 0"),
    ({"clip_carry": -1.0}, "clip_carry must be greater than 0, got -1.0"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_invalid_options_are_named(options, message):
  optimizer = make_optimizer("sgd", 0.1)
  given = {"window": K, **options}
  with pytest.raises(ValueError, match=message):
    train_windows(MODEL, optimizer, squared_error, start(optimizer), batch_of(N), **given)


def test_windows_under_shard_map_equal_those_of_the_whole_batch():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  optimizer = make_optimizer("sgd", 0.05, 1.0)
  state, stream = start(optimizer), batch_of(N, batch_size=4)

  def run(state, stream, **psum):
    state, _, metrics = train_windows(MODEL, optimizer, squared_error, state, stream, K, **psum)
    return state, metrics.loss

  mapped = jax.shard_map(
    functools.partial(run, psum=functools.partial(jax.lax.psum, axis_name="data")),
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec(None, "data")),
    out_specs=PartitionSpec(),
  )
  assert_close(jax.jit(mapped)(state, stream), jax.jit(run)(state, stream))
