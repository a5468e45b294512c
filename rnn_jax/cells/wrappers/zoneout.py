"""Zoneout: units that keep their old values at random."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.lstm import LSTMCarry, lstm
from rnn_jax.types import Array, Carry, Cell, Drive, Params


def zoneout(cell: Cell, rate: Any) -> Cell:
  """A cell whose units keep their old values at random: dropout that hands on the past, not zero.

    h̃_t = f(h_{t−1}, x_t)                          the cell's own step
    h_t = d_t ∘ h_{t−1} + (1 − d_t) ∘ h̃_t           d_t ~ Bernoulli(rate), with a key: training
    h_t = rate · h_{t−1} + (1 − rate) · h̃_t         the mean over d_t, without one: evaluation

  Each step, example, leaf of the carry and unit has a draw of its own. The leaves of h̃_t are as the
  cell computes them together: an LSTM's candidate for h reads its candidate for c. Measures give no
  key and see the mean.

  Step Jacobian: diag(d) + diag(1 − d) J, or rate · I + (1 − rate) J, with J the cell's own: units
  that are kept hand their gradient on unchanged.

  Args:
    cell: the cell.
    rate: of units that keep their value, from 0 to 1: a number, or a traced scalar, for all leaves
      of the carry, or one for each in its structure, as `LSTMCarry(hidden=0.05, cell=0.5)`.
      Integers in a carry go on as the cell has them.
  Returns:
    A Cell with the params, carry, output and gates of `cell`; drive (that of `cell`, d or None).
  Raises:
    TypeError, ValueError: a rate that is no number from 0 to 1, or in another structure.
  References:
    Krueger et al., 2017, https://arxiv.org/abs/1606.01305
  """
  rates = _by_leaf(rate, cell)

  def project(params: Params, xs: Array, key: Array | None = None) -> tuple[Drive, Carry | None]:
    if key is None:
      return cell.project(params, xs), None
    mask_key, cell_key = jax.random.split(key)
    tokens = jnp.issubdtype(xs.dtype, jnp.integer)
    leading = xs.shape if tokens else xs.shape[:-1]
    return cell.project(params, xs, cell_key), masks(mask_key, leading)

  def masks(key: Array, leading: tuple[int, ...]) -> Carry:
    carry = jax.eval_shape(lambda: cell.initial_carry(leading))
    structure: Any = jax.tree.structure(carry)
    keys = structure.unflatten(jax.random.split(key, structure.num_leaves))
    return jax.tree.map(_draw, carry, rates, keys)

  def update(params: Params, carry: Carry, drive: Drive, recurrent: Any) -> Carry:
    drive, kept = drive
    new = cell.update(params, carry, drive, recurrent)
    if kept is None:
      return jax.tree.map(_mean, carry, new, rates)
    return jax.tree.map(_choose, carry, new, kept)

  def output(params: Params, carry: Carry, drive: Drive) -> Any:
    return cell.output(params, carry, drive[0])

  gates = cell.gates
  return cell._replace(
    project=project,
    update=update,
    output=output,
    gates=gates and (lambda p, carry, drive, recurrent: gates(p, carry, drive[0], recurrent)),
    linear=None,
  )


def zoneout_lstm(
  hidden_size: int,
  *,
  rate_hidden: Any = 0.05,
  rate_cell: Any = 0.5,
  forget_bias: Any = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Any = 1.0,
) -> Cell:
  """Long short-term memory with zoneout: `zoneout` of `lstm`, a rate for each of its states.

    c' = d_c ∘ c + (1 − d_c) ∘ c̃            h' = d_h ∘ h + (1 − d_h) ∘ h̃

  where h̃, c̃ are the LSTM's h' and c', and h̃ reads c̃. Without a key d_c and d_h are their means.

  Step Jacobian: along the cell state ∂c'/∂c = diag(d_c + (1 − d_c) f): where f forgets, zoneout
  still hands on a share `rate_cell` of the gradient.

  Args:
    hidden_size: width H of hidden state, cell state and output.
    rate_hidden: of h that keeps its value, from 0 to 1.
    rate_cell: of c that keeps its value, from 0 to 1.
    forget_bias: initial value of the forget gate's part of b.
    recurrent_kernel: `orthogonal`, `gaussian` or `identity`, one block a gate.
    recurrent_gain: factor on the recurrent kernel at initialisation.
  Returns:
    A Cell with the params, carry, output and gates of `lstm`.
  Raises:
    TypeError, ValueError: a rate that is no number from 0 to 1; what `lstm` raises.
  References:
    Krueger et al., 2017, https://arxiv.org/abs/1606.01305
  """
  _check_rate("rate_hidden", rate_hidden)
  _check_rate("rate_cell", rate_cell)
  cell = lstm(
    hidden_size,
    forget_bias=forget_bias,
    recurrent_kernel=recurrent_kernel,
    recurrent_gain=recurrent_gain,
  )
  return zoneout(cell, LSTMCarry(rate_hidden, rate_cell))


def _draw(leaf: Any, rate: Any, key: Array) -> Array | None:
  if not _has_units(leaf):
    return None
  return jax.random.bernoulli(key, jnp.asarray(rate, float), leaf.shape)


def _mean(old: Array, new: Array, rate: Any) -> Array:
  if not _has_units(new):
    return new
  rate = jnp.asarray(rate, new.dtype)
  return rate * old + (1 - rate) * new


def _choose(old: Array, new: Array, kept: Array | None) -> Array:
  return new if kept is None else jnp.where(kept, old, new)


def _has_units(leaf: Any) -> bool:
  """Real or complex values; a count of steps is none."""
  return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _by_leaf(rate: Any, cell: Cell) -> Any:
  """A rate for each leaf of the carry, in its structure."""
  wanted: Any = jax.tree.structure(jax.eval_shape(lambda: cell.initial_carry(())))
  if jax.tree_util.all_leaves([rate]):
    rate = wanted.unflatten([rate] * wanted.num_leaves)
  elif jax.tree.structure(rate) != wanted:
    raise ValueError(f"rate must be a number, or in the carry's structure {wanted}, got {rate!r}.")
  for value in jax.tree.leaves(rate):
    _check_rate("rate", value)
  return rate


def _check_rate(name: str, value: Any) -> None:
  checks.number(name, value, minimum=0)
  if not isinstance(value, jax.core.Tracer) and value > 1:
    raise ValueError(f"{name} must be at most 1, got {value}.")
