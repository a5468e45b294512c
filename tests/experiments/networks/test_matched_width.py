"""Tests of choosing a hidden size that meets a parameter budget, and of counting params."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from experiments.networks.matched_width import (
  Matched,
  check_near,
  count_params,
  matched_width,
  nearest_budget,
  task_input_size,
)
from rnn_jax import BidirectionalRNN, DeepRNN, make_cell
from rnn_jax.cells import layer_norm, residual
from rnn_jax.tasks import adding, copy_memory

D = 5


def elman(width):
  return width * (D + width + 1)


@pytest.mark.parametrize("wanted", [1, 6, 7, 8, 14, 100, 5000, 10**9])
def test_width_of_an_elman_network_solves_its_quadratic(wanted):
  exact = (-(D + 1) + math.sqrt((D + 1) ** 2 + 4 * wanted)) / 2
  near = {max(1, math.floor(exact)), max(1, math.ceil(exact))}
  best = min(sorted(near), key=lambda width: abs(elman(width) - wanted))
  assert matched_width(elman, wanted) == (best, elman(best))


def test_of_two_equally_near_hidden_sizes_the_smaller_is_chosen():
  assert matched_width(lambda width: 10 * width, 25) == (2, 20)


def test_the_search_counts_the_params_of_few_hidden_sizes():
  looks = []
  matched_width(lambda width: looks.append(width) or elman(width), 10**6)
  assert len(looks) == len(set(looks)) <= 6


@pytest.mark.parametrize("multiple", [1, 2, 3, 8, 12, 64])
@pytest.mark.parametrize("wanted", [1, 50, 777, 5000])
def test_hidden_sizes_that_a_cell_refuses_are_skipped(multiple, wanted):
  def count(width):
    if width % multiple:
      raise ValueError("hidden_size must be a multiple")
    return elman(width)

  every = [(width, elman(width)) for width in range(multiple, 200, multiple)]
  assert matched_width(count, wanted) == min(every, key=lambda found: abs(found[1] - wanted))


def test_if_every_hidden_size_is_refused_the_cells_own_error_is_raised():
  with pytest.raises(ValueError, match="Unknown activation 'rleu'; did you mean 'relu'"):
    matched_width(lambda width: make_cell("elman", width, activation="rleu"), 10)


def test_a_budget_must_be_met_within_five_percent():
  near = Matched("elman", lambda width: 35 * width, 3, 105)
  far = Matched("gru reset=before, depth 2", lambda width: 47 * width, 2, 94)
  check_near([near], 100)
  with pytest.raises(ValueError) as error:
    check_near([near, far], 100)
  text = (
    "--match_params must be met within 5% by some hidden size; the nearest one of gru "
    "reset=before, depth 2 is 2, with 94 params, got 100. The nearest budget that "
  )
  # 35 · 4 = 140 meets 134 to 147, and 47 · 3 = 141 meets 135 to 148. 105 meets 100 to 110, and 94
  # meets 90 to 98.
  assert str(error.value) == f"{text}all 2 networks meet is --match_params=135."
  with pytest.raises(ValueError) as error:
    check_near([far], 100)
  assert str(error.value) == f"{text}it meets is --match_params=98."


@pytest.mark.parametrize("wanted", [1, 30, 101, 1000, 5000])
@pytest.mark.parametrize("slopes", [[7], [7, 11], [100, 130, 171]])
def test_the_proposed_budget_is_the_nearest_that_all_networks_meet(wanted, slopes):
  counts = [lambda width, slope=slope: slope * width * (width + 1) for slope in slopes]
  numbers = [[count(width) for width in range(1, 200)] for count in counts]

  def is_met(budget):
    return all(any(abs(n - budget) <= 0.05 * budget for n in each) for each in numbers)

  budgets = sorted(range(1, 20_000), key=lambda budget: abs(budget - wanted))
  best = next(budget for budget in budgets if is_met(budget))
  assert nearest_budget(counts, wanted) == best


def test_params_of_all_layers_are_counted():
  cell, width = make_cell("lstm", 4), 4
  first, other = 4 * width * (D + width + 1), 4 * width * (width + width + 1)
  assert count_params([cell], D) == first
  assert count_params([cell] * 3, D) == first + 2 * other
  wrapped = residual(layer_norm(make_cell("elman", 4)))
  assert count_params([make_cell("elman", 4), wrapped], D) == elman(4) + 4 * 9 + 2 * 4
  twice = 4 * width * (2 * width + width + 1)
  assert count_params([cell] * 2, D, ways=2, merged=2) == 2 * (first + twice)


@pytest.mark.parametrize(("merge", "merged"), [("concat", 2), ("sum", 1)])
def test_the_count_equals_the_size_of_the_networks_params(merge, merged):
  cells, xs = [make_cell("gru", 3), make_cell("elman", 3)], jnp.zeros((2, 1, D))

  def size(model):
    params = jax.eval_shape(model.init, jax.random.key(0), xs)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))

  assert size(DeepRNN(cells)) == count_params(cells, D)
  assert size(BidirectionalRNN(cells, merge=merge)) == count_params(cells, D, ways=2, merged=merged)


def test_the_input_size_of_a_task_is_that_of_its_vectors_or_tokens():
  assert task_input_size(adding(6, 2)) == 2
  task = copy_memory(30, 2)
  assert task_input_size(task) == task.vocabulary_size
