"""Zoneout: units that keep their old values at random."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Key, PyTree, Shaped

from rnn_jax import checks
from rnn_jax.cells.lstm import LSTMCarry, lstm
from rnn_jax.cells.memoized import memoized
from rnn_jax.types import Array, C, Cell, CellArray, D, FlatParams, Inputs, Number, P, Recurrent

Masks: TypeAlias = PyTree  # like the carry: booleans for a float leaf, None for an integer leaf


@memoized
def zoneout(
  cell: Cell[P, C, D], rate: Number | PyTree[Number]
) -> Cell[P, C, tuple[D, Masks | None]]:
  """Returns a cell whose units keep their old values at random.

    h̃_t = f(h_{t−1}, x_t)                          the wrapped cell's step
    h_t = d_t ∘ h_{t−1} + (1 − d_t) ∘ h̃_t           training (with a key): d_t ~ Bernoulli(rate)
    h_t = rate · h_{t−1} + (1 − rate) · h̃_t         evaluation (no key): the mean over d_t

  Zoneout is a form of dropout that keeps a unit's old value instead of setting it to zero. d_t is
  drawn independently for each step, example, leaf of the carry and unit. The masks are applied only
  after all leaves of h̃_t have been computed, so in an LSTM, h̃ reads c̃, to which no mask has been
  applied yet. Measures of gradient flow pass no key, so they differentiate the evaluation step.

  Step Jacobian: J diag(1 − d) + diag(d), or (1 − rate) J + rate · I, where J is the wrapped cell's.
  The gradient passes unchanged through the units that keep their value.

  Args:
    cell: the cell to wrap.
    rate: probability, from 0 to 1, that a unit keeps its value. Either one number (or traced
      scalar) for all leaves of the carry, or a pytree like the carry with one number for each leaf,
      such as `LSTMCarry(hidden=0.05, cell=0.5)`. Integer leaves are always updated.
  Returns:
    A Cell with the params, carry, output and gates of `cell`; its drive is the pair (drive of
    `cell`, d), where d is None without a key.
  Raises:
    TypeError: if `cell` is not a Cell, or a rate is not a number.
    ValueError: if a rate is not from 0 to 1, or the structure of `rate` is not that of the carry.
  References:
    Krueger et al., 2017, https://arxiv.org/abs/1606.01305
  """
  checks.instance("cell", cell, Cell)
  rates = _rate_of_each_leaf(rate, cell)

  def project(params: P, xs: Inputs, key: Key[Array, ""] | None = None) -> tuple[D, Masks | None]:
    if key is None:
      return cell.project(params, xs), None
    mask_key, cell_key = jax.random.split(key)
    tokens = jnp.issubdtype(xs.dtype, jnp.integer)
    leading = xs.shape if tokens else xs.shape[:-1]
    return cell.project(params, xs, cell_key), masks(mask_key, leading)

  def masks(key: Key[Array, ""], leading: tuple[int, ...]) -> Masks:
    carry = jax.eval_shape(lambda: cell.initial_carry(leading))
    leaves, structure = jax.tree.flatten(carry)
    keys = jax.tree.unflatten(structure, jax.random.split(key, len(leaves)))
    return jax.tree.map(_draw, carry, rates, keys)

  def update(params: P, carry: C, drive: tuple[D, Masks | None], recurrent: Recurrent) -> C:
    of_cell, kept = drive
    new = cell.update(params, carry, of_cell, recurrent)
    if kept is None:
      return jax.tree.map(_mean, carry, new, rates)
    return jax.tree.map(_choose, carry, new, kept)

  def output(params: P, carry: C, drive: tuple[D, Masks | None]) -> PyTree:
    return cell.output(params, carry, drive[0])

  gates = cell.gates
  return Cell(
    init=cell.init,
    initial_carry=cell.initial_carry,
    prepare=cell.prepare,
    project=project,
    recur=cell.recur,
    update=update,
    output=output,
    gates=None if gates is None else (lambda p, h, d, r: gates(p, h, d[0], r)),
    recurrent_kernel=cell.recurrent_kernel,
    output_is_carry=cell.output_is_carry,
  )


@memoized
def zoneout_lstm(
  hidden_size: int,
  *,
  rate_hidden: Number = 0.05,
  rate_cell: Number = 0.5,
  forget_bias: Number = 1.0,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> Cell[FlatParams, LSTMCarry, tuple[Array, Masks | None]]:
  """LSTM with zoneout: units of the hidden and the cell state keep their old values at random.

    c' = d_c ∘ c + (1 − d_c) ∘ c̃            h' = d_h ∘ h + (1 − d_h) ∘ h̃

  where h̃ and c̃ are the results of the LSTM's step, and h̃ reads c̃. The masks d_c and d_h are drawn
  with a key (training); without a key they are replaced by their means (evaluation).

  Step Jacobian: along the cell state ∂c'/∂c = diag(d_c + (1 − d_c) f). Even where f = 0, zoneout
  passes on average a share `rate_cell` of the gradient.

  Args:
    hidden_size: width H of hidden state, cell state and output.
    rate_hidden: probability that a unit of h keeps its value, from 0 to 1.
    rate_cell: probability that a unit of c keeps its value, from 0 to 1.
    forget_bias: initial value of the forget gate's block of b.
    recurrent_kernel: initialization of each gate's block of U: `orthogonal`, `gaussian` or
      `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization.
  Returns:
    A Cell with the params, carry, output and gates of `lstm`.
  Raises:
    TypeError, ValueError: if a rate is not a number from 0 to 1, or `lstm` rejects another
      argument.
  References:
    Krueger et al., 2017, https://arxiv.org/abs/1606.01305
  """
  checks.number("rate_hidden", rate_hidden, minimum=0, maximum=1)
  checks.number("rate_cell", rate_cell, minimum=0, maximum=1)
  cell = lstm(
    hidden_size,
    forget_bias=forget_bias,
    recurrent_kernel=recurrent_kernel,
    recurrent_gain=recurrent_gain,
  )
  return zoneout(cell, LSTMCarry._make((rate_hidden, rate_cell)))


def _draw(
  leaf: jax.ShapeDtypeStruct, rate: Number, key: Key[Array, ""]
) -> Bool[Array, "*axes"] | None:
  if not jnp.issubdtype(leaf.dtype, jnp.inexact):
    return None
  return jax.random.bernoulli(key, jnp.asarray(rate, float), leaf.shape)


def _mean(
  old: Shaped[CellArray, "*axes"], new: Shaped[CellArray, "*axes"], rate: Number
) -> Shaped[Array, "*axes"]:
  if not jnp.issubdtype(new.dtype, jnp.inexact):
    return new
  share = jnp.asarray(rate, new.dtype)
  return share * old + (1 - share) * new


def _choose(
  old: Shaped[CellArray, "*leaf"],
  new: Shaped[CellArray, "*leaf"],
  kept: Bool[Array, "*leaf"] | None,
) -> Shaped[Array, "*leaf"]:
  return new if kept is None else jnp.where(kept, old, new)


def _rate_of_each_leaf(rate: Number | PyTree[Number], cell: Cell) -> PyTree[Number]:
  """Returns a pytree like the carry of `cell`, with one rate for each leaf.

  Args:
    rate: one number for all leaves, or a pytree like the carry.
    cell: the cell to wrap.
  Raises:
    TypeError: if a rate is not a number.
    ValueError: if a rate is not from 0 to 1, or the structure of `rate` is not that of the carry.
  """
  leaves, wanted = jax.tree.flatten(jax.eval_shape(lambda: cell.initial_carry(())))
  given: object = jax.tree.structure(rate)
  if jax.tree_util.all_leaves([rate]):
    rate = jax.tree.unflatten(wanted, [rate] * len(leaves))
  elif given != wanted:
    raise ValueError(f"rate must be a number, or in the carry's structure {wanted}, got {rate!r}.")
  for value in jax.tree.leaves(rate):
    checks.number("rate", value, minimum=0, maximum=1)
  return rate
