"""Tests of `tap` and `probe_like` in a user's own scan."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax
from rnn_jax import probe_like, tap
from rnn_jax.types import floats_of

T, B, P = 5, 2, 3


class Memory(NamedTuple):
  """A carry with leaves of different rank, one of them complex and one of integers."""

  count: jax.Array
  hidden: jax.Array
  matrix: jax.Array
  phase: jax.Array


def draw(seed, *shape):
  return jnp.asarray(0.6 * np.random.default_rng(seed).standard_normal(shape))


def zeros():
  return Memory(
    jnp.zeros(B, jnp.int32), jnp.zeros((B, P)), jnp.zeros((B, P, P)), jnp.zeros((B, P), complex)
  )


def new_carry(carry, x):
  matrix = 0.5 * carry.matrix + x[:, :, None] * carry.hidden[:, None]
  phase = 0.7j * carry.phase + x.astype(complex)
  hidden = jnp.tanh(jnp.einsum("bij,bj->bi", matrix, x) + carry.hidden + phase.real + phase.imag)
  return Memory(carry.count + 1, hidden, matrix, phase)


def read(carry):
  return jnp.sum(carry.hidden**2 + carry.matrix[:, 0], -1) + jnp.abs(carry.phase[:, 1]) ** 2


def loss(change, xs, inputs):
  def body(carry, now):
    x, inputs = now
    carry = change(new_carry(carry, x), inputs)
    return carry, read(carry)

  final, ys = jax.lax.scan(body, zeros(), (xs, inputs))
  return jnp.sum(ys * draw(1, T, B)) + jnp.sum(final.matrix)


def nudged(carry, nudge):
  return jax.tree.map(lambda a, b: a if b is None else a + b, carry, nudge)


@pytest.fixture
def expected(x64):
  """Yields xs and dL/dh_t from explicit perturbations of each step's carry."""
  xs = draw(0, T, B, P)
  nudges = jax.tree.map(lambda a: jnp.zeros((T, *a.shape), a.dtype), floats_of(zeros()))
  yield xs, jax.jit(jax.grad(lambda nudges: loss(nudged, xs, nudges)))(nudges)


def test_vectors_are_those_of_explicit_perturbations(expected):
  xs, vectors = expected
  probe = probe_like(zeros(), T, vectors=True)
  found = jax.jit(jax.grad(lambda probe: loss(lambda c, p: tap(c, p, vectors=True), xs, probe)))(
    probe
  )
  assert found.count is None
  chex.assert_trees_all_close(found, vectors, rtol=1e-12)
  chex.assert_trees_all_equal_shapes_and_dtypes(found, probe)


def test_norms_are_over_all_axes_after_the_batch_axes(expected):
  xs, vectors = expected
  norms = jax.jit(jax.grad(lambda probe: loss(tap, xs, probe)))(probe_like(zeros(), T))
  by_hand = jax.tree.map(lambda a: np.linalg.norm(np.reshape(a, (T, B, -1)), axis=-1), vectors)
  chex.assert_trees_all_close(norms, by_hand, rtol=1e-12)


def test_a_tap_of_one_example_can_be_mapped(expected):
  xs, _ = expected
  w = draw(2, P, P)

  def example_loss(x, probe):
    def body(h, now):
      x, probe = now
      h = tap(jnp.tanh(h @ w + x), probe)
      return h, h

    return jnp.sum(jax.lax.scan(body, jnp.zeros(P), (x, probe))[1][-1])

  norms = jax.vmap(jax.grad(example_loss, argnums=1), (1, None), 1)(
    xs, probe_like(jnp.zeros(P), T, 0)
  )
  cell = rnn_jax.make_cell("elman", P)
  params = {"w_x": jnp.eye(P), "w_h": w, "b": jnp.zeros(P)}
  probe = rnn_jax.gradient_probe(cell, T, B)
  ours = jax.grad(lambda p: jnp.sum(rnn_jax.unroll(cell, params, xs, probe=p)[1][-1]))(probe)
  chex.assert_trees_all_close(norms, ours, rtol=1e-12)


def test_probe_like_takes_shapes_and_keeps_the_precision():
  carry = jax.ShapeDtypeStruct((4, 2, 3), jnp.bfloat16)
  chex.assert_trees_all_equal(probe_like(carry, T, 2), jnp.zeros((T, 4, 2), jnp.bfloat16))
  chex.assert_trees_all_equal(
    probe_like(carry, T, 2, vectors=True), jnp.zeros((T, 4, 2, 3), jnp.bfloat16)
  )


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda: probe_like(jnp.zeros(3), 0), ValueError, "num_steps must be at least 1, got 0"),
    (lambda: probe_like(jnp.zeros(3), T, -1), ValueError, "batch_ndim must be at least 0, got -1"),
    (
      lambda: probe_like({"h": jnp.zeros(3)}, T, 2),
      ValueError,
      r"carry must have at least batch_ndim = 2 axes in every leaf, got carry\['h'\] \[3\]",
    ),
    (lambda: probe_like(["h"], T), TypeError, "carry must hold arrays, got 'h'"),
    (lambda: probe_like(jnp.zeros(3), T, vectors=1), TypeError, "vectors must be True or False"),
    (
      lambda: tap(jnp.zeros((B, P)), jnp.zeros((B, P)), vectors=1),
      TypeError,
      "vectors must be True or False",
    ),
    (
      lambda: tap(jnp.zeros((B, P)), jnp.zeros(B), vectors=True),
      ValueError,
      r"probe must be float32\[2, 3\], got float32\[2\]",
    ),
    (
      lambda: tap(jnp.zeros((B, P)), jnp.zeros(P)),
      ValueError,
      r"probe must be float32\[2\], got float32\[3\]",
    ),
  ],
)
def test_wrong_arguments_are_named(call, error, message):
  with pytest.raises(error, match=message):
    call()
