"""Forward estimators: next to the network, each keeps an estimate of ds_t/dθ.

    M_t = J_t M_{t−1} + I_t        dL/dθ = Σ_t M_tᵀ δ_t

J_t = ∂s_t/∂s_{t−1}, I_t = ∂s_t/∂θ at fixed s_{t−1}, and δ_t = ∂L/∂y_t ∂y_t/∂s_t is the immediate
error. Each estimator of this family keeps M, or an approximation of it, in a memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Key, PyTree

from rnn_jax import checks
from rnn_jax.estimators._estimator import Estimator, Online, UnrollFn, check_key, checked
from rnn_jax.estimators._vector_cell import VectorCell, vector_cell
from rnn_jax.gradient_flow.joint_carry import to_vector
from rnn_jax.parallel import vary_alike
from rnn_jax.precision import wide
from rnn_jax.time_loop import unroll, uses_key, valid_steps
from rnn_jax.types import AnyArray, Carry, Cell, Params, Sequences, floats_of, step

Memory: TypeAlias = PyTree
ErrorsFn = Callable[[PyTree[Array]], tuple[Array, Array]]


class Derivatives(NamedTuple):
  """The derivatives of one step of one example, and what some estimators need in addition.

  Attributes:
    jvp: maps v [N] to J_t v.
    vjp: maps u [N] to I_tᵀ u, [P].
    before: the carry before the step, leaves [1, ...].
    after: the carry after the step, leaves [...].
    x: the step's input.
    key: random key.
  """

  jvp: Callable[[Float[Array, " N"]], Float[Array, " N"]]
  vjp: Callable[[Float[Array, " N"]], Float[Array, " P"]]
  before: Carry
  after: Carry
  x: Array
  key: Key[Array, ""]


class Rule(NamedTuple):
  """The update rule of M, or of its approximation, for one cell, as functions of one example.

  Attributes:
    init: `(num_lags) -> memory` before the first step.
    update: `(memory, derivatives) -> memory` after the step.
    gradient: `(memory, delta) -> [K, P]`, an estimate of δᵀ M_t for each lag.
    local: whether J_t is the Jacobian without the path through `cell.recur`.
  """

  init: Callable[[int], Memory]
  update: Callable[[Memory, Derivatives], Memory]
  gradient: Callable[[Memory, Float[Array, " N"]], Float[Array, "K P"]]
  local: bool = False


# `(cell, params, xs, model) -> rule`; raises if the estimator does not support the cell.
RuleFn = Callable[[Cell, Params, Array, VectorCell], Rule]


def differentiate(
  cell: Cell,
  model: VectorCell,
  carry: Carry,
  x: Array,
  key: Key[Array, ""],
  local: bool = False,
) -> Derivatives:
  """Runs the cell for one step of one example, and returns the step's derivatives.

  Args:
    cell: the cell.
    model: the cell with its params, as functions of vectors.
    carry: the carry before the step, leaves [...].
    x: the step's input.
    key: random key of this step.
    local: see `Rule`.
  """
  before = jax.tree.map(lambda a: a[None], carry)
  s = to_vector(before)[0]
  _, jvp = jax.linearize(lambda s: model.step(s, model.theta, before, x, local=local), s)
  _, vjp = jax.vjp(lambda theta: model.step(s, theta, before, x, local=local), model.theta)
  params = model.unravel(model.theta)
  after = step(cell, params, before, cell.project(params, x[None]))
  new = jax.tree.map(lambda a: a[0], after)
  return Derivatives(jvp, lambda u: vjp(u)[0], before, new, x, key)


def output_of(model: VectorCell, carry: Carry, x: Array) -> tuple[PyTree[Array], ErrorsFn]:
  """Returns the output of the step that led to `carry`, leaves [...], and its vjp.

  The vjp maps dL/dy_t to (δ_t [N], the gradient of θ through the output alone [P]).
  """
  after = jax.tree.map(lambda a: a[None], carry)

  def readout(s: Array, theta: Array) -> PyTree[Array]:
    return model.readout(s, theta, after, x)

  return jax.vjp(readout, to_vector(after)[0], model.theta)


def online(make_rule: RuleFn) -> Online:
  """Returns the form of the estimator that runs one step at a time."""

  def init(cell: Cell, params: Params, xs: Array) -> Memory:
    blank = make_rule(cell, params, xs, vector_cell(cell, params)).init(1)
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (xs.shape[1], *a.shape)), blank)

  def step(
    cell: Cell, params: Params, carry: Carry, memory: Memory, x: Array, key: Key[Array, ""]
  ) -> tuple[Carry, Memory, PyTree[Array], Callable[[PyTree[Array]], Params]]:
    model = vector_cell(cell, params)
    rule = make_rule(cell, params, x[None], model)

    def forward(carry: Carry, memory: Memory, x: Array, key: Array) -> tuple[PyTree, ...]:
      found = differentiate(cell, model, carry, x, key, rule.local)
      return found.after, rule.update(memory, found)

    def backward(carry: Carry, memory: Memory, x: Array, y_bar: PyTree[Array]) -> Array:
      delta, direct = output_of(model, carry, x)[1](y_bar)
      return rule.gradient(memory, delta)[0] + direct

    keys = jax.random.split(key, len(x))
    carry, memory = jax.vmap(forward)(carry, memory, x, keys)
    ys = jax.vmap(lambda carry, x: output_of(model, carry, x)[0])(carry, x)

    def gradient(y_bars: PyTree[Array]) -> Params:
      return model.pull_back(jnp.sum(jax.vmap(backward)(carry, memory, x, y_bars), axis=0))

    return carry, memory, ys, gradient

  return Online(init, step)


def forward_estimator(make_rule: RuleFn, random: bool) -> Estimator:
  """Returns the forward estimator that updates M by a rule.

  The errors δ_t of the loss are known from a first pass over the sequence. A second one runs the
  cell again, updates the memory, and adds up the gradient. It stores nothing of earlier steps.
  """

  def shares(
    cell: Cell,
    params: Params,
    xs: Sequences,
    y_bars: PyTree[Array],
    key: Key[Array, ""],
    *,
    num_lags: int = 1,
    carry: Carry | None = None,
    final_bar: Carry | None = None,
    valid: Bool[Array, "T B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
  ) -> Params:
    xs = checked(cell, params, xs)
    num_steps, batch_size = xs.shape[:2]
    model = vector_cell(cell, params)
    rule = make_rule(cell, params, xs, model)
    if carry is None:
      carry = cell.initial_carry((batch_size,), model.theta.dtype)
    blank = rule.init(num_lags)

    def one(carry: Carry, memory: Memory, now: PyTree) -> tuple[Carry, Memory, Array]:
      x, y_bar, key, runs, new_sequence = now
      if new_sequence is not None:
        carry, memory = _where(new_sequence, _zeros((carry, memory)), (carry, memory))
      found = differentiate(cell, model, carry, x, key, rule.local)
      new = rule.update(memory, found)
      delta, direct = output_of(model, found.after, x)[1](y_bar)
      # `rule.gradient` returns [1, P] if no param reaches the carry.
      grads = jnp.zeros(total.shape, direct.dtype).at[0].add(direct) + rule.gradient(new, delta)
      if runs is None:
        return found.after, new, grads
      return _where(runs, (found.after, new, grads), (carry, memory, _zeros(grads)))

    def body(
      old: tuple[Carry, Memory, Array], now: PyTree
    ) -> tuple[tuple[Carry, Memory, Array], None]:
      carry, memory, total = old
      carry, memory, grads = jax.vmap(one)(carry, memory, now)
      return (carry, memory, total + jnp.sum(grads, axis=0, dtype=total.dtype)), None

    memory = jax.tree.map(lambda a: jnp.broadcast_to(a, (batch_size, *a.shape)), blank)
    # The sum over all steps is in at least float32.
    total = jnp.zeros((num_lags, *model.theta.shape), wide(model.theta.dtype))
    keys = jax.random.split(key, (num_steps, batch_size))
    now = xs, y_bars, keys, valid, resets
    carry, memory, total, _ = vary_alike((carry, memory, total, (y_bars, model.theta)))
    # A plain scan, because `unroll` does not update a memory.
    (_, memory, total), _ = jax.lax.scan(body, (carry, memory, total), now)
    if final_bar is not None:
      # JAX's cotangent of x + iy is dL/dx − i dL/dy.
      deltas = to_vector(jax.tree.map(jnp.conj, floats_of(final_bar)))
      total = total + jnp.sum(jax.vmap(rule.gradient)(memory, deltas), axis=0)
    return jax.vmap(model.pull_back)(total)

  return Estimator(custom_unroll(shares, random), shares, random, True, online(make_rule))


def custom_unroll(shares: Callable[..., Params], random: bool, masked: bool = True) -> UnrollFn:
  """Returns `unroll` with the gradient of the params from `shares`.

  The gradients of xs and of the initial carry are exact: they come from backpropagation through
  time. The gradient of a probe is NaN, because a forward estimator has no dL/dh_t.

  Args:
    shares: `(cell, params, xs, y_bars, key, *, carry, final_bar, valid, resets) -> grads`; see
      `Estimator.shares`. `carry` is the initial carry, `final_bar` the cotangent of the final one.
      `valid` and `resets` are those of the time loop's steps.
    random: whether `shares` needs the key.
    masked: whether `shares` supports `valid` and `resets`; both are None if not.
  """

  def run(
    cell: Cell,
    params: Params,
    xs: Sequences,
    carry: Carry | None = None,
    *,
    estimator_key: Key[Array, ""] | None,
    lengths: Integer[AnyArray, " B"] | None = None,
    mask: Bool[AnyArray, "T B"] | None = None,
    resets: Bool[AnyArray, "T B"] | None = None,
    probe: Carry | None = None,
    remat: str = "none",
    scan_unroll: int = 1,
    key: Key[Array, ""] | None = None,
    **time: Any,
  ) -> tuple[Carry, PyTree[Array]]:
    for name, value in time.items():
      if value is not None and value is not False:
        raise ValueError(f"{name} must be left out with a forward estimator, got {value!r:.100}.")
    for name, value in {"lengths": lengths, "mask": mask, "resets": resets}.items():
      if value is not None and not masked:
        raise ValueError(f"{name} must be None with fptt, got {checks.shown(value)}.")
    if uses_key(cell, cell.prepare(params), checked(cell, params, xs), key):
      raise ValueError(
        "key must be None with a forward estimator, because this cell draws random masks from it."
      )
    own_key = jax.random.key_data(check_key(estimator_key, random))
    constants = own_key, lengths, mask, resets

    def plain(params: Params, xs: Array, carry: Carry | None, constants: PyTree) -> PyTree:
      _, lengths, mask, resets = constants
      options = {"lengths": lengths, "mask": mask, "resets": resets}
      return unroll(cell, params, xs, carry, remat=remat, scan_unroll=scan_unroll, **options)

    @jax.custom_vjp
    def estimated(
      params: Params, xs: Array, carry: Carry | None, probe: Carry | None, constants: PyTree
    ) -> tuple[Carry, PyTree[Array]]:
      del probe
      return plain(params, xs, carry, constants)

    def forward(
      params: Params, xs: Array, carry: Carry | None, probe: Carry | None, constants: PyTree
    ) -> tuple[tuple[Carry, PyTree[Array]], PyTree]:
      return plain(params, xs, carry, constants), (params, xs, carry, probe, constants)

    def backward(saved: PyTree, bars: tuple[Carry, PyTree[Array]]) -> tuple[PyTree, ...]:
      params, xs, carry, probe, constants = saved
      key_data, lengths, mask, resets = constants
      valid = valid_steps(len(xs), lengths, mask)
      within = valid_steps(len(xs), lengths, None)
      if resets is not None and within is not None:  # resets past a sequence's end have no effect
        resets = jnp.asarray(resets) & within
      if valid is not None:
        xs = jnp.where(jnp.expand_dims(valid, range(2, xs.ndim)), xs, jnp.zeros_like(xs))
      grads = shares(
        cell,
        params,
        xs,
        bars[1],
        jax.random.wrap_key_data(key_data),
        carry=carry,
        final_bar=bars[0],
        valid=valid,
        resets=None if resets is None else jnp.asarray(resets),
      )
      # The errors of the layer below and of the initial carry are exact.
      _, vjp = jax.vjp(lambda xs, carry: plain(params, xs, carry, constants), xs, carry)
      no_norms = jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), probe)
      total = jax.tree.map(_first_or_zeros, params, grads, is_leaf=lambda a: a is None)
      return (total, *vjp(bars), no_norms, None)

    estimated.defvjp(forward, backward)
    return estimated(params, xs, carry, probe, constants)

  return run


def _first_or_zeros(param: Array, grads: Array | None) -> Array | np.ndarray:
  """Returns the only entry of the lag axis, or zeros of dtype float0 for an integer param."""
  return np.zeros(param.shape, jax.dtypes.float0) if grads is None else grads[0]


def _where(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _zeros(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.zeros_like, tree)
