"""Tests of the figures that train: their checks on made-up records, and tiny trainings."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from outcomes import by_name, draws

from experiments.reproduce import training
from experiments.reproduce.figures import (
  f5_truncation,
  f8_depth,
  f9_batch_normalization,
  f10_every_cell,
  t1_adding,
  t2_temporal_order,
  t3_copy_memory,
  t4_character_model,
)
from rnn_jax import CELLS

pytestmark = pytest.mark.usefixtures("optax_promotion")


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


def test_f8_says_where_norms_are_zero_and_what_the_gradient_is_there(monkeypatch):
  gradients, metrics = recorded(("lstm",), {"lstm": 0.01}, depths=(1, 2))
  gradients["log10_lag_norm"] = gradients["log10_grad_norm"] - 37.5
  gradients["log10_grad_norm"][1, 1, 0, :2] = -np.inf
  monkeypatch.setattr(f8_depth, "sweep", lambda _: (gradients, metrics, 0))
  outcome = f8_depth.run()
  (check,) = [check for check in outcome.checks if check.name.startswith("norms that are zero")]
  assert check.measured == 2 and not check.met
  smallest = float(gradients["log10_lag_norm"].min())
  assert "lstm 2: 2." in outcome.notes[-1] and f"10^{smallest:.1f}" in outcome.notes[-1]


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
