"""Exact gradient estimators, against backpropagation through time, for every cell."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimated import KEY, distance, draw, exact, gradient, loss, problem, shares, truth

from rnn_jax import CELLS, make_cell, unroll
from rnn_jax.cells import stack
from rnn_jax.estimators import bptt, fptt, h_detach, rflo, rtrl, snap, tbptt
from rnn_jax.types import floats_of, with_floats

pytestmark = pytest.mark.usefixtures("x64")

LINEAR = [name for name in CELLS if make_cell(name, 4).linear is not None]


@pytest.mark.parametrize("name", CELLS)
def test_rtrl_is_bptt_and_rflo_is_bptt_without_the_recurrent_path(name):
  cell, params, xs = problem(name, hidden_size=4, num_steps=4, batch_size=2)

  @jax.jit
  def gradients(params):
    rules = bptt(), rtrl(), h_detach(1.0), rflo()
    return [rule(cell, params, xs, loss, KEY) for rule in rules]

  (value, full), (value_2, by_rtrl), (_, detached), (_, by_rflo) = gradients(params)
  np.testing.assert_allclose(value, value_2, rtol=1e-13)
  assert distance(by_rtrl, full) < 1e-12
  assert distance(by_rflo, detached) < 1e-12


@pytest.mark.parametrize("name", ["elman", "lstm", "lru"])
def test_bptt_is_the_derivative_of_a_python_loop(name):
  cell, params, xs = problem(name)
  assert distance(truth(cell, params, xs), exact(cell, params, xs)) < 1e-13


@pytest.mark.parametrize("name", LINEAR)
def test_snap_1_is_exact_for_cells_that_are_diagonal_in_their_carry(name):
  cell, params, xs = problem(name, hidden_size=4)
  assert distance(gradient(snap(1), cell, params, xs), truth(cell, params, xs)) < 1e-12


def test_snap_is_rtrl_from_the_n_at_which_every_param_reaches_every_unit():
  # Unit 0 -> 1 -> 2 -> 3 by a fixed mask, so a param of unit 0 reaches unit 3 in the fourth step.
  base = make_cell("elman", 4)
  chain = np.eye(4, k=1)

  def prepare(params):
    return {**params, "w_h": params["w_h"] * chain}

  def recur(params, h):
    parts = [h[..., j - 1 : j] * params["w_h"][j - 1, j] if j else h[..., :1] * 0 for j in range(4)]
    return jnp.concatenate(parts, axis=-1) + jnp.expand_dims(params["b"], range(h.ndim - 1))

  cell = base._replace(prepare=prepare, recur=recur, recurrent_kernel=None)
  params, xs = base.init(jax.random.key(3), 2), draw(1, 7, 2, 2)
  full = truth(cell, params, xs)
  errors = [distance(gradient(snap(n), cell, params, xs), full) for n in (1, 2, 3, 4, 5)]
  assert errors[0] > errors[1] > errors[2] > 1e-3
  assert max(errors[3:]) < 1e-13


@pytest.mark.parametrize("name", ["elman", "gru", "lstm"])
def test_snap_2_is_exact_with_a_dense_recurrent_kernel(name):
  cell, params, xs = problem(name)
  full = truth(cell, params, xs)
  assert distance(gradient(snap(2), cell, params, xs), full) < 1e-13
  assert distance(gradient(snap(1), cell, params, xs), full) > 1e-3


@pytest.mark.parametrize("name", ["elman", "gru", "lstm", "lru"])
def test_errors_forward_in_time_give_the_gradient_of_bptt(name):
  cell, params, xs = problem(name, num_steps=4)
  assert distance(gradient(fptt(), cell, params, xs), truth(cell, params, xs)) < 1e-8


def test_errors_forward_in_time_are_lost_where_the_gradient_vanishes():
  # λ_t = λ_{t−1} / w for a scalar linear network: rounding errors of λ_0 grow as w^−t.
  cell = make_cell("elman", 1, activation="linear")
  params = {"w_x": jnp.ones((1, 1)), "w_h": jnp.full((1, 1), 0.1), "b": jnp.zeros(1)}
  distances = []
  for num_steps in (8, 24):
    xs = draw(2, num_steps, 1, 1)
    distances.append(distance(gradient(fptt(), cell, params, xs), truth(cell, params, xs)))
  assert distances[0] < 1e-7
  assert distances[1] > 1


def test_a_stack_is_one_cell_for_every_rule():
  cells = [make_cell("elman", 3), make_cell("gru", 2)]
  cell, xs = stack(cells), draw(4, 5, 2, 2)
  params = cell.init(jax.random.key(5), 2)
  full = truth(cell, params, xs)
  assert distance(full, exact(cell, params, xs)) < 1e-13
  for rule in (rtrl(), snap(3)):
    assert distance(gradient(rule, cell, params, xs), full) < 1e-12
  # The path from the lower layer to the upper one within a step stays, the way through both
  # recurrent kernels goes: the gradient of a stack with the recurrent products held constant.
  detached = cell._replace(recur=lambda p, h: cell.recur(p, jax.lax.stop_gradient(h)))
  expected = truth(detached, params, xs)
  assert distance(gradient(rflo(), cell, params, xs), expected) < 1e-12
  assert distance(expected, full) > 1e-3


def test_a_hundred_trained_params_of_a_diagonal_cell_take_no_more_memory_than_a_hundred():
  # The influence matrix of a cell that is diagonal in its carry has one entry per param (two for
  # a complex carry), that of a dense cell N.
  def entries(name, rule, **options):
    cell, params, xs = problem(name, hidden_size=8, **options)
    memory = jax.eval_shape(lambda p: rule.online.init(cell, p, xs[:, :1]), params)
    counts = [leaf.size for leaf in jax.tree.leaves(memory)]
    return sum(counts), sum(leaf.size for leaf in jax.tree.leaves(floats_of(params)))

  held, count = entries("elman", rtrl())
  assert held == 8 * count
  held, count = entries("elman", snap(1))
  assert held == count
  held, count = entries("lstm", snap(1))
  # The output gate's params reach h alone, the other three gates' params h and c.
  assert held == count * 7 // 4
  held, count = entries("indrnn", rtrl())
  assert held == count
  # Without the path through h, a param reaches its own unit alone.
  held, count = entries("gru", rflo())
  assert held == count
  held, count = entries("lstm", rflo())
  assert held == count * 7 // 4


def test_memory_of_rules_that_run_forward_does_not_grow_with_time():
  def temporaries(rule, num_steps):
    cell, params, xs = problem("elman", hidden_size=16, num_steps=num_steps)
    y_bars = jnp.zeros((num_steps, 2, 16))
    program = jax.jit(lambda p, xs, y_bars: rule.shares(cell, p, xs, y_bars, KEY))
    return program.lower(params, xs, y_bars).compile().memory_analysis().temp_size_in_bytes

  def growth(rule):  # in numbers per step and example
    return (temporaries(rule, 192) - temporaries(rule, 64)) / 8 / 128 / 2

  assert growth(bptt()) >= 16
  for rule in (rtrl(), snap(1), rflo()):
    assert growth(rule) <= 4  # a random key is two numbers


@pytest.mark.parametrize("name", ["gru", "lru", "clockwork"])
def test_lengths_masks_resets_carries_and_final_carries_count_as_in_bptt(name):
  cell, params, xs = problem(name, hidden_size=4, num_steps=6)
  carry = jax.tree.map(
    lambda a: a + draw(3, *a.shape).astype(a.dtype) if a.dtype.kind in "fc" else a,
    cell.initial_carry((2,)),
  )
  mask = np.ones((6, 2), bool)
  mask[2, 0] = mask[4, 1] = False
  resets = np.zeros((6, 2), bool)
  resets[3, 1] = resets[5, 1] = True  # inside the second sequence, and past its end
  time = {"lengths": np.array([6, 5]), "mask": mask, "resets": resets}

  def value(floats, xs, carry_floats, run):
    own = with_floats(floats, params), xs, with_floats(carry_floats, carry)
    final, ys = run(cell, *own)
    ends = [jnp.sum(jnp.sin(a.real) + a.imag**2) for a in jax.tree.leaves(floats_of(final))]
    return loss(ys) + sum(ends)

  def derivative(run):
    arguments = floats_of(params), xs, floats_of(carry)
    return jax.jit(jax.value_and_grad(lambda *a: value(*a, run), argnums=(0, 1, 2)))(*arguments)

  wanted = derivative(lambda *a: unroll(*a, **time))
  for rule in (rtrl(), snap(3)):
    got = derivative(lambda *a, rule=rule: rule.unroll(*a, estimator_key=None, **time))
    assert got[0] == wanted[0]
    for a, b in zip(got[1], wanted[1], strict=True):
      assert distance(a, b) < 1e-12


def test_tbptt_is_the_truncation_of_unroll():
  cell, params, xs = problem("lstm", num_steps=7)
  for k in (1, 3, 7, 9):
    wanted = jax.jit(jax.grad(lambda p, k=k: loss(unroll(cell, p, xs, truncation=k)[1])))(params)
    assert distance(gradient(tbptt(k), cell, params, xs), wanted) < 1e-14


def test_estimators_are_jitted_and_vmapped_over_params_and_keys():
  cell, params, xs = problem("elman")
  keys = jax.random.split(KEY, 3)
  several = jax.tree.map(lambda a: jnp.stack([a, 2 * a, -a]), params)
  for rule in (rtrl(), h_detach(0.5)):
    run = jax.jit(jax.vmap(lambda p, k, rule=rule: rule(cell, p, xs, loss, k)))
    _, together = run(several, keys)
    for i in range(3):
      own = jax.tree.map(lambda a, i=i: a[i], several)
      alone = gradient(rule, cell, own, xs, keys[i])
      assert distance(jax.tree.map(lambda a, i=i: a[i], together), alone) < 1e-12


def test_tokens_stand_for_one_hot_vectors():
  cell, params, _ = problem("gru", input_size=5)
  tokens = np.random.default_rng(0).integers(0, 5, (6, 2))
  for rule in (rtrl(), snap(1), rflo(), bptt()):
    by_token = shares(rule, cell, params, tokens, 1)
    by_vector = shares(rule, cell, params, jnp.eye(5)[tokens], 1)
    assert distance(by_token, by_vector) < 1e-13
