"""The gradient probe for any model: dL/dh_t in every `jax.lax.scan` of a loss function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, PyTree

from rnn_jax import checks
from rnn_jax.gradient_flow.tapped_scans import Probe, run
from rnn_jax.gradient_flow.traced_scans import (
  Place,
  Scan,
  find_scans,
  includes_outputs,
  is_inexact,
  leaves_of,
  place,
  skipped_scans,
)
from rnn_jax.probes import probe_like


@struct.dataclass
class ScanGradient:
  """dL/dh_t for one scan of the loss function.

  h_t is the carry after the step that reads xs[t], also in a reverse scan.

  Attributes:
    gradients: one array for each real or complex leaf of the carry: ‖dL/dh_t‖, the norm over the
      leaf's last axis, [T, *batch]; or dL/dh_t itself, [T, *batch, H]. The derivative with respect
      to one leaf holds the other leaves of h_t constant.
    names: the name of each of these leaves in the scan's body, such as "carry.c". If the body is
      part of a library, these are the library's names.
    shapes: the shape of each of these leaves.
    length: number of steps T.
    reverse: whether the scan runs from the last step to the first.
    source: the line of code that runs the scan, as "file:line (function)". A line of an installed
      package is given only if no other code is on the stack.
    scope: the names of the enclosing modules and `jax.named_scope`s, such as "Agent/RNN_0".
    includes_outputs: whether dL/dh_t includes the outputs that step t itself computes from h_t. It
      is False if the body returns both from one inner scan, `cond` or function with its own
      derivative, because these hide how the outputs depend on h_t.
  """

  gradients: tuple[Array, ...]
  names: tuple[str, ...] = struct.field(pytree_node=False)
  shapes: tuple[tuple[int, ...], ...] = struct.field(pytree_node=False)
  length: int = struct.field(pytree_node=False)
  reverse: bool = struct.field(pytree_node=False)
  source: str = struct.field(pytree_node=False)
  scope: str = struct.field(pytree_node=False)
  includes_outputs: bool = struct.field(pytree_node=False)

  def __str__(self) -> str:
    """Returns the scan's location, and the names and shapes of its carry's leaves."""
    leaves = [f"{n} {list(s)}" for n, s in zip(self.names, self.shapes, strict=True)]
    partial = "" if self.includes_outputs else "; without the outputs of step t itself"
    where = Place(self.source, self.scope, self.length)
    return f"{where}: carry {', '.join(leaves)}{partial}"


@struct.dataclass
class ScanGradients:
  """The result of `scan_gradients`: the loss, its gradients, and dL/dh_t in every scan.

  Attributes:
    value: the loss.
    aux: the loss function's second result; None without `has_aux`.
    grads: the loss's gradient with respect to the arguments `argnums`; None without `argnums`.
    scans: the measured scans, in the order in which the loss function runs them.
    skipped: for each scan that was not measured, a message that says where it is and why.
  """

  value: Array
  aux: PyTree
  grads: PyTree
  scans: tuple[ScanGradient, ...]
  skipped: tuple[str, ...] = struct.field(pytree_node=False)


def scan_gradients(
  fn: Callable[..., Any],
  *,
  argnums: int | Sequence[int] | None = None,
  has_aux: bool = False,
  vectors: bool = False,
) -> Callable[..., ScanGradients]:
  """Returns a function that measures dL/dh_t in every `jax.lax.scan` of a loss function.

    found = scan_gradients(loss)(params, batch)
    for scan in found.scans:
      print(scan, scan.gradients)

  The model needs no changes, whether it is written in Flax, Equinox, Haiku or plain JAX: `fn` is
  traced, and its scans are found in the traced program. dL/dh_t is the total derivative of the
  loss: it includes every later step and everything between the scan and the loss.

  Scans inside `jax.jit`, `jax.checkpoint` and `jax.vmap` are measured. Scans inside another scan, a
  while loop, a `cond`, a `shard_map`, or a function with its own derivative, such as
  `rnn_jax.unroll`, are not measured but listed in `skipped`. Scans whose carry has no real or
  complex leaf are not listed. Nor are recurrences without a scan: Python loops and
  `jax.lax.associative_scan`.

  Norms are taken over the last axis of a leaf. For leaves with several feature axes, combine them
  with `jnp.linalg.norm(norms, axis=...)`. In a scan under `jax.vmap`, the mapped axis is the leaf's
  first axis.

  The gradients have the precision of the carry. In float32 and bfloat16 they are zero below about
  1e-38; for this library's cells, `lag_profile` returns the logarithms of smaller norms.

  The returned function can be jitted, and vmapped, e.g. over seeds. Its loss, its gradients and its
  cost are those of `jax.value_and_grad`, apart from the memory for dL/dh_t.

  Args:
    fn: the loss function, which returns a real scalar. Its arguments may be any pytrees. Leaves
      that are not arrays, such as the activation functions of an Equinox module, are held fixed.
    argnums: arguments whose gradient is also computed, in the same backward pass. The gradient has
      None in place of leaves that are not real or complex.
    has_aux: whether `fn` returns (loss, aux).
    vectors: whether to return dL/dh_t instead of its norm. This takes memory for T carries.
  Returns:
    A function with the same arguments as `fn`, which returns `ScanGradients`.
  Raises:
    TypeError, ValueError: if an argument has the wrong type. The returned function raises them if
      `fn` does not return a real scalar, or if `argnums` does not fit its arguments.
  """
  checks.function("fn", fn)
  checks.boolean("has_aux", has_aux)
  checks.boolean("vectors", vectors)
  several = isinstance(argnums, Sequence)
  chosen = tuple(argnums) if isinstance(argnums, Sequence) else ()
  if argnums is not None and not isinstance(argnums, Sequence):
    chosen = (argnums,)
  for position in chosen:
    checks.integer("argnums", position, minimum=0)

  @functools.wraps(fn)
  def measured(*args: Any, **kwargs: Any) -> ScanGradients:
    if chosen and max(chosen) >= len(args):
      raise ValueError(
        f"argnums must be below the number of positional arguments, {len(args)}, got {max(chosen)}."
      )

    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if _is_traced(leaf)}

    def traced(arrays: dict[int, Array]) -> Any:
      args, kwargs = jax.tree.unflatten(tree, [arrays.get(i, a) for i, a in enumerate(leaves)])
      return fn(*args, **kwargs)

    closed, result = jax.make_jaxpr(traced, return_shape=True)(arrays)
    _check_result(result, has_aux)
    scans = list(find_scans(closed.jaxpr))
    described = [_describe(scan, vectors) for scan in scans]
    probes = [scan.gradients for scan in described]
    indices = [_indices(args, position) for position in chosen]
    floats = {i: arrays[i] for each in indices for i in each if i in arrays}
    floats = {i: a for i, a in floats.items() if is_inexact(a)}

    def loss(probes: list[Probe], floats: dict[int, Array]) -> tuple[Array, PyTree]:
      operands = jax.tree.leaves({**arrays, **floats})
      probed = list(zip(scans, probes, strict=True))
      outputs = run(closed.jaxpr, closed.consts, operands, probed, vectors)
      outputs = jax.tree.unflatten(jax.tree.structure(result), outputs)
      return outputs if has_aux else (outputs, None)

    backward = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, aux), (gradients, bars) = backward(probes, floats)
    grads = tuple(
      jax.tree.unflatten(jax.tree.structure(args[position]), [bars.get(i) for i in each])
      for position, each in zip(chosen, indices, strict=True)
    )
    return ScanGradients(
      value,
      aux,
      grads if several else grads[0] if grads else None,
      tuple(
        dataclasses.replace(scan, gradients=each)
        for scan, each in zip(described, gradients, strict=True)
      ),
      tuple(skipped_scans(closed.jaxpr)),
    )

  return measured


def _is_traced(leaf: Any) -> bool:
  """Returns whether a leaf of the arguments is traced: a JAX array, or a NumPy array of floats."""
  return isinstance(leaf, jax.Array) or (isinstance(leaf, np.ndarray) and is_inexact(leaf))


def _indices(args: Sequence[Any], position: int) -> range:
  """Returns the indices of an argument's leaves among the leaves of all arguments."""
  start = len(jax.tree.leaves(list(args[:position])))
  return range(start, start + len(jax.tree.leaves(args[position])))


def _check_result(result: PyTree, has_aux: bool) -> None:
  """Checks that a loss function returned a real scalar, or with `has_aux` (scalar, aux)."""
  if has_aux and not (isinstance(result, tuple) and len(result) == 2):
    raise TypeError(f"fn must return (loss, aux) with has_aux, got {checks.shapes(result):.200}.")
  value = result[0] if has_aux else result
  if not isinstance(value, jax.ShapeDtypeStruct) or not jnp.issubdtype(value.dtype, np.floating):
    hint = "" if has_aux else " If fn returns (loss, aux), pass has_aux=True."
    raise TypeError(f"fn must return a real scalar, got {checks.shapes(value):.200}.{hint}")
  if value.shape:
    raise ValueError(f"fn must return a scalar, got {list(value.shape)}.")


def _describe(scan: Scan, vectors: bool) -> ScanGradient:
  """Returns a scan's description, whose gradients are the zeros of a probe."""
  leaves = leaves_of(scan)
  where = place(scan.equation, scan.scope)
  probes = [
    probe_like(leaf, where.length, max(leaf.ndim - 1, 0), vectors=vectors) for _, leaf in leaves
  ]
  return ScanGradient(
    tuple(probes),
    tuple(name for name, _ in leaves),
    tuple(leaf.shape for _, leaf in leaves),
    where.length,
    scan.equation.params["reverse"],
    where.source,
    where.scope,
    includes_outputs(scan),
  )
