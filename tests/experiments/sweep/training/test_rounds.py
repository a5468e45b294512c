"""Tests `train_round`, which trains several runs of one group at the same time."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configured import make_run, make_settings, tasks_of
from train_all import train_all

from experiments.sweep.config.device_layout import Layout
from experiments.sweep.training import divergence
from experiments.sweep.training.program import Program, compile_group
from experiments.sweep.training.rounds import Partial, partial_like, train_round
from rnn_jax import DeepRNN, make_cell
from rnn_jax.cells import CELLS, zoneout
from rnn_jax.optimizers import make_optimizer
from rnn_jax.tasks import adding
from rnn_jax.training import init_state, update

# Steps 0 to 110, in three calls of a program. Norms are recorded every 10 steps, the measure every
# 15 steps, and both at the last step.
SETTINGS = make_settings(evaluate_every=40)
RECORDED = [0, 10, 15, 20, 30, 40, 45, 50, 60, 70, 75, 80, 90, 100, 105, 110]
TASK = adding(12, 4)
TASKS = tasks_of(TASK)
RUNS = [make_run(truncation=k, seed=seed) for k in (4, None) for seed in (0, 1)]
LSTM = make_run("lstm", clip_norm=0.05, forget_bias=1.0, clip_by="carry")
GROUPS = {run.cell: run for run in (RUNS[0], LSTM)}


@functools.cache
def compiled(cell: str, num_devices: int, data_parallel: int, together: int) -> Program:
  """Compiles a group's program once for all tests, because most of their time is compilation."""
  layout = Layout(jax.local_devices()[:num_devices], data_parallel, together)
  runs = [GROUPS[cell]] * (num_devices // data_parallel * together)
  return compile_group(runs, SETTINGS, TASKS, layout)


def trained(runs, num_devices, seen=None, data_parallel=1, together=1):
  on_records = (lambda *_: None) if seen is None else lambda *args: seen.append(args)
  program = compiled(runs[0].cell, num_devices, data_parallel, together)
  layout = Layout(jax.local_devices()[:num_devices], data_parallel, together)
  return train_all(runs, SETTINGS, TASKS, layout, program, on_records=on_records)


@pytest.mark.usefixtures("optax_promotion")
def test_a_group_takes_one_compilation(compilations):
  compiled.cache_clear()
  jax.clear_caches()
  results = trained(RUNS, 3)
  assert [result.run for result in results] == RUNS
  assert len(compilations) == 1


@pytest.mark.usefixtures("optax_promotion")
def test_records_depend_neither_on_devices_nor_on_other_runs():
  together = trained(RUNS, 3)  # in the second round, two of the three slots are spare
  for result in together[::3]:
    (alone,) = trained([result.run], 1)
    jax.tree.map(np.testing.assert_array_equal, alone.records, result.records)
  losses = [result.records.loss for result in together]
  assert not np.array_equal(losses[0], losses[1])  # the two seeds differ
  assert not np.array_equal(losses[0], losses[2])  # the two truncations differ


@pytest.mark.usefixtures("optax_promotion")
def test_records_hold_every_step_and_norms_where_logged():
  seen = []
  (result,) = trained([LSTM], 1, seen)
  assert result.records.loss.shape == result.records.grad_norm.shape == (111,)
  lags = result.records.measures["lag"]
  measured = [step % 15 == 0 or step == 110 for step in RECORDED]
  for found, name in ((result.records.norms, "log10_grad_norm"), (lags, "log10_lag_norm")):
    assert found[name].shape == found[f"{name}_cell"].shape == (len(RECORDED), 1, 12)
  assert np.isfinite(result.records.norms["log10_grad_norm"]).all()
  assert np.isfinite(lags["log10_lag_norm"]).all(axis=(1, 2)).tolist() == measured
  assert [(step, len(part.loss)) for _, step, part in seen] == [(0, 50), (50, 50), (100, 11)]
  np.testing.assert_array_equal(
    np.concatenate([part.loss for _, _, part in seen]), result.records.loss
  )


@pytest.mark.usefixtures("optax_promotion")
def test_held_out_losses_are_those_of_batches_that_no_run_trains_on():
  result = trained([RUNS[0]], 1)[0]
  found = result.records.held_out["held_out_loss"]
  assert np.flatnonzero(~np.isnan(found)).tolist() == [0, 40, 80, 110]
  params_key, data_key = jax.random.split(jax.random.key(np.uint32(RUNS[0].seed)))
  model = DeepRNN([make_cell("elman", 8)], TASK.output_size)
  params = jax.jit(model.init)(params_key, TASK.batch((), data_key).xs)

  @jax.jit
  def loss(i):
    batch = TASK.batch(TASK.held_out, jax.random.fold_in(jax.random.key(2**32 - 1), i))
    _, outputs = model.apply(params, batch.xs)
    return jnp.mean((outputs[-1, :, 0] - batch.targets[-1, :, 0]) ** 2)

  losses = jax.lax.map(loss, jnp.arange(1024 // 4))
  np.testing.assert_allclose(found[0], losses.mean(), rtol=1e-5)


@pytest.mark.usefixtures("optax_promotion")
def test_records_hold_the_share_clipped_at_each_time_step():
  (run,) = trained([LSTM], 1)
  share, records = run.records.norms["clipped_share"], run.records
  assert share.shape == (len(RECORDED), 1, 12)
  assert ((share >= 0) & (share <= 1)).all() and (share > 0).any() and (share < 1).any()
  np.testing.assert_allclose(records.clipped[RECORDED], share.mean(axis=(1, 2)), rtol=1e-6)
  np.testing.assert_array_equal(records.clipped_norm, records.grad_norm)
  # If no example's norm exceeds the limit, neither does the geometric mean of the norms.
  joint = np.log10(
    sum(100 ** run.records.norms[f"log10_grad_norm{leaf}"] for leaf in ("", "_cell"))
  )
  assert (joint[share == 0] / 2 <= np.log10(0.05)).all()
  assert (joint[share == 1] / 2 > np.log10(0.05)).all()

  (run,) = trained([dataclasses.replace(RUNS[2], clip_norm=0.3)], 1)
  assert "clipped_share" not in run.records.norms
  assert 0 < run.records.clipped.sum() < 111
  np.testing.assert_array_equal(run.records.clipped, run.records.grad_norm > 0.3)
  np.testing.assert_allclose(
    run.records.clipped_norm, np.minimum(run.records.grad_norm, 0.3), rtol=1e-6
  )


@pytest.mark.usefixtures("optax_promotion")
def test_gain_and_bias_of_a_run_reach_its_params():
  more = ({}, {"recurrent_gain": 2.0}, {"forget_bias": 5.0})
  base, gain, bias = trained([dataclasses.replace(LSTM, **given) for given in more], 1)
  start = [
    result.records.measures["lag"]["log10_lag_norm_cell"][0, 0] for result in (base, gain, bias)
  ]
  # Each step multiplies the cell state's gradient by about σ(forget_bias). In 10 steps, this is a
  # factor of σ(5)¹⁰ = 0.94 or of σ(1)¹⁰ = 0.04.
  assert start[2][11] - start[2][1] > -0.2
  assert start[0][11] - start[0][1] < -0.8
  assert not np.array_equal(start[0], start[1])


FIVE = [
  *RUNS,
  make_run(truncation=4, seed=2, clip_norm=0.1),
]  # the last round has fewer runs than slots


@pytest.mark.usefixtures("optax_promotion")
def test_sharing_batches_and_devices_changes_records_only_by_rounding():
  shared = trained(FIVE, 4, data_parallel=2, together=2)
  for result, alone in zip(shared, trained(FIVE, 1), strict=True):
    assert result.run == alone.run
    assert result.diverged_step is None
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
      result.records,
      alone.records,
    )


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("optax_promotion")
def test_devices_that_share_batches_do_not_deadlock_in_a_long_run(monkeypatch):
  """Calls a program 201 times, enough for a deadlock if a call did not wait for earlier ones."""
  for module in ("program", "rounds"):
    monkeypatch.setattr(f"experiments.sweep.training.{module}.CHUNK", 10)
  settings = make_settings(1000, "", 1000)
  run = make_run(hidden_size=4, sequence_length=4, steps=2000, optimizer="sgd")
  tasks, layout, calls = (
    tasks_of(adding(4, 4), 4),
    Layout(jax.local_devices()[:4], data_parallel=4),
    [],
  )
  (result,) = train_all([run], settings, tasks, layout, on_records=lambda *args: calls.append(args))
  assert len(calls) == 201
  assert np.isfinite(result.records.loss).all()


@pytest.mark.usefixtures("optax_promotion")
def test_several_runs_on_a_device_compute_only_the_branches_they_take():
  one, two = compiled("elman", 1, 1, 1), compiled("elman", 2, 1, 2)
  counts = [program.advance.as_text().count(" conditional(") for program in (one, two)]
  # One conditional each for the initialization, for the measures, for the evaluation on held-out
  # data, and for steps past the last one.
  assert counts == [4, 4]


@pytest.mark.usefixtures("optax_promotion")
def test_a_diverged_run_ends_at_that_step_and_does_not_affect_others():
  wild, tame = make_run(seed=3, learning_rate=1.8e18, clip_norm=None, recurrent_gain=3.0), RUNS[2]
  diverged, finished = trained([wild, tame], 3)
  step = diverged.diverged_step
  assert step and len(diverged.records.loss) == step + 1
  finite = np.isfinite(diverged.records.loss) & np.isfinite(diverged.records.grad_norm)
  assert finite[:step].all() and not finite[step]
  assert len(diverged.records.norms["log10_grad_norm"]) == np.searchsorted(RECORDED, step + 1)
  assert finished.diverged_step is None and len(finished.records.loss) == 111
  (alone,) = trained([tame], 3)
  np.testing.assert_array_equal(alone.records.loss, finished.records.loss)


@pytest.mark.usefixtures("optax_promotion")
def test_options_width_and_masks_reach_the_network(monkeypatch):
  """Compares a zoneout network's losses with those of a plain training loop that has equal keys."""

  def noisy(hidden_size, *, activation="tanh"):
    return zoneout(make_cell("elman", hidden_size, activation=activation), 0.5)

  monkeypatch.setitem(CELLS, "noisy", noisy)
  given = {"clip_norm": None, "recurrent_gain": None, "hidden_size": 5, "steps": 1}
  run = make_run("noisy", seed=3, options=(("activation", "relu"),), **given)
  settings = dataclasses.replace(SETTINGS, measures="")
  (result,) = train_all([run], settings, TASKS, Layout(jax.local_devices()[:1]))

  @jax.jit
  def losses():
    params_key, data_key = jax.random.split(jax.random.key(np.uint32(3)))
    model = DeepRNN([noisy(5, activation="relu")], TASK.output_size)
    optimizer = make_optimizer("adam", np.float32(0.01), np.float32(np.inf))

    def advance(state, step):
      batch = TASK.batch((), jax.random.fold_in(data_key, step))
      key = jax.random.fold_in(jax.random.fold_in(data_key, np.uint32(2**32 - 1)), step)
      state, _, metrics = update(model, optimizer, TASK.loss, state, batch, key=key)
      return state, metrics.loss

    start = init_state(model, optimizer, params_key, TASK.batch((), data_key).xs)
    return jax.lax.scan(advance, start, jnp.arange(2))[1]

  np.testing.assert_allclose(result.records.loss, losses(), rtol=1e-5)


@pytest.mark.usefixtures("optax_promotion")
def test_skipped_updates_of_dynamic_loss_scaling_are_no_divergence():
  """Without clipping, the first gradients at a scale of 2^16 overflow float16."""
  given = {"clip_norm": None, "steps": 6, "dtype": "float16"}
  runs = [make_run(loss_scale=scale, **given) for scale in ("dynamic", 2.0**30, None)]
  settings = dataclasses.replace(SETTINGS, measures="")
  results = {}
  for run in runs:  # each is a group of its own
    (results[run.loss_scale],) = train_all([run], settings, TASKS, Layout(jax.local_devices()[:1]))
  dynamic, fixed, plain = (results[run.loss_scale] for run in runs)
  skipped = ~np.isfinite(dynamic.records.grad_norm)
  assert skipped[0] and not skipped[-1]
  assert dynamic.diverged_step is None and dynamic.records.finite.all()
  assert np.isfinite(dynamic.records.loss).all()
  # No update was made in the skipped steps, so the first one afterwards is that of another batch,
  # at the same params, that Adam sees first.
  assert plain.diverged_step is None
  np.testing.assert_array_equal(dynamic.records.loss[0], plain.records.loss[0])
  assert fixed.diverged_step == 0
  place = divergence.locate(divergence.diverged_step(fixed, TASKS.train))
  assert place is not None and place.phase == "backward"


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize(("num_devices", "together"), [(3, 1), (2, 2)])
def test_a_resumed_round_yields_the_same_bits(num_devices, together):
  """One of a round's three runs diverges; the other two are resumed from step 100 of 110."""
  wild = make_run(learning_rate=1e30, clip_norm=None)
  runs = [RUNS[0], wild, RUNS[1]]
  layout = Layout(jax.local_devices()[:num_devices], runs_per_device=together)
  program = compiled("elman", num_devices, 1, together)
  parts = {}

  def keep(step, partial):
    if step == 100:
      parts[step] = partial()

  results = train_round(program, runs, SETTINGS, TASKS, layout, on_call=keep)
  whole = {result.run: result for result in results}
  assert whole[wild].diverged_step is not None and len(whole) == 3
  part = parts[100]
  like = partial_like(program, runs[0], SETTINGS, 3, 100)
  assert jax.tree.map(lambda a: (a.shape, a.dtype), part) == jax.tree.map(
    lambda a: (a.shape, a.dtype), like
  )
  tame = [0, 2]
  rows = part.params, part.opt_state, part.records
  left = Partial(part.step, *jax.tree.map(lambda a: a[tame], rows), part.seconds)
  seen = []
  again = train_round(
    program,
    [runs[i] for i in tame],
    SETTINGS,
    TASKS,
    layout,
    resumed_from=left,
    on_records=lambda run, step, part: seen.append((run, step, len(part.loss))),
  )
  for result in again:
    jax.tree.map(np.testing.assert_array_equal, result.records, whole[result.run].records)
    assert result.seconds >= float(part.seconds)
  assert seen == [(runs[0], 0, 100), (runs[2], 0, 100), (runs[0], 100, 11), (runs[2], 100, 11)]
