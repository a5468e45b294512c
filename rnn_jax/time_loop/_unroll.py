"""`unroll`, the only function of the library that runs a cell over time.

It checks its arguments and turns them into the inputs of each step (`StepInputs`):

    lengths, mask -> valid_steps -> valid,  resets -> reset,  truncation -> cut_steps -> cut
    gradient_scale -> scale,  recurrent_gradient_scale -> recurrent_scale

The module `_step` defines what each of these inputs does in a step. Either `_sequential` or
`_associative` then runs the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer, Key, PyTree

from rnn_jax import checks, clipping
from rnn_jax.parallel import vary_alike
from rnn_jax.precision import wide
from rnn_jax.probes import check_probe, probe_shapes
from rnn_jax.time_loop import _arguments as arguments
from rnn_jax.time_loop._associative import run_associatively
from rnn_jax.time_loop._sequential import LoopOptions, run_sequentially
from rnn_jax.time_loop._step import StepConstants, StepInputs, valid_steps
from rnn_jax.time_loop._truncation import Truncation, check_truncation, cut_steps
from rnn_jax.types import AnyArray, C, Carry, Cell, D, Drive, P, Sequences

if TYPE_CHECKING:
  from typing import Never as Unknown  # type checkers reject every unknown argument
else:
  from typing import Any as Unknown  # `unroll` raises an error that names the argument


def unroll(
  cell: Cell[P, C, D],
  params: P,
  xs: Sequences,
  carry: C | None = None,
  *,
  truncation: Truncation | None = None,
  gradient_scale: Float[AnyArray, "*steps"] | None = None,
  recurrent_gradient_scale: Float[AnyArray, "*steps"] | None = None,
  lengths: Integer[AnyArray, " B"] | None = None,
  mask: Bool[AnyArray, "T B"] | None = None,
  resets: Bool[AnyArray, "T B"] | None = None,
  reverse: bool = False,
  remat: str = "none",
  probe: Carry | None = None,
  clip_carry: ArrayLike | None = None,
  scan_unroll: int = 1,
  key: Key[Array, ""] | None = None,
  forward_mode: bool = False,
  method: str = "loop",
  **unknown: Unknown,
) -> tuple[C, PyTree[Array]]:
  """Runs a cell over time: h_t = f(h_{t−1}, x_t), y_t = output(h_t), t = 0 … T−1.

  Args:
    cell: the cell.
    params: its params, from `cell.init`.
    xs: the inputs, vectors [T, B, D] or integer tokens [T, B]. A token stands for its one-hot
      vector.
    carry: h_{−1}, leaves [B, ...]; zeros if None.
    truncation: k, for truncated backpropagation through time. In the backward pass no gradient
      flows from steps k, 2k, 3k, … of a sequence to the preceding step, so the loss at step t
      reaches back t mod k steps. Steps are counted from 0, and skipped steps are not counted. The
      forward pass is unchanged. An int or a traced scalar; None, or k ≥ T, is full backpropagation.
    gradient_scale: factors [T] or [T, B] on the gradient that flows from step t to the preceding
      step, such as X_t / (1 − c_t) of `rnn_jax.estimators.artbp`. 0 cuts it, as truncation does.
      The forward pass is unchanged. A skipped step ignores its factor. None for 1.
    recurrent_gradient_scale: factors [T] or [T, B] on the part of that gradient that flows through
      `cell.recur`, such as 0 where `rnn_jax.estimators.h_detach` detaches h. The gradient of the
      params in `recur` is complete. None for 1.
    lengths: number of valid steps of each sequence, 0 to T. Past its end a sequence keeps its
      carry and its outputs are zero. Its inputs there, even NaN, affect neither values nor
      gradients. Resets past its end have no effect.
    mask: where False, the step is skipped. The carry is kept, including integer leaves such as a
      step counter; the output is zero; and the gradient passes unchanged to the preceding step. The
      inputs of a skipped step, even NaN, affect neither values nor gradients. The other steps thus
      compute what they would if the skipped steps were removed from the sequence. With `lengths`, a
      step runs only if both allow it.
    resets: where True, a new sequence starts at that step, with a carry of zeros.
      Truncation counts steps from there. A reset takes effect even if `mask` skips its step.
    reverse: whether to run from the last step to the first. With `lengths`, each sequence then
      starts at its own last valid step.
    remat: what the backward pass recomputes instead of storing it. `none`: nothing. `step`: the
      intermediate values of every step. `sqrt`: blocks of √T steps, including their input
      projections, for O(√T) memory in addition to xs and ys. (The projections of a stochastic cell
      that is given a key are stored.)
    probe: zeros from `gradient_probe`; their gradient is ‖dL/dh_t‖, or 0 at a skipped step. Norms
      are computed in at least float32; for a carry in half precision, the probe may be in float32.
    clip_carry: c, for gradient clipping inside backpropagation through time. Each example's
      dL/dh_t, all leaves of the carry together, is scaled to a norm of at most c before it flows
      into the step's params and to earlier steps; skipped steps do not clip. The probe measures the
      norm before clipping. The forward pass is unchanged. Choose c for the loss that is
      differentiated: a mean over B examples, for instance, gives each example's dL/dh_t a factor
      1/B. A number or a traced scalar. None or inf disables clipping; with any other value the
      result has no forward-mode derivative.
    scan_unroll: number of steps in one iteration of the compiled loop, like `unroll` of
      `jax.lax.scan`. On a CPU 1 is fastest.
    key: random key, for stochastic cells.
    forward_mode: whether the result has a forward-mode derivative (`jax.jvp`, `jax.jacfwd`), which
      makes reverse mode slower. Forward-over-reverse mode does not need it.
    method: `loop` runs one step after another. `associative` computes all steps at once in O(log T)
      rounds, for accelerators, where T small steps are slow. It is for cells that are linear and
      diagonal in their carry and have a `cell.linear` (such as lru and mingru), and requires
      remat="none", no clip_carry and no gradient_scale. It matches `loop` up to rounding, in value
      and derivatives, except that NaN and inf propagate through a reset (0 · NaN is NaN).
  Returns:
    (final carry, ys): the carry after the last step, leaves [B, ...], and the outputs, leaves
    [T, B, ...] in the order of xs.
  Raises:
    TypeError: if an argument has the wrong type. The message names the argument.
    ValueError: if an argument has an invalid shape or value. The message names the argument.
  """
  arguments.check_names(unknown)
  checks.instance("cell", cell, Cell)
  xs = checks.array("xs", xs, "floats", "integers")
  num_steps, batch_size = arguments.check_xs(xs)
  checks.choice("remat", remat, arguments.REMAT)
  checks.integer("scan_unroll", scan_unroll)
  checks.boolean("reverse", reverse)
  checks.boolean("forward_mode", forward_mode)
  arguments.check_method(method, cell, remat, clip_carry, gradient_scale)
  arguments.check_symbolic(num_steps, method, remat)
  if clip_carry is not None:
    clipping.check("clip_carry", clip_carry)
  if key is not None:
    checks.key("key", key)
  if lengths is not None:
    arguments.check_lengths(lengths, num_steps, batch_size)
  for name, a in (("mask", mask), ("resets", resets)):
    if a is not None:
      arguments.check_booleans(name, a, num_steps, batch_size)
  valid = valid_steps(num_steps, lengths, mask)
  if resets is not None:
    resets, within = jnp.asarray(resets), valid_steps(num_steps, lengths, None)
    resets = resets if within is None else resets & within
  if valid is not None:
    # Set the inputs of skipped steps to zero. Masking the loss alone would not suffice, because
    # 0 · NaN is NaN in the backward pass.
    xs = jnp.where(jnp.expand_dims(valid, range(2, xs.ndim)), xs, jnp.zeros_like(xs))
  cut = None
  if truncation is not None:
    check_truncation(truncation)
    cut = cut_steps(truncation, num_steps, valid, resets, reverse)
  for name, a in (
    ("gradient_scale", gradient_scale),
    ("recurrent_gradient_scale", recurrent_gradient_scale),
  ):
    if a is not None:
      arguments.check_factors(name, a, num_steps, batch_size)

  arguments.check_params("params", cell, params, xs)
  params = cell.prepare(params)
  # If `project` draws the masks of all steps at once, it cannot run block by block.
  in_blocks = remat == "sqrt" and not uses_key(cell, params, xs, key)
  # Blocks are traced. If xs are a constant of this call, `project` can check the values of tokens.
  whole = (lambda params, _, key: cell.project(params, xs, key)) if in_blocks else cell.project
  drives = jax.eval_shape(whole, params, xs, key)
  dtype = _real_dtype(drives)
  zeros = cell.initial_carry((batch_size,), dtype)
  if carry is None:
    carry = zeros
  checks.like("carry", zeros, carry)
  if probe is not None:
    check_probe(probe_shapes(zeros, num_steps), probe)
  drive = xs if in_blocks else cell.project(params, xs, key)
  if in_blocks:
    project = cell.project
    cell = cell._replace(project=lambda params, xs, _=None: project(params, xs, key))
  # The threshold for a scaled loss may lie outside the range of float16.
  clip = None if clip_carry is None else jnp.asarray(clip_carry, wide(dtype))
  scale, recurrent_scale = (
    None if a is None else jnp.asarray(a, dtype) for a in (gradient_scale, recurrent_gradient_scale)
  )
  each = StepInputs(drive, valid, resets, cut, probe, scale, recurrent_scale)
  constants, carry, inputs = vary_alike((StepConstants(params, clip), carry, each))
  if method == "associative":
    return run_associatively(cell, constants.params, carry, inputs, reverse)
  options = LoopOptions(reverse, scan_unroll, remat, forward_mode, in_blocks)
  return run_sequentially(cell, options, constants, carry, inputs)


def uses_key(cell: Cell[P, C, D], params: P, xs: Sequences, key: Key[Array, ""] | None) -> bool:
  """Returns whether `project` computes anything from the key, as only stochastic cells do."""
  if key is None:
    return False
  jaxpr = jax.make_jaxpr(cell.project)(params, xs, key).jaxpr
  return any(jaxpr.invars[-1] is var for equation in jaxpr.eqns for var in equation.invars)


def _real_dtype(drives: Drive) -> np.dtype:
  """Returns the real dtype of the drives' precision, e.g. float32 for float32 or complex64."""
  dtypes = [leaf.dtype for leaf in jax.tree.leaves(drives)]
  inexact = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
  if not inexact:
    raise ValueError(f"cell.project must return a real or complex array, got dtypes {dtypes}.")
  return jnp.finfo(inexact[0]).dtype
