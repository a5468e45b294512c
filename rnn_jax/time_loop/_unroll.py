"""The time loop: the only place in the library that scans a cell over time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Never

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks, clipping
from rnn_jax.cells.dense import the_carry
from rnn_jax.probes import tap
from rnn_jax.time_loop import _adjoint as adjoint
from rnn_jax.time_loop import _arguments as arguments
from rnn_jax.time_loop._adjoint_loops import Perturbations, Step
from rnn_jax.time_loop._linear_scan import linear_scan
from rnn_jax.types import Array, Carry, Cell, Drive, Params, floats_of, with_floats


class _Fixed(NamedTuple):
  """What is the same in every step."""

  params: Params
  clip: Array | None  # largest norm of a cotangent that goes on to earlier steps; None for any


class _Stream(NamedTuple):
  """What one step of the loop reads beside its carry; None where it has no such thing."""

  drive: Drive  # or xs, where they are projected block by block
  valid: Array | None  # [T, B]: the sequence has not ended
  reset: Array | None  # [T, B]: a new sequence starts here
  cut: Array | None  # [T] or [T, B]: the gradient stops in front of this step
  probe: Carry | None  # [T, B]


def unroll(
  cell: Cell,
  params: Params,
  xs: Array,
  carry: Carry | None = None,
  *,
  truncation: int | Array | None = None,
  lengths: Array | None = None,
  resets: Array | None = None,
  reverse: bool = False,
  remat: str = "none",
  probe: Carry | None = None,
  clip_carry: float | Array | None = None,
  scan_unroll: int = 1,
  key: Array | None = None,
  forward_mode: bool = False,
  method: str = "loop",
  **unknown: Never,
) -> tuple[Carry, Any]:
  """Runs a cell over time: h_t = f(h_{t-1}, x_t), y_t = output(h_t), t = 0 … T−1.

  Args:
    cell: the cell.
    params: its params, from `cell.init`.
    xs: [T, B, D], or integer tokens [T, B] that stand for their one-hot vectors.
    carry: h_{-1}, leaves [B, ...]; zeros if None.
    truncation: k. The forward pass is untouched; backward, the gradient is cut in front of the
      steps k, 2k, 3k, … of each sequence, so the loss at step t (from 0) reaches back t mod k
      steps. An int, or a traced scalar. k ≥ T, or None, is full backpropagation through time.
    lengths: [B] integers, valid steps of each sequence. Past its end a sequence holds its carry,
      gives zero output and ignores its input, NaN included, gradients too. Length 0 returns the
      initial carry.
    resets: [T, B] bool. Where true, the carry is reset to zeros before that step and truncation
      counts from there: the sequence starts anew.
    reverse: runs from the last step to the first; with `lengths`, from each sequence's own end.
    remat: what the backward pass computes again rather than stores: `none`; `step`, the inside of
      every step; `sqrt`, blocks of √T steps, drives included, for O(√T) memory beside xs and ys.
    probe: from `gradient_probe`; its gradient is ‖dL/dh_t‖.
    clip_carry: c. The forward pass is untouched; backward, each example's dL/dh_t, all leaves of
      the carry together, is scaled to a norm of at most c before it goes on, to the step's params
      and to earlier steps. The probe has the norm from before. A number, or a traced scalar, in
      units of the loss as it is given: of a mean over B examples, an example has a share of 1/B.
      inf, or None, is no clipping. There is no forward-mode derivative unless it is None.
    scan_unroll: steps in one iteration of the compiled loop, as `unroll` of `jax.lax.scan`. On a
      CPU 1 is fastest.
    key: random key, for stochastic cells.
    forward_mode: gives the result a forward-mode derivative too (`jax.jvp`, `jax.jacfwd`), at the
      price of a slower reverse mode. Forward over reverse mode does not need it.
    method: `loop`, one step after another; or `associative`, all of them together in O(log T)
      rounds, for cells that are linear and diagonal in their carry (those with `cell.linear`: lru,
      mingru, minlstm, rg_lru). The same function to rounding, both derivatives included, but that
      what is not finite goes on through a reset. For accelerators, where T small steps are slow.
      With remat="none" and without clip_carry only.
  Returns:
    (final carry, leaves [B, ...]; ys, [T, B, ...] in the order of xs).
  Raises:
    TypeError, ValueError: naming the argument, the rule and what came.
  """
  arguments.refuse(unknown)
  xs = jnp.asarray(xs)
  num_steps, batch_shape = arguments.check(xs, truncation, lengths, resets, remat, scan_unroll)
  arguments.check_method(method, cell, remat, clip_carry)
  if clip_carry is not None:
    clipping.check("clip_carry", clip_carry)
  valid = cut = None
  if lengths is not None:
    lengths = jnp.asarray(lengths, jnp.int32)
    valid = jnp.arange(num_steps, dtype=jnp.int32)[:, None] < lengths[None]
    keep = valid if xs.ndim == valid.ndim else valid[..., None]
    # Masking the loss is not enough: 0 · NaN is NaN in the backward pass.
    xs = jnp.where(keep, xs, jnp.zeros_like(xs))
  if resets is not None:
    resets = jnp.asarray(resets)
  if truncation is not None:
    cut = arguments.cuts(truncation, num_steps, lengths, resets, reverse)

  params = cell.prepare(params)
  # Drives for a stretch of time may be made when it comes, unless masks are drawn for all of it.
  in_blocks = remat == "sqrt" and key is None
  drives = jax.eval_shape(cell.project, params, xs, key)
  dtype = _real(jax.tree.leaves(drives)[0].dtype)
  zeros = cell.initial_carry(batch_shape, dtype)
  if carry is None:
    carry = zeros
  checks.like("carry", zeros, carry)
  if probe is not None:
    slots = jax.tree.map(
      lambda a: jnp.zeros((num_steps, *batch_shape), a.real.dtype), floats_of(zeros)
    )
    checks.like("probe", slots, probe)
  if method == "associative":
    drive = cell.project(params, xs, key)
    return _at_once(cell, params, carry, _Stream(drive, valid, resets, cut, probe), reverse)
  # What is made of a carry of one array is made after the loop, of all of them: a product there is
  # one product, and so is the gradient of its kernel.
  late = len(jax.tree.leaves(zeros)) == 1 and not cell.output_is_carry
  step = _step(cell._replace(output=the_carry) if late else cell)
  if remat == "step":
    step = jax.checkpoint(step, prevent_cse=False)

  def recur(fixed: _Fixed, carry: Carry) -> Any:
    return cell.recur(fixed.params, carry)

  def stretch(fixed: _Fixed, carry: Carry, now: _Stream) -> tuple[Carry, Any]:
    if in_blocks:
      now = now._replace(drive=cell.project(fixed.params, now.drive))
    carry, ys = scan(fixed, carry, now)
    return carry, _outputs(cell, fixed.params, ys, now) if late else ys

  def scan(fixed: _Fixed, carry: Carry, now: _Stream) -> tuple[Carry, Any]:
    loop: Any = {"reverse": reverse, "unroll": scan_unroll}
    if forward_mode:
      return jax.lax.scan(lambda c, now: step(fixed, fixed, c, now, None), carry, now, **loop)
    probe, now = now.probe, now._replace(probe=None)
    if len(jax.tree.leaves(floats_of(carry))) < len(jax.tree.leaves(carry)):
      return _counting(step, recur, fixed, carry, now, probe, **loop)
    return adjoint.scan(step, _begin, recur, fixed, carry, now, probe, **loop)

  first = xs if in_blocks else cell.project(params, xs, key)
  fixed = _Fixed(params, None if clip_carry is None else jnp.asarray(clip_carry, dtype))
  stream = _Stream(first, valid, resets, cut, probe)
  if remat == "sqrt":
    return _by_blocks(stretch, fixed, carry, stream, num_steps, reverse)
  return stretch(fixed, carry, stream)


def _begin(carry: Carry, now: _Stream) -> Carry:
  """What a step starts from: the carry, or zeros after a reset, without gradient after a cut."""
  if now.reset is not None:
    carry = _select(now.reset, jax.tree.map(jnp.zeros_like, carry), carry)
  if now.cut is not None:
    # Forward, XLA drops a choice between equals: the cut costs nothing there.
    carry = _select(now.cut, jax.lax.stop_gradient(carry), carry)
  return carry


def _step(cell: Cell) -> Step:
  """One step of the loop: h_t = f(h_{t−1}, x_t), and what the time arguments do around it."""

  def step(
    held: _Fixed, fixed: _Fixed, old: Carry, now: _Stream, slots: Perturbations | None
  ) -> Any:
    start = _begin(old, now)
    recurrent = cell.recur(held.params, start)
    if slots is not None:
      recurrent = jax.tree.map(jnp.add, recurrent, slots.recurrent)
    new = cell.update(fixed.params, start, now.drive, recurrent)
    if fixed.clip is not None:
      # Ahead of slots and probe, which see the cotangent as it comes.
      new = with_floats(clipping.clip_cotangent(floats_of(new), fixed.clip), new)
    if slots is not None and slots.carry is not None:
      new = with_floats(jax.tree.map(jnp.add, floats_of(new), slots.carry), new)
    if now.probe is not None:
      new = tap(new, now.probe)
    y = cell.output(fixed.params, new, now.drive)
    if now.valid is not None:
      new = _select(now.valid, new, old)
      y = _select(now.valid, y, jax.tree.map(jnp.zeros_like, y))
    return new, y

  return step


def _counting(
  step: Step,
  recur: Callable[[_Fixed, Carry], Any],
  fixed: _Fixed,
  carry: Carry,
  now: _Stream,
  probe: Carry | None,
  **loop: Any,
) -> tuple[Carry, Any]:
  """`adjoint.scan` of a carry with integers, which have no cotangent: they are counted ahead."""

  def count(carry: Carry, now: _Stream) -> tuple[Carry, Carry]:
    new, _ = step(fixed, fixed, carry, now, None)
    return new, jax.tree.map(lambda a: None if jnp.issubdtype(a.dtype, jnp.inexact) else a, carry)

  # No float is computed in this loop: none is read.
  still = jax.lax.stop_gradient((carry, now))
  last, counts = jax.lax.scan(count, *still, **loop)

  def begin(floats: Carry, now: tuple[_Stream, Carry]) -> Carry:
    return _begin(with_floats(floats, now[1]), now[0])

  def moved(
    held: _Fixed, fixed: _Fixed, floats: Carry, now: Any, slots: Perturbations | None
  ) -> Any:
    new, y = step(held, fixed, with_floats(floats, now[1]), now[0], slots)
    return floats_of(new), y

  floats, ys = adjoint.scan(
    moved, begin, recur, fixed, floats_of(carry), (now, counts), probe, **loop
  )
  return with_floats(floats, last), ys


def _at_once(
  cell: Cell, params: Params, carry: Carry, stream: _Stream, reverse: bool
) -> tuple[Carry, Any]:
  """All steps of a linear cell as one associative scan."""
  # That the cell has one is checked by then, which the type checker cannot see.
  a, b = cell.linear(params, stream.drive)  # type: ignore[misc]
  if stream.probe is not None:
    b = tap(b, stream.probe)  # dL/db_t = dL/dh_t
  cut = stream.cut
  if stream.reset is not None:
    a = _select(stream.reset, jax.tree.map(jnp.zeros_like, a), a)
  if stream.valid is not None:
    # Past its end a sequence is neither reset nor cut: it holds.
    a = _select(stream.valid, a, jax.tree.map(jnp.ones_like, a))
    b = _select(stream.valid, b, jax.tree.map(jnp.zeros_like, b))
    cut = None if cut is None else cut & stream.valid
  first, last = (-1, 0) if reverse else (0, -1)

  def leaf(a: Array, b: Array, start: Array) -> Array:
    if stream.reset is not None:
      start = _select(stream.reset[first], jnp.zeros_like(start), start)
    b = b.at[first].add(a[first] * start)
    where = None if cut is None else jnp.expand_dims(cut, range(cut.ndim, a.ndim))
    return linear_scan(a, b, where, reverse)

  carries = jax.tree.map(leaf, a, b, carry)
  return jax.tree.map(lambda h: h[last], carries), _outputs(cell, params, carries, stream)


def _outputs(cell: Cell, params: Params, carries: Carry, stream: _Stream) -> Any:
  """ys of all steps, zero past the end of a sequence."""
  ys = cell.output(params, carries, stream.drive)
  if stream.valid is None:
    return ys
  return _select(stream.valid, ys, jax.tree.map(jnp.zeros_like, ys))


def _by_blocks(
  stretch: Callable[[_Fixed, Carry, _Stream], tuple[Carry, Any]],
  fixed: _Fixed,
  carry: Carry,
  stream: _Stream,
  num_steps: int,
  reverse: bool,
) -> tuple[Carry, Any]:
  """`stretch`, one block of √T steps after another, each computed again in the backward pass."""
  block = math.isqrt(num_steps - 1) + 1
  whole = num_steps - num_steps % block
  again = jax.checkpoint(stretch, prevent_cse=False)

  def blocks(carry: Carry) -> tuple[Carry, Any]:
    folded = jax.tree.map(lambda a: a[:whole].reshape(-1, block, *a.shape[1:]), stream)
    carry, ys = jax.lax.scan(functools.partial(again, fixed), carry, folded, reverse=reverse)
    return carry, jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)

  def rest(carry: Carry) -> tuple[Carry, Any]:
    return again(fixed, carry, jax.tree.map(lambda a: a[whole:], stream))

  if whole == num_steps:
    return blocks(carry)
  if reverse:
    carry, late = rest(carry)
    carry, early = blocks(carry)
  else:
    carry, early = blocks(carry)
    carry, late = rest(carry)
  return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early, late)


def _select(condition: Array, yes: Any, no: Any) -> Any:
  """`where` on pytrees, with a condition over the leading axes."""

  def leaf(yes: Array, no: Array) -> Array:
    over = range(condition.ndim, yes.ndim) if condition.ndim else ()
    return jnp.where(jnp.expand_dims(condition, over), yes, no)

  return jax.tree.map(leaf, yes, no)


def _real(dtype: Any) -> Any:
  """float32 of complex64, and so on."""
  return np.zeros((), dtype).real.dtype
