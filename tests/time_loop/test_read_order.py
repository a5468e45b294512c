"""What a step's trace tells about the order in which its compiled form reads and writes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rnn_jax.time_loop._read_order import reads_before, split_at

A = jnp.ones((2, 2))

# Each gives what is written over `a` first.
STEPS = {
  "all of it in one": (lambda a, w: (3 * a, w), True),
  "by way of what is computed once": (lambda a, w: (2 * (s := jnp.tanh(a)), s + 1), True),
  "beside it, once": (lambda a, w: (jnp.tanh(a), jnp.exp(2 * a)), False),
  "beside it, again": (lambda a, w: (jnp.tanh(a), 2 * a), False),
  "of what leads to it, again": (lambda a, w: ((b := 2 * a) + w, b), False),
  "a product of it": (lambda a, w: ((b := 2 * a), b @ w), True),
  "a sum of it": (lambda a, w: ((b := 2 * a), jnp.sum(b)), False),
  "a product of what leads to it": (lambda a, w: (w * (b := 2 * a), b @ w), False),
  "not at all": (lambda a, w: (w + 1, 2 * w), True),
  "inside of a function": (lambda a, w: (3 * jax.nn.sigmoid(a), jnp.trunc(a)), False),
}


@pytest.mark.parametrize("name", STEPS)
def test_all_reading_must_lead_to_what_is_written(name):
  step, expected = STEPS[name]
  jaxpr = jax.make_jaxpr(step)(A, A).jaxpr
  old, new = jaxpr.invars[0], jaxpr.outvars[0]
  assert reads_before(jaxpr.eqns, old, new, jaxpr.outvars) == expected


def test_what_leads_to_the_results_is_apart_from_the_rest():
  jaxpr = jax.make_jaxpr(lambda a: (jnp.tanh(2 * a), jnp.exp(a)))(A).jaxpr
  leading, others = split_at(jaxpr.eqns, jaxpr.outvars[:1])
  assert [e.primitive.name for e in leading] == ["mul", "tanh"]
  assert [e.primitive.name for e in others] == ["exp"]
