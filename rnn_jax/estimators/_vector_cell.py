"""A cell as a state-space model of real vectors: s_t = f(s_{t−1}, x_t; θ), y_t = r(s_t, x_t; θ)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from rnn_jax.gradient_flow.joint_carry import from_vector, to_vector
from rnn_jax.time_loop import scale_gradient
from rnn_jax.types import AnyArray, Carry, Cell, Params, floats_of, with_floats


class VectorCell(NamedTuple):
  """The step of one example, as functions of real vectors.

  s is the joint carry, [N]. θ is the cell's *prepared* params, [P]: what `cell.prepare` returns, so
  no step prepares them again. Their number may differ from that of the cell's params.

  Attributes:
    theta: θ.
    pull_back: maps dL/dθ [P] to the gradient of the cell's params, in their structure and dtype.
    unravel: maps θ to the prepared params.
    step: `(s, theta, carry, x, recurrent_scale=None, local=False) -> s'`. The carry [1, ...]
      supplies the integer leaves and the structure. `recurrent_scale` is the factor on the gradient
      through `cell.recur`, a scalar; None for 1. With `local`, no gradient passes through
      `cell.recur`, and sparsity patterns leave that path out; with a factor of 0 they keep it.
    readout: `(s', theta, carry', x) -> y`, the output of the step that led to s'.
  """

  theta: Float[Array, " P"]
  pull_back: Callable[[Float[Array, " P"]], Params]
  unravel: Callable[[Float[Array, " P"]], Params]
  step: Callable[..., Float[Array, " N"]]
  readout: Callable[..., PyTree[Array]]


def vector_cell(cell: Cell, params: Params) -> VectorCell:
  """Returns a cell with its params as a `VectorCell`."""
  floats = floats_of(params)
  prepared = cell.prepare(params)
  theta, unravel_floats = ravel_pytree(_real(floats_of(prepared)))

  def vector(floats: Params) -> Array:
    return ravel_pytree(_real(floats_of(cell.prepare(with_floats(floats, params)))))[0]

  def pull_back(theta_bar: Array) -> Params:
    return jax.vjp(vector, floats)[1](theta_bar.astype(theta.dtype))[0]

  def unravel(theta: Array) -> Params:
    return with_floats(_like(floats_of(prepared), unravel_floats(theta)), prepared)

  def step(
    s: Array,
    theta: Array,
    carry: Carry,
    x: Array,
    recurrent_scale: Array | None = None,
    local: bool = False,
  ) -> Array:
    of_theta, before = unravel(theta), from_vector(s[None], carry)
    seen = jax.lax.stop_gradient(before) if local else scale_gradient(before, recurrent_scale)
    recurrent = cell.recur(of_theta, seen)
    new = cell.update(of_theta, before, cell.project(of_theta, x[None]), recurrent)
    return to_vector(new)[0]

  def readout(s: Array, theta: Array, carry: Carry, x: Array) -> PyTree[Array]:
    of_theta, after = unravel(theta), from_vector(s[None], carry)
    y = cell.output(of_theta, after, cell.project(of_theta, x[None]))
    return jax.tree.map(lambda a: a[0], y)

  return VectorCell(theta, pull_back, unravel, step, readout)


def _real(tree: PyTree[AnyArray]) -> PyTree[AnyArray]:
  """Returns the pytree with a pair (real part, imaginary part) in place of each complex leaf."""
  return jax.tree.map(lambda a: (a.real, a.imag) if jnp.iscomplexobj(a) else a, tree)


def _like(tree: PyTree[AnyArray], real: PyTree[AnyArray]) -> PyTree[AnyArray]:
  """Returns `real`, from `_real`, with its pairs combined into complex leaves as in `tree`."""

  def leaf(a: Any, b: Any) -> Any:
    return jax.lax.complex(*b) if jnp.iscomplexobj(a) else b

  return jax.tree.map(leaf, tree, real)
