"""Cells as people write them, made by `cell_from_step`, for the tests.

Each one breaks another habit of the registered cells: params that are no flat dict of floats, a
carry that is no array or NamedTuple, an output that is not in the carry.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.interop import cell_from_step

H = 3


def normal(key, *shape):
  return jax.random.normal(key, shape) / 2


def nested():
  """Params in lists and tuples, with a permutation of integers; y is a readout of the new carry."""

  def step(params, h, x):
    [(w_x, w_h), bias] = params["layers"]
    h = jnp.tanh(x @ w_x + h[params["order"]] @ w_h + bias)
    return h, h @ params["out"]["w"]

  def init(key, input_size):
    keys = jax.random.split(key, 3)
    layers = [(normal(keys[0], input_size, H), normal(keys[1], H, H)), jnp.full(H, 0.1)]
    return {"layers": layers, "order": jnp.arange(H)[::-1], "out": {"w": normal(keys[2], H, H)}}

  return cell_from_step(step, init, jnp.zeros(H))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["count", "h"], meta_fields=[])
@dataclasses.dataclass
class Counted:
  count: jax.Array
  h: jax.Array


def counting():
  """A dataclass with a step counter as the carry; jitted; y is a leaf of it."""

  @jax.jit
  def step(params, carry, x):
    scale = jnp.where(carry.count % 2 == 0, 1.0, 0.5).astype(x.dtype)
    h = jnp.tanh(x @ params[0] + scale * (carry.h @ params[1]))
    return Counted(carry.count + 1, h), h

  def init(key, input_size):
    keys = jax.random.split(key)
    return normal(keys[0], input_size, H), normal(keys[1], H, H)

  return cell_from_step(step, init, Counted(jnp.zeros((), jnp.int32), jnp.zeros(H)))


class Kernels(NamedTuple):
  x: jax.Array
  h: jax.Array


def gating():
  """Params that the step casts, a matrix in the carry; y is gated by the old carry."""

  def step(params, carry, x):
    params = jax.tree.map(lambda a: a.astype(x.dtype), params)
    drive = x @ params.x
    gate = jax.nn.sigmoid(drive + carry["h"] @ params.h)
    memory = 0.5 * carry["memory"] + jnp.outer(carry["h"], gate)
    return {"h": jnp.tanh(memory @ gate + drive), "memory": memory}, gate * carry["h"]

  def init(key, input_size):
    keys = jax.random.split(key)
    return Kernels(normal(keys[0], input_size, H), normal(keys[1], H, H))

  return cell_from_step(step, init, {"h": jnp.zeros(H), "memory": jnp.zeros((H, H))})


OWN = {"nested": nested, "counting": counting, "gating": gating}
