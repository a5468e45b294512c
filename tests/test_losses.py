"""Tests of losses per step, of their mean under a mask, and of perplexity and bits."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.losses import (
  accuracy,
  binary_cross_entropy,
  bits,
  cross_entropy,
  masked_mean,
  perplexity,
  squared_error,
)


def test_masked_mean_ignores_masked_values_and_their_gradient():
  values = jnp.array([[1.0, jnp.nan], [jnp.inf, 4.0], [2.5, 1e30]])
  mask = jnp.array([[True, False], [False, True], [True, False]])
  value, grad = jax.value_and_grad(masked_mean)(values, mask)
  assert value == 2.5
  np.testing.assert_allclose(grad, np.asarray(mask) / 3, rtol=1e-6)


def test_masked_means_of_parts_sum_to_the_mean_of_the_batch():
  values, mask = jnp.arange(12.0).reshape(3, 4), jnp.arange(12).reshape(3, 4) % 5 == 0
  parts = [masked_mean(values[:, at], mask[:, at], jnp.sum(mask)) for at in (slice(3), slice(3, 4))]
  assert sum(parts) == masked_mean(values, mask) == 5  # the mean of 0, 5 and 10


def test_masked_mean_of_an_empty_mask_is_zero():
  value, grad = jax.value_and_grad(masked_mean)(jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool))
  assert value == 0
  np.testing.assert_array_equal(grad, np.zeros((2, 3)))


def test_cross_entropy_is_minus_the_log_of_the_targets_softmax():
  logits = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
  targets = np.random.default_rng(1).integers(0, 5, (4, 3))
  share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  expected = -np.log(np.take_along_axis(share, targets[..., None], -1)[..., 0])
  losses = cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
  np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
  loss = cross_entropy(jnp.zeros((1, 7)), jnp.zeros(1, jnp.int32))
  np.testing.assert_allclose(perplexity(loss), 7, rtol=1e-6)


@pytest.mark.parametrize(("p", "expected"), [(0.8, 1.25), (0.2, 5)])
def test_perplexity_of_a_batch_is_exp_of_the_mean_loss_over_valid_tokens(p, expected):
  logits = jnp.log(jnp.array([p, 1 - p]))
  loss = cross_entropy(jnp.tile(logits, (3, 2, 1)), jnp.array([[0, 0], [0, 1], [0, 1]]))
  mean = masked_mean(loss, jnp.array([[True, True], [True, False], [True, False]]))
  np.testing.assert_allclose(perplexity(mean), expected, rtol=1e-6)
  # A batch's perplexity is the geometric mean of its tokens' perplexities, not the arithmetic mean.
  both = masked_mean(loss, jnp.array([[True, False], [False, True], [False, False]]))
  np.testing.assert_allclose(perplexity(both), (p * (1 - p)) ** -0.5, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_accuracy_is_one_where_the_largest_logit_is_the_targets(dtype):
  logits = jnp.array([[3.0, 1, 2], [1, 1, 0], [-jnp.inf, -5, -6], [0, jnp.nan, 1]])
  right = accuracy(logits, jnp.array([0, 1, 1, 1], dtype))
  np.testing.assert_array_equal(right, [1, 0, 1, 0])
  assert right.dtype == logits.dtype
  every = accuracy(jnp.broadcast_to(logits, (5, 4, 3)), jnp.full((5, 4), 2, dtype))
  np.testing.assert_array_equal(every, np.zeros((5, 4)))


def test_accuracy_of_more_classes_than_a_uint8_holds():
  logits = jnp.zeros((1, 300)).at[0, 256].set(1)
  np.testing.assert_array_equal(accuracy(logits, jnp.zeros(1, jnp.uint8)), [0])


def test_a_fair_coin_is_one_bit():
  np.testing.assert_allclose(bits(jnp.asarray(math.log(2))), 1, rtol=1e-6)
  np.testing.assert_allclose(bits(jnp.log(jnp.array([8.0, 1.0]))), [3, 0], rtol=1e-6)


def test_binary_cross_entropy_is_summed_over_the_labels():
  logits = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
  targets = np.random.default_rng(1).random((4, 3, 5)) < 0.5
  p = 1 / (1 + np.exp(-logits))
  expected = -np.log(np.where(targets, p, 1 - p)).sum(axis=-1)
  losses = binary_cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  # The derivative is p − target, and stays finite for large logits of either sign.
  grads = jax.grad(lambda x: jnp.sum(binary_cross_entropy(x, targets)))(jnp.asarray(logits))
  np.testing.assert_allclose(grads, p - targets, atol=1e-6)
  sure = jnp.array([1e4, -1e4])
  np.testing.assert_array_equal(binary_cross_entropy(sure, jnp.array([True, False])), 0)
  np.testing.assert_array_equal(binary_cross_entropy(sure, jnp.array([False, True])), 2e4)


def test_one_label_is_the_cross_entropy_of_two_classes():
  logits, targets = jnp.linspace(-3, 3, 7), jnp.arange(7) % 2
  two = cross_entropy(jnp.stack([jnp.zeros(7), logits], axis=-1), targets)
  one = binary_cross_entropy(logits[:, None], targets[:, None] == 1)
  np.testing.assert_allclose(one, two, rtol=1e-6)


def test_squared_error_is_summed_over_the_last_axis():
  outputs, targets = jnp.array([[[1.0, 2.0]]]), jnp.array([[[0.0, 4.0]]])
  np.testing.assert_array_equal(squared_error(outputs, targets), [[5.0]])


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("function", "arguments", "error", "message"),
  [
    (
      cross_entropy,
      (jnp.zeros((2, 3)), jnp.zeros(2)),
      TypeError,
      "targets must be an array of integers",
    ),
    (cross_entropy, (jnp.zeros((2, 3)), jnp.zeros(3, int)), ValueError, "targets must be [...]"),
    (cross_entropy, (jnp.float32(0), jnp.zeros(3, int)), ValueError, "targets must be [...]"),
    (accuracy, (jnp.zeros((2, 3)), jnp.zeros(3, int)), ValueError, "targets must be [...]"),
    (
      accuracy,
      (jnp.zeros((2, 3)), jnp.array([0, 3])),
      ValueError,
      "tokens from 0 to 2, got 0 to 3",
    ),
    (
      binary_cross_entropy,
      (jnp.zeros((2, 3)), jnp.zeros((2, 3), int)),
      TypeError,
      "targets must be an array of booleans, got int",
    ),
    (
      binary_cross_entropy,
      (jnp.zeros((2, 3), int), jnp.zeros((2, 3), bool)),
      TypeError,
      "logits must be an array of floats, got int",
    ),
    (
      binary_cross_entropy,
      (jnp.zeros((2, 3)), jnp.zeros((2, 1), bool)),
      ValueError,
      "targets must have the shape of the logits, [..., K], got (2, 1) and (2, 3).",
    ),
    (
      binary_cross_entropy,
      (jnp.float32(0), jnp.array(True)),
      ValueError,
      "targets must have the shape of the logits",
    ),
    (squared_error, (jnp.zeros((2, 3, 1)), jnp.zeros((2, 3))), ValueError, "targets must have"),
    (squared_error, (jnp.float32(0), jnp.float32(0)), ValueError, "targets must have the shape"),
    (masked_mean, (jnp.zeros((2, 3)), jnp.ones(3, bool)), ValueError, "mask must have the shape"),
  ],
)
def test_arguments_that_do_not_fit_are_named(function, arguments, error, message):
  with pytest.raises(error, match=re.escape(message)):
    function(*arguments)
