"""Tests of `scan_gradients` on scans that it cannot measure, and on programs without scans."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import make_cell, unroll
from rnn_jax.gradient_flow import scan_gradients

T = 5


def inner(w, h):
  return jax.lax.scan(lambda h, _: (jnp.tanh(w * h), None), h, length=3)[0]


@jax.custom_vjp
def own_vjp(w, h):
  return inner(w, h)


own_vjp.defvjp(lambda w, h: (inner(w, h), None), lambda _, bar: (bar, bar))


@jax.custom_jvp
def own_jvp(w, h):
  return inner(w, h)


own_jvp.defjvp(lambda primals, tangents: (inner(*primals), tangents[0]))


def in_unroll(w, h):
  cell = make_cell("elman", 1)
  params = {"w_x": w[None, None], "w_h": w[None, None], "b": w[None]}
  return unroll(cell, params, jnp.ones((3, 1, 1)) * h)[1][-1, 0, 0]


@pytest.mark.parametrize(
  ("function", "reason"),
  [
    (lambda w, h: jax.lax.map(lambda h: inner(w, h), h[None])[0], "it is inside another scan"),
    (lambda w, h: jax.lax.cond(h > 0, inner, lambda w, h: h, w, h), "it is inside a cond"),
    (
      lambda w, h: (
        w
        * jax.lax.stop_gradient(
          jax.lax.while_loop(lambda h: h > 2, lambda h: inner(jnp.float32(0.5), h), h)
        )
      ),
      "it is inside a while loop",
    ),
    (own_vjp, r"it is inside a function with its own backward pass \(custom_vjp\)"),
    (own_jvp, r"it is inside a function with its own derivative \(custom_jvp\)"),
    (in_unroll, r"rnn_jax.unroll has its own backward pass; pass probe=gradient_probe\(...\)"),
  ],
  ids=["map", "cond", "while", "custom_vjp", "custom_jvp", "unroll"],
)
def test_scans_that_are_not_measured_are_listed_with_the_reason(function, reason):
  def loss(w):
    return function(w, inner(w, jnp.float32(1)))

  found = scan_gradients(jax.jit(loss), argnums=0)(jnp.float32(0.5))
  assert len(found.scans) == 1
  (text,) = found.skipped
  assert text.startswith("scan of 3 steps at ")
  assert re.search(reason, text)
  np.testing.assert_allclose(found.grads, jax.grad(loss)(jnp.float32(0.5)), rtol=1e-6)


def test_a_scan_over_layers_inside_a_step_is_listed_and_marked():
  def loss(w):
    def body(hs, x):
      x, hs = jax.lax.scan(lambda x, h: (jnp.tanh(w * (h + x)),) * 2, x, hs)
      return hs, x

    return jnp.sum(jax.lax.scan(body, jnp.ones(2), jnp.ones(T))[1])

  found = scan_gradients(loss)(jnp.float32(0.5))
  assert not found.scans[0].includes_outputs
  assert str(found.scans[0]).endswith("; without the outputs of step t itself")
  assert "it is inside another scan" in found.skipped[0]


def test_a_program_without_scans_has_none():
  found = scan_gradients(lambda w: w**2, argnums=0)(jnp.float32(3))
  assert found.scans == () and found.skipped == ()
  np.testing.assert_array_equal((found.value, found.grads), (9, 6))
