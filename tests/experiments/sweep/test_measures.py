"""Tests of a sweep's measures, which name and average what `rnn_jax.gradient_flow` computes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configured import make_run, make_settings, tasks_of
from jax.flatten_util import ravel_pytree
from train_all import train_all

from experiments.sweep.config.device_layout import Layout
from experiments.sweep.measures.compute import reaches
from experiments.sweep.measures.measure import Moment, by_leaf
from experiments.sweep.measures.table import MEASURES, coordinates
from rnn_jax import CELLS, DeepRNN, make_cell
from rnn_jax.cells import ClockworkCarry, DilatedCarry, LSTMCarry
from rnn_jax.estimators import uoro
from rnn_jax.gradient_flow import lag_profile, newton_in_time, saturation
from rnn_jax.tasks import copy_memory

T, B = 24, 4
TASK = copy_memory(T, B)


@functools.cache
def moment(cell, depth):
  model = DeepRNN([make_cell(cell, 3)] * depth, TASK.output_size, TASK.vocabulary_size)

  @jax.jit
  def start():
    batch = TASK.batch(TASK.data, jax.random.key(1))
    return batch, model.init(jax.random.key(0), batch.xs)["params"]

  batch, params = start()
  return Moment(model, params, TASK, batch, batch, uoro(), functools.partial(jnp.mean, axis=-1))


@pytest.mark.parametrize("cell", ["elman", "lstm"])
def test_each_measure_has_the_variables_and_shapes_of_its_table_entry(cell):
  depth = 2
  sizes = {"layer": depth, "time": T, "lag": T, "exponent": 3 if cell == "elman" else 4}
  sizes |= {"reach": len(reaches(T)), "share_lag": 16}
  now = moment(cell, depth)
  for measure in MEASURES.values():
    found = jax.eval_shape(lambda measure=measure: measure.of(now))
    assert {name.removesuffix("_cell") for name in found} <= measure.labels.keys()
    for value in found.values():
      assert value.shape == tuple(sizes[dim] for dim in measure.dims)[: value.ndim]
      assert value.ndim > 0 or not measure.dims
  assert {dim: len(values) for dim, values in coordinates(sizes).items()} == sizes


def test_a_measure_that_does_not_fit_the_cell_is_skipped():
  assert MEASURES["saturation"].of(moment("elman", 1)) == {}
  assert MEASURES["weight_shares"].of(moment("lru", 1)) == {}


@pytest.mark.parametrize("name", [n for n in CELLS if make_cell(n, 8).gates])
def test_gates_of_every_cell_have_a_label(name):
  cell = make_cell(name, 3)
  drive, carry = (jnp.zeros((1, 2)), cell.initial_carry((1,)))

  def gates(key):
    params = cell.prepare(cell.init(key, 2))
    return cell.gates(params, carry, cell.project(params, drive), cell.recur(params, carry))

  found = jax.eval_shape(gates, jax.random.key(0))
  labels = MEASURES["saturation"].labels
  assert {f"{gate}_gate_open" for gate in found} <= labels.keys()
  assert all(gate.shape == (1, 3) for gate in found.values())


def test_measures_use_the_loss_of_the_task_and_name_the_gates():
  now = moment("lstm", 1)
  network = now.network(now.batch)
  found = jax.jit(lambda: MEASURES["lag"].of(now))()
  last_loss = functools.partial(now.loss, targets=now.batch.targets[-1])
  (profile,) = jax.jit(lambda: lag_profile(*network, last_loss))()
  np.testing.assert_allclose(
    found["log10_lag_norm_cell"][0, 1:], profile.cell.mean(axis=1)[1:], rtol=1e-5
  )
  found = jax.jit(lambda: MEASURES["saturation"].of(now))()
  (gates,) = jax.jit(lambda: saturation(*network))()
  assert found.keys() == {f"{gate}_gate_{state}" for gate in gates for state in ("open", "shut")}
  np.testing.assert_array_equal(found["forget_gate_shut"][0], gates["forget"].low)


def test_curvature_is_that_of_the_training_loss_in_all_params_readout_included():
  now = moment("elman", 1)
  point, unravel = ravel_pytree(now.params)

  @jax.jit
  def both():
    def loss(point):
      _, outputs = now.model.apply({"params": unravel(point)}, now.batch.xs)
      losses = now.task.loss(outputs, now.batch.targets)
      return jnp.mean(losses, where=now.batch.mask)

    return MEASURES["curvature"].of(now), jax.hessian(loss)(point)

  found, dense = both()
  values = np.linalg.eigvalsh(dense)
  np.testing.assert_allclose(found["hessian_largest"], values[-1], rtol=1e-3)
  np.testing.assert_allclose(found["hessian_leading"], values[np.abs(values).argmax()], rtol=1e-3)


def test_newton_iterations_and_errors_are_averaged_over_the_batch():
  now = moment("elman", 2)
  found = jax.jit(lambda: MEASURES["newton"].of(now))()
  layers = jax.jit(lambda: newton_in_time(*now.network(now.batch)))()
  counts, errors = zip(*((layer.iterations, layer.errors[-1]) for layer in layers), strict=True)
  np.testing.assert_allclose(found["newton_iterations"], np.mean(counts, axis=1))
  np.testing.assert_allclose(found["newton_error"], np.mean(errors, axis=1), rtol=1e-2, atol=1e-6)


@pytest.mark.usefixtures("optax_promotion")
def test_devices_that_share_a_batch_measure_all_of_it():
  measures = "lag,truncation_bias"
  settings = make_settings(1, measures, 1)
  sizes = {"hidden_size": 3, "sequence_length": T, "batch_size": B, "steps": 1}
  run = make_run(task="copy_memory", optimizer="sgd", learning_rate=0.1, **sizes)

  def measured(layout):
    (result,) = train_all([run], settings, tasks_of(TASK, T), layout)
    return {**result.records.measures, "held_out": result.records.held_out}

  one, two = (measured(Layout(jax.local_devices()[:n], data_parallel=n)) for n in (1, 2))
  assert one.keys() == {*measures.split(","), "held_out"}
  assert one["held_out"].keys() == {"held_out_loss", "held_out_accuracy"}
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), two, one)


@pytest.mark.parametrize(
  ("num_steps", "expected"), [(1, [1]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_measured_truncations_are_powers_of_two_and_the_full_length(num_steps, expected):
  assert reaches(num_steps) == expected


def test_names_of_variables_end_with_the_leafs_path_in_the_carry():
  a, b = jnp.arange(3.0), jnp.ones(3)
  one, two = DilatedCarry(a, (b, a + 1)), DilatedCarry(a + 2, (b, a))
  named = by_leaf("norm", [one, two])
  assert list(named) == ["norm", "norm_earlier_0", "norm_earlier_1"]
  np.testing.assert_array_equal(named["norm_earlier_1"], [a + 1, a])
  assert list(by_leaf("norm", [LSTMCarry(a, b)])) == ["norm", "norm_cell"]
  # An integer leaf of the carry, such as a step counter, has no gradient norm: it is None, and gets
  # no variable.
  assert list(by_leaf("norm", [ClockworkCarry(a, None)])) == list(by_leaf("norm", [a])) == ["norm"]
