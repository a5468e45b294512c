"""Tests of the figures that train: their checks on made-up records, and tiny trainings."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest
import xarray as xr

import rnn_jax
from experiments.reproduce import training
from experiments.reproduce.figures import (
  f5_truncation,
  f8_depth,
  f9_batch_normalization,
  f10_every_cell,
  f14_teacher_student,
  f15_latch,
  f16_forget_bias,
  f17_lstm_ablation,
  f19_alignment,
  f20_h_detach,
  f21_flossing,
  f22_state_tracking,
  t1_adding,
  t2_temporal_order,
  t3_copy_memory,
  t4_character_model,
)
from rnn_jax import CELLS
from rnn_jax.cells import LSTMCarry, peephole_lstm
from rnn_jax.tasks import adding

pytestmark = pytest.mark.usefixtures("optax_promotion")


def draws(outcome):
  """Draws an outcome's picture, and returns whether it has axes."""
  figure = matplotlib.figure.Figure(layout="constrained")
  outcome.draw(figure)
  return bool(figure.axes)


def by_name(outcome):
  return {check.name: check for check in outcome.checks}


def recorded(cells, losses, *, depths=(1,), before=-5.0, after=-5.0):
  """Returns the records of a sweep with one run per cell and depth, and 3 time steps.

  Args:
    cells: names of the cells.
    losses: the constant loss of each cell.
    depths: numbers of layers.
    before, after: log10 gradient norms at the first time step, before and after training; those at
      the last time step are 0.
  """
  kinds = list(itertools.product(cells, depths))
  layers = max(depths)
  norms = np.full((len(kinds), 2, layers, 3), np.nan)
  for i, (_, depth) in enumerate(kinds):
    for step, first in enumerate((before, after)):
      norms[i, step, :depth] = np.linspace(first, 0.0, 3)
  coordinates = {
    "cell": ("run", [cell for cell, _ in kinds]),
    "depth": ("run", [depth for _, depth in kinds]),
    "seed": ("run", [0] * len(kinds)),
  }
  gradients = xr.Dataset(
    {"log10_grad_norm": (("run", "step", "layer", "time"), norms)}, coordinates
  )
  loss = np.array([[losses[cell]] * 120 for cell, _ in kinds])
  return gradients, xr.Dataset(
    {"loss": (("run", "update"), loss)}, coordinates, {"baseline": 1 / 6}
  )


@pytest.mark.parametrize(("elman", "gru", "good"), [(0.16, 1e-3, True), (0.16, 0.1, False)])
def test_t1_checks_gated_cells_and_the_tanh_rnn(monkeypatch, elman, gru, good):
  records = recorded(("elman", "gru"), {"elman": elman, "gru": gru})
  monkeypatch.setattr(t1_adding, "sweep", lambda _: (*records, 0))
  outcome = t1_adding.run()
  assert all(check.met for check in outcome.checks) is good
  assert [row["cell"] for row in outcome.table] == ["elman", "gru"]
  assert draws(outcome)


@pytest.mark.parametrize(("after", "good"), [(-1.0, True), (-9.0, False)])
def test_f8_checks_the_reach_of_the_gradient_in_networks_that_have_learned(
  monkeypatch, after, good
):
  records = recorded(("lstm",), {"lstm": 0.01}, depths=(1, 2), after=after)
  monkeypatch.setattr(f8_depth, "sweep", lambda _: (*records, 0))
  outcome = f8_depth.run()
  assert all(check.met for check in outcome.checks) is good
  assert [(row["layers"], row["layer"]) for row in outcome.table] == [(1, 1), (2, 1), (2, 2)]
  assert outcome.table[0]["decades lost, before"] == 5.0
  assert draws(outcome)


def test_f10_trains_every_cell():
  flags = (training.FLAGFILES / "cells_decay.flags").read_text().splitlines()
  (cells,) = [line.removeprefix("--cell=") for line in flags if line.startswith("--cell=")]
  assert cells.split(",") == list(CELLS)
  seeds = ",".join(map(str, f10_every_cell.SEEDS))
  assert {f"--seed={seeds}", f"--select_seed={f10_every_cell.SELECT_SEED}"} <= set(flags)


def decaying(cells, rate, losses):
  """Returns the records of a sweep with two seeds per cell and task, at given rates of decay.

  Args:
    cells: names of the cells, with options.
    rate: for each cell, the decades per step that the gradient of its first carry leaf loses in the
      upper layer; that of its second leaf loses half as many.
    losses: for each cell, its mean held-out loss as a share of the baseline, which is 2; the first
      seed's is a tenth below it, the second's a tenth above.
  """
  tasks = [task for task in f10_every_cell.TASKS for _ in range(2)]
  lags = np.tile(-np.outer(rate, np.arange(40.0)), (len(tasks), 1))
  norms = np.stack([np.full_like(lags, np.nan), lags], axis=1)[:, None].repeat(2, axis=1)
  half = norms / 2
  half[:: len(cells)] = np.nan  # the first cell's carry has a single leaf
  dims = ("run", "step", "layer", "lag")
  count = len(tasks) * len(cells)
  coordinates = {
    "cell": ("run", cells * len(tasks)),
    "task": ("run", np.repeat(tasks, len(cells))),
    "learning_rate": ("run", [0.01] * count),
    "baseline": ("run", [2.0] * count),
    "layer": [1, 2],
  }
  gradients = xr.Dataset(
    {"log10_lag_norm": (dims, norms), "log10_lag_norm_cell": (dims, half)}, coordinates
  )
  held_out = np.full((count, 3), np.nan)
  seeds = np.tile(np.repeat([0.9, 1.1], len(cells)), len(tasks) // 2)
  held_out[:, -1] = 2 * seeds * np.tile(losses, len(tasks))
  metrics = xr.Dataset({"held_out_loss": (("run", "update"), held_out)}, coordinates)
  return gradients, metrics, 3


def test_f10_leaves_out_seeds_without_a_gradient_at_lag_0():
  gradients, metrics, _ = decaying(["irnn", "elman"], np.array([0.01, 0.1]), [0.1, 1.0])
  norms = gradients["log10_lag_norm"]
  norms[0] = -np.inf  # the first seed of irnn
  for leaf in gradients.values():
    leaf[1, :, :, 30:] = -np.inf  # the first seed of elman, from lag 30 on
  copy = f10_every_cell.profiles(gradients, metrics)["copy"]
  np.testing.assert_allclose(copy.lost("irnn"), 0.35)
  np.testing.assert_array_equal(copy.lost("elman"), np.inf)
  norms[2] = -np.inf
  assert np.isnan(f10_every_cell.profiles(gradients, metrics)["copy"].lost("irnn")).all()
  assert not any(copy.broken.values())


@pytest.mark.parametrize(("kept", "good"), [(0.01, True), (0.03, False)])
def test_f10_checks_cells_against_their_papers(monkeypatch, kept, good):
  cells = ["irnn", "lstm chrono=40", "elman", "gru", "lru", "janet", "scornn"]
  rate = np.array([kept, 2 * kept, 0.1, 0.1, kept, kept, 0.001])
  records = decaying(cells, rate, [0.1, 0.1, 1.0, 0.1, 0.1, 0.1, np.nan])
  monkeypatch.setattr(f10_every_cell, "sweep", lambda *_, **__: records)
  outcome = f10_every_cell.run()
  rows = {row["cell"]: row for row in outcome.table}
  assert rows["irnn"]["adding: decades lost, before"] == pytest.approx(35 * kept)
  # Of two carry leaves, the one with the larger norm counts.
  # An option that all LSTMs share is no part of the name.
  assert rows["lstm"]["parity: decades lost, after"] == pytest.approx(35 * kept)
  assert rows["elman"]["copy: loss / baseline"] == pytest.approx(1.0)
  assert rows["elman"]["copy: standard error"] == pytest.approx(0.1)
  assert rows["scornn"]["copy: loss / baseline"] == np.inf  # it diverged
  assert np.isnan(rows["scornn"]["copy: standard error"])
  checks = by_name(outcome)
  assert checks["keeps: irnn, decades lost before, maximum"].met is good
  assert checks["loses: elman, decades lost before, minimum"].met
  assert checks["cells that learned to add"].measured == 5
  # The GRU lost the gradient and has learned to add, and ScoRNN kept it and has not.
  assert not checks["after, cells that learned to add: decades lost, maximum"].met
  assert checks["cells that lost the gradient before, and learned to add"].measured == 1
  assert checks["cells that kept the gradient before, and did not learn to add"].measured == 1
  assert "3 runs were recorded by an earlier call" in outcome.notes[-1]
  assert draws(outcome)


def test_t2_checks_the_order_of_the_methods(monkeypatch):
  solved = {"SGD": [-1, -1], "C": [-1, 3], "CR": [2, 2], t2_temporal_order.MEAN: [-1, -1]}

  def train(length, runs, *_):
    names = ("CR", t2_temporal_order.MEAN) if runs[0].weight > 0 else ("SGD", "C")
    found = np.concatenate([solved[name] for name in names])
    return np.where(found < 0, 0.7, 0.0), found

  monkeypatch.setattr(t2_temporal_order, "train", train)
  outcome = t2_temporal_order.run((20,), (0, 1))
  assert [row["success rate"] for row in outcome.table] == [0.0, 0.5, 1.0, 0.0]
  assert all(check.met for check in outcome.checks)
  assert draws(outcome)
  solved["CR"] = [-1, -1]
  checks = by_name(t2_temporal_order.run((20,), (0, 1)))
  assert not checks["T = 20: success rate, CR − C"].met


def test_t2_trains():
  run = t2_temporal_order.Run(np.uint32(0), np.float32(1), np.float32(0))
  errors, solved = t2_temporal_order.train(10, [run], 2, 1, 10)
  assert 0 <= errors[0] <= 1
  assert solved[0] == -1 or errors[0] < t2_temporal_order.SOLVED


def test_t3_trains():
  outcome = t3_copy_memory.run(100, (0,), 4)
  assert [row["initialization"] for row in outcome.table] == list(t3_copy_memory.NAMES)
  losses = [row["loss of the last 100"] for row in outcome.table]
  assert np.isfinite(losses).all()
  assert losses[0] != losses[1]
  assert draws(outcome)


def test_t4_memorizes_a_text(monkeypatch, tmp_path):
  monkeypatch.setattr(t4_character_model, "LIMITS", {"elman": 1.5})
  (tmp_path / "text").write_bytes(b"ab" * 700)
  outcome = t4_character_model.run(str(tmp_path / "text"), 1300, (0,), 20, 4)
  (row,) = outcome.table
  assert row["perplexity: first epoch"] > row["last epoch"] > 1
  assert outcome.checks[0].met
  assert draws(outcome)


def test_f5_has_no_bias_at_the_full_length(monkeypatch, tmp_path):
  monkeypatch.setattr(f5_truncation, "CELLS", ("elman",))
  (tmp_path / "text").write_bytes(b"the quick brown fox " * 10)
  outcome = f5_truncation.run(str(tmp_path / "text"), (1, 5), 5, (0,), 2)
  assert all(check.met for check in outcome.checks)
  cut, full = outcome.table
  assert full["cosine after"] == pytest.approx(1, abs=1e-5)
  assert 0 < cut["relative error before"] < 1
  assert draws(outcome)


def test_f9_norms_equal_those_of_a_plain_loop(x64):
  gamma, side, size = 0.5, 2, 4
  (logs,) = f9_batch_normalization.gradient_norms((gamma,), (1,), side, size)
  images, labels = f9_batch_normalization.digits(1, size, side)
  cell_key, head_key, carry_key = jax.random.split(jax.random.key(1), 3)
  orthogonal = jax.nn.initializers.orthogonal()
  w_x, head = orthogonal(cell_key, (1, size), float), orthogonal(head_key, (size, 10), float)
  start = 0.1 * jax.random.normal(carry_key, (size, size))

  @jax.jit
  def grads(slots):
    def loss(slots):
      h = start
      for t in range(side**2):
        a = h + images.reshape(size, -1)[:, t : t + 1] * w_x
        a = (a - a.mean(axis=0, keepdims=True)) / jnp.sqrt(a.var(axis=0, keepdims=True) + 1e-5)
        h = jnp.tanh(gamma * a) + slots[t]
      return -jax.nn.log_softmax(h @ head)[np.arange(size), labels].mean()

    return jax.grad(loss)(slots)

  wanted = np.linalg.norm(grads(jnp.zeros((side**2, size, size))), axis=-1).mean(axis=-1)
  np.testing.assert_allclose(logs[0], np.log10(wanted), rtol=1e-10)


@pytest.mark.parametrize(("steepest", "good"), [(12.0, True), (9.0, False)])
def test_f9_checks_that_the_gradient_vanishes_at_large_gains(monkeypatch, steepest, good):
  def norms(gains, seeds, *_, **__):
    profiles = np.multiply.outer(np.array(gains) * steepest, [-1.0, -0.5, 0.0])
    return np.stack([profiles + seed for seed in seeds])

  monkeypatch.setattr(f9_batch_normalization, "gradient_norms", norms)
  outcome = f9_batch_normalization.run()
  gains = [f"{gain:g}" for gain in f9_batch_normalization.GAINS]
  assert [row["γ"] for row in outcome.table[:-2]] == gains
  assert [row["lost, mean"] for row in outcome.table[:-2]] == pytest.approx(
    [steepest * gain for gain in f9_batch_normalization.GAINS]
  )
  assert [check.met for check in outcome.checks] == [True, good, True]
  assert draws(outcome)


def test_f9_digits_resemble_scanned_ones():
  images, labels = f9_batch_normalization.digits(0, 40, 28)
  assert {*np.unique(images)} == {0.0, 1.0}
  assert images[:, :2].sum() == images[:, -2:].sum() == 0  # the border is blank
  assert 0.05 < images.mean() < 0.3
  zeros = images[labels == 0]
  assert len(zeros)
  assert (zeros[:, 13:15, 13:15] == 0).all()  # the hole of a 0 is white


def test_f16_trains_each_bias(monkeypatch):
  name = "adding, T = 4"
  monkeypatch.setattr(f16_forget_bias, "TASKS", {name: adding(4, 2)})
  monkeypatch.setattr(f16_forget_bias, "CALL", 5)
  outcome = f16_forget_bias.run(10, (0,), 4)
  checks = by_name(outcome)
  assert checks["decay rate, W_h = 0: largest relative distance from ln σ(b_f)"].met
  losses = [row[f"{name}: mean loss / baseline"] for row in outcome.table]
  assert np.isfinite(losses).all() and len(set(losses)) == len(f16_forget_bias.BIASES)
  first = checks[f"{name}: loss at b_f = 1 minus b_f = 0"]
  assert first.measured == pytest.approx(losses[2] - losses[1])
  assert outcome.table[2]["half-life, W_h = 0"] == pytest.approx(2.2127, abs=1e-4)
  assert draws(outcome)


def test_f15_trains_a_latch(monkeypatch):
  monkeypatch.setattr(f15_latch, "GAINS", (2.0,))
  monkeypatch.setattr(f15_latch, "HOLD", 500)
  outcome = f15_latch.run((4, 8), (0, 1), 2)
  checks = by_name(outcome)
  assert checks["decay rate without noise, largest distance from closed form"].met
  assert checks["log₁₀(gradient / bound) in noise, largest"].met
  assert [row["latch"] for row in outcome.table] == [
    "w = 2, untrained",
    "T = 4, trained",
    "T = 8, trained",
  ]
  assert draws(outcome)


def test_f15_loss_is_that_of_the_unit_with_its_learned_inputs():
  xs, signs = f15_latch.batch(5, 4, jax.random.key(0))
  inputs = np.arange(6.0) / 10
  params = {"w": jnp.asarray(1.3), "inputs": jnp.asarray(inputs, jnp.float32)}
  noise = np.asarray(xs)[:, :, -1]
  assert (noise[:3] == 0).all() and (noise[3:] != 0).all()
  wanted = []
  for b, sign in enumerate(np.asarray(signs)):
    h = 0.0
    for t in range(5):
      learned = inputs[t + (3 if sign > 0 else 0)] if t < 3 else 0.0
      h = np.tanh(1.3 * h + learned + noise[t, b])
    wanted.append(h)
  np.testing.assert_allclose(f15_latch.final(params, xs), wanted, rtol=1e-5)


def test_f17_trains_each_variant(tmp_path):
  (tmp_path / "text").write_bytes(b"the quick brown fox " * 50)
  outcome = f17_lstm_ablation.run(str(tmp_path / "text"), 3, (0, 1), 4)
  assert [row["variant"] for row in outcome.table] == list(f17_lstm_ablation.VARIANTS)
  assert outcome.table[0]["relative effect"] == 0
  losses = [row["held-out loss, median"] for row in outcome.table]
  assert np.isfinite(losses).all() and len(set(losses)) == len(losses)
  assert draws(outcome)


def test_f17_variants_replace_one_part():
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


def alignments(cosines, *, kept=1.0, loss=0.5):
  """Returns records of F19 with a given mean cosine of each estimator."""
  names = f19_alignment.NAMES
  jitter = 0.01 * (np.arange(8) % 2 - 0.5)
  cosine = np.array([cosines[name] for name in names])[:, None] + np.zeros((2, 3, len(names), 8))
  return f19_alignment.Record(cosine, kept + jitter + 0 * cosine, np.full((2, 3, 4), loss))


ALIGNED = {"rtrl": 1, "tbptt5": 0.9, "snap1": 0.8, "rflo": 0.7, "kf_rtrl": 0.4, "uoro1": 0.1}


@pytest.mark.parametrize(
  ("cosines", "options", "missed"),
  [
    (ALIGNED, {}, set()),
    (ALIGNED | {"rtrl": 0.99}, {}, {"rtrl: smallest cosine"}),
    (ALIGNED | {"uoro1": 0.5}, {}, {"cosine of kf_rtrl − uoro1, medians over seeds"}),
    (ALIGNED, {"loss": 0.6}, {"loss of the last 4, worst seed"}),
    (
      ALIGNED,
      {"kept": 1.1},
      {f"{n}: |mean ⟨ĝ, g⟩/‖g‖² − 1|, in standard errors" for n in f19_alignment.RANDOM},
    ),
  ],
)
def test_f19_checks_the_order_of_the_estimators(cosines, options, missed):
  found = f19_alignment.checks_of(alignments(cosines, **options))
  assert {check.name for check in found if not check.met} == missed


def test_f19_variance_of_uoro_is_that_over_all_signs():
  delta, slopes, x = np.array([0.3, -1.0, 0.5, 2.0]), np.array([1.0, 0.2, 0.7, 0.4]), np.ones(3)
  influence = slopes[:, None] * x  # of the row of unit i on unit i
  signs = np.array(list(itertools.product((-1, 1), repeat=4)))
  estimates = (signs @ delta)[:, None, None] * signs[:, :, None] * influence
  gradient = delta[:, None] * influence
  np.testing.assert_allclose(estimates.mean(axis=0), gradient, atol=1e-12)
  variance = ((estimates - gradient) ** 2).sum(axis=(1, 2)).mean() / (gradient**2).sum()
  found = f19_alignment.uoro_variance(jnp.array(delta), jnp.array(slopes))
  assert found == pytest.approx(variance)


def test_f19_entropies_are_those_of_its_task():
  batch = f19_alignment.add_task(4000).batch((), jax.random.key(0))
  x, target = np.asarray(batch.xs[..., 1]), np.asarray(batch.targets)
  valid = np.asarray(batch.mask)
  first, second = (np.roll(x, lag, axis=0)[valid] for lag in (3, 6))

  def entropy(*given):
    total = 0.0
    for values in itertools.product((0, 1), repeat=len(given)):
      chosen = np.ones(first.shape, bool)
      for inputs, value in zip(given, values, strict=True):
        chosen &= inputs == value
      p = target[valid][chosen].mean()
      total -= chosen.mean() * (p * np.log(p) + (1 - p) * np.log(1 - p)) if 0 < p < 1 else 0.0
    return total

  expected = f19_alignment.GUESS, f19_alignment.FIRST_ONLY, f19_alignment.FLOOR
  found = entropy(), entropy(first), entropy(first, second)
  np.testing.assert_allclose(found, expected, atol=5e-3)


def test_f20_task_recalls_the_symbols_after_the_signal():
  task = f20_h_detach.short_copy(3, silence=5)
  batch = task.batch((), jax.random.key(0))
  blank, signal = 4, 5
  assert batch.xs.shape == batch.targets.shape == (13, 3)
  assert np.array_equal(batch.targets[-4:], batch.xs[:4]) and np.all(batch.targets[:-4] == blank)
  assert np.all(batch.xs[8] == signal) and np.all(np.delete(batch.xs[4:], 4, axis=0) == blank)
  assert task.baseline == pytest.approx(4 * np.log(4) / 13)


def test_f20_counts_updates_and_relapses():
  curves = np.array([[1, 0.05, 0.5, 0.05], [0.05, 0.05, 0.05, 0.05], [1, 1, 1, 1]])
  call = f20_h_detach.CALL
  assert np.array_equal(f20_h_detach.updates_to_solve(curves), [2 * call, call, 5 * call])
  np.testing.assert_allclose(f20_h_detach.relapses(curves), [1 / 3, 0, 1])


@pytest.mark.parametrize(
  ("none", "some", "missed"),
  [
    ([1, 1, 0.05, 0.5, 0.05], [1, 0.05, 0.05, 0.05, 0.05], []),
    ([1, 0.05, 0.05, 0.05, 0.05], [1, 1, 0.05, 0.5, 0.05], [1, 2, 3]),
    ([1, 1, 1, 1, 0.05], [1, 1, 1, 1, 1], [0, 1, 2, 3]),
  ],
)
def test_f20_checks_speed_and_steadiness(none, some, missed):
  curves = np.array([[none] * 3, [some] * 3])
  checks = f20_h_detach.checks_of(curves)
  assert [i for i, check in enumerate(checks) if not check.met] == missed


def test_f21_target_is_the_input_of_d_steps_before():
  batch = f21_flossing.delayed_copy(3, 2, 9).batch((), jax.random.key(0))
  assert np.array_equal(batch.mask.sum(axis=1), [0] * 3 + [2] * 6)
  assert np.array_equal(batch.targets[3:], np.asarray(batch.xs[:-3]) == 1)


def dynamics(exponents, slope):
  """Returns the dynamics of two networks with the same exponents and slope of the profile."""
  profile = slope * np.arange(200.0)
  return f21_flossing.Dynamics(np.tile(exponents, (2, 1)), np.tile(profile, (2, 1)))


NONE, LONGER = [1, 1, 0.4, 0, 0, 0], [1, 1, 1, 0.6, 0, 0]


@pytest.mark.parametrize(
  ("success", "last", "gain", "missed"),
  [
    ([NONE, LONGER, LONGER], -0.05, 0.2, []),
    ([NONE, NONE, LONGER], -0.05, 0.2, [0, 2]),
    ([NONE, LONGER, NONE], -0.05, 0.2, [1]),
    ([NONE, LONGER, LONGER], -0.2, 0.2, [3]),
    ([NONE, LONGER, LONGER], -0.05, 0.15, [4]),
  ],
)
def test_f21_checks_success_exponents_and_gradients(success, last, gain, missed):
  before, after = dynamics([-0.25, -1.0], -0.25), dynamics([-0.05, last], gain - 0.25)
  checks = f21_flossing.checks_of(np.array(success), before, after)
  assert [i for i, check in enumerate(checks) if not check.met] == missed


def test_f14_meets_its_closed_forms_and_compares_the_growth_of_errors(monkeypatch):
  monkeypatch.setattr(f14_teacher_student, "STEPS", 400)
  monkeypatch.setattr(f14_teacher_student, "DECAYS", (0.5, 0.9))

  def train(name, memory, runs, *_):
    grows = (name == "dense") is good
    return np.array([0.01 * (memory if grows else 1.1)] * len(runs))

  monkeypatch.setattr(f14_teacher_student, "train", train)
  good = True
  outcome = f14_teacher_student.run()
  assert all(check.met for check in outcome.checks) and len(outcome.checks) == 9
  assert len(outcome.table) == 2 + 6
  assert draws(outcome)
  good = False
  monkeypatch.setattr(f14_teacher_student, "one_unit", lambda: outcome.table[:2])
  assert not any(check.met for check in f14_teacher_student.run().checks[-2:])


def test_f14_trains():
  run = f14_teacher_student.Run(np.uint32(0), np.float32(1e-3))
  (error,) = f14_teacher_student.train("LRU", 2.0, [run], 2, 2)
  assert 0 < error < np.inf


def test_f22_spreads_a_token_over_two_steps():
  task = f22_state_tracking.s3(5, 3)
  batch, found = (
    each.batch((), jax.random.key(0)) for each in (task, f22_state_tracking.spread(task, 2))
  )
  np.testing.assert_array_equal(found.xs[::2], 2 * batch.xs)
  np.testing.assert_array_equal(found.xs[1::2], 2 * batch.xs + 1)
  np.testing.assert_array_equal(found.targets[1::2], batch.targets)
  assert found.mask[1::2].all() and not found.mask[::2].any()


@pytest.mark.parametrize("good", [True, False])
def test_f22_checks_the_best_run(monkeypatch, good):
  limits = iter([limit for of in f22_state_tracking.LIMITS.values() for limit in of.values()])

  def train(setting, method, runs):
    limit = next(limits)
    met = limit + 0.01 if limit == f22_state_tracking.SOLVED else limit - 0.01
    found = np.full((len(runs), f22_state_tracking.LAST), -0.1)
    found[-2] = met if good else 2 * limit - met
    return found

  monkeypatch.setattr(f22_state_tracking, "train", train)
  outcome = f22_state_tracking.run(size=8, heads=2)
  closed, trained = outcome.checks[:2], outcome.checks[2:]
  assert all(check.met for check in closed) and len(trained) == 9
  assert all(check.met is good for check in trained)
  assert [row["median over seeds"] for row in outcome.table] == pytest.approx([-0.1] * 9)
  assert {row["learning rate"] for row in outcome.table} == {f22_state_tracking.LEARNING_RATES[1]}
  assert draws(outcome)


def test_f22_trains():
  tiny = f22_state_tracking.Setting(f22_state_tracking.parity, 3, 2)
  method = f22_state_tracking.methods(4, 2)[f22_state_tracking.PRODUCT]
  found = f22_state_tracking.train(
    tiny, method, [f22_state_tracking.Run(np.uint32(0), np.float32(0))]
  )
  assert found.shape == (1, f22_state_tracking.LAST)
  assert (np.abs(found) <= 1).all()
