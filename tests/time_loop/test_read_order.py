"""Tests of the proofs that a compiled step reads an array before it overwrites its entries."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rnn_jax.time_loop._read_order import reads_before, split_at

A = jnp.ones((2, 2))

# Each step maps (a, w) to two outputs, of which the first overwrites the buffer of `a`. The boolean
# says whether XLA is guaranteed to read `a` before it is overwritten.
STEPS = {
  "one expression": (lambda a, w: (3 * a, w), True),
  "read by a stored ancestor": (lambda a, w: (2 * (s := jnp.tanh(a)), s + 1), True),
  "read by a stored non-ancestor": (
    lambda a, w: (jnp.tanh(a), jnp.exp(2 * a)),
    False,
  ),
  "read by a recomputed output": (lambda a, w: (jnp.tanh(a), 2 * a), False),
  "a recomputed ancestor is an output": (lambda a, w: ((b := 2 * a) + w, b), False),
  "a product of what is written": (lambda a, w: ((b := 2 * a), b @ w), True),
  "a sum of what is written": (lambda a, w: ((b := 2 * a), jnp.sum(b)), False),
  "a product of an ancestor": (lambda a, w: (w * (b := 2 * a), b @ w), False),
  "not read": (lambda a, w: (w + 1, 2 * w), True),
  "read inside a function": (lambda a, w: (3 * jax.nn.sigmoid(a), jnp.trunc(a)), False),
}


@pytest.mark.parametrize("name", STEPS)
def test_every_read_must_be_an_ancestor_of_the_write(name):
  step, expected = STEPS[name]
  jaxpr = jax.make_jaxpr(step)(A, A).jaxpr
  old, new = jaxpr.invars[0], jaxpr.outvars[0]
  assert reads_before(jaxpr.eqns, old, new, jaxpr.outvars) == expected


def test_equations_are_split_at_the_results():
  jaxpr = jax.make_jaxpr(lambda a: (jnp.tanh(2 * a), jnp.exp(a)))(A).jaxpr
  leading, others = split_at(jaxpr.eqns, jaxpr.outvars[:1])
  assert [e.primitive.name for e in leading] == ["mul", "tanh"]
  assert [e.primitive.name for e in others] == ["exp"]
