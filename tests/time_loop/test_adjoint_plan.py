"""Tests of the hand-written reverse pass's plan, which assigns values to buffers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from rnn_jax import make_cell
from rnn_jax.time_loop._adjoint_loops import Loop, linearize
from rnn_jax.time_loop._adjoint_plan import PreviousOutput, Stored, make_plan
from rnn_jax.time_loop._step import StepConstants, StepInputs, make_step, start_of_step

T, B, D, H = 5, 3, 2, 4


def plan_of(name, probed=False, **options):
  """Returns the plan for a loop over the cell, whose stream is the cell's drive."""
  cell = make_cell(name, H, **options)
  params = cell.prepare(cell.init(jax.random.key(0), D))
  inputs = StepInputs(cell.project(params, jnp.zeros((B, D))), None, None, None, None)
  floats, structure = jax.tree.flatten(inputs)
  loop = Loop(
    step=make_step(cell),
    start=start_of_step,
    recur=lambda constants, h: cell.recur(constants.params, h),
    structure=structure,
    is_float=(True,) * len(floats),
    num_steps=T,
    probed=probed,
    reverse=False,
    unroll=1,
    in_order=True,
  )
  constants = StepConstants(params, None)
  carry = cell.initial_carry((B,))
  return make_plan(functools.partial(linearize, loop), constants, carry, floats, [])


def test_an_elman_drive_is_overwritten_by_a_derivative_then_by_its_cotangent():
  plan = plan_of("elman")
  assert plan.carry == [PreviousOutput(leaf=0, y=0)]
  assert list(plan.writes) == [0]
  assert plan.recurrent_bar == [0]
  assert plan.forward_specs == plan.reverse_specs == []
  assert plan.forward_in_order
  assert plan.prefetched == []


def test_a_carry_leaf_that_is_not_an_output_is_stored():
  plan = plan_of("lstm")
  hidden, cell = plan.carry
  assert hidden == PreviousOutput(leaf=0, y=0)
  assert cell == Stored(cell.buffer)
  assert cell.buffer in plan.writes
  specs = [(B, 4 * H), *(spec.shape for spec in plan.forward_specs)]
  assert specs[cell.buffer] == (B, H)


@pytest.mark.parametrize("name", ["elman", "gru", "lstm", "lem", "dilated_elman"])
def test_a_buffer_has_one_value_at_a_time(name):
  plan = plan_of(name, probed=True)
  assert len(set(plan.writes.values())) == len(plan.writes)
  kept = {leaf.buffer for leaf in plan.carry if isinstance(leaf, Stored)}
  cotangents = [*plan.recurrent_bar, *plan.new_carry_bar]
  assert not kept & set(cotangents)
  assert len(set(cotangents)) == len(cotangents)


def test_a_probed_leaf_without_a_free_buffer_gets_one_for_its_norms():
  # The carry has two leaves. The first leaf's cotangent overwrites the cotangents of ys. The only
  # buffer of the second leaf's shape stores that leaf and is read after the loop, so the leaf's
  # cotangent must not overwrite it.
  plan = plan_of("dilated_elman", probed=True)
  assert [spec.shape for spec in plan.reverse_specs] == [(B,)]
  assert plan.new_carry_bar[1] == 1 + len(plan.forward_specs) + 1


@pytest.mark.parametrize("reverse", [False, True])
def test_the_carry_before_each_step_is_the_output_of_the_previous_one(reverse):
  carry, ys = jnp.full((B, H), 9.0), jnp.arange(T * B * H, dtype=float).reshape(T, B, H)
  before = PreviousOutput(leaf=0, y=0).all_steps([], carry, ys, reverse)
  first, rest, earlier = (-1, before[:-1], ys[1:]) if reverse else (0, before[1:], ys[:-1])
  assert jnp.array_equal(before[first], carry)
  assert jnp.array_equal(rest, earlier)
