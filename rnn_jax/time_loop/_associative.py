"""The time loop for linear cells: an associative scan computes all steps at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PyTree

from rnn_jax.probes import tap
from rnn_jax.time_loop._linear_scan import linear_scan
from rnn_jax.time_loop._step import StepInputs, outputs_of, select
from rnn_jax.types import Carry, Cell, Params


def run_associatively(
  cell: Cell, params: Params, carry: Carry, inputs: StepInputs, reverse: bool
) -> tuple[Carry, PyTree[Array]]:
  """Runs a cell that has a `linear`, i.e. h_t = a_t ∘ h_{t−1} + b_t; returns (final carry, ys)."""
  assert cell.linear is not None  # checked by `unroll`
  a, b = cell.linear(params, inputs.drive)
  a = jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), a, b)
  if inputs.probe is not None:
    b = tap(b, inputs.probe)  # h_t = a_t ∘ h_{t−1} + b_t, so dL/db_t = dL/dh_t
  cut = inputs.cut
  if inputs.valid is not None:
    # A skipped step keeps the carry, so a = 1 and b = 0 there. Cuts have no effect there.
    a = select(inputs.valid, a, jax.tree.map(jnp.ones_like, a))
    b = select(inputs.valid, b, jax.tree.map(jnp.zeros_like, b))
    cut = None if cut is None else cut & inputs.valid
  if inputs.reset is not None:
    a = select(inputs.reset, jax.tree.map(jnp.zeros_like, a), a)
  first, last = (-1, 0) if reverse else (0, -1)

  def scan_leaf(
    a: Inexact[Array, "T B *rest"],
    b: Inexact[Array, "T B *rest"],
    start: Inexact[Array, " B *rest"],
  ) -> Inexact[Array, "T B *rest"]:
    if inputs.reset is not None:
      start = select(inputs.reset[first], jnp.zeros_like(start), start)
    b = b.at[first].add(a[first] * start)
    where = None if cut is None else jnp.expand_dims(cut, range(cut.ndim, a.ndim))
    return linear_scan(a, b, where, reverse)

  carries = jax.tree.map(scan_leaf, a, b, carry)
  return jax.tree.map(lambda h: h[last], carries), outputs_of(cell, params, carries, inputs)
