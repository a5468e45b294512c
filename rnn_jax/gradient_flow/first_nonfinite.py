"""The first NaN or infinity of a training step, and the layer, time step and tensor it arose in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Key, PyTree, Shaped

from rnn_jax import checks, clipping, loss_scaling, precision
from rnn_jax.gradient_flow.training_step import StepTensors, step_tensors
from rnn_jax.modules import DeepRNN
from rnn_jax.probes import tree_norm
from rnn_jax.time_loop import valid_steps
from rnn_jax.types import AnyArray, Carry, Params, floats_of, with_floats


class NonFinite(NamedTuple):
  """The first non-finite entry of a training step, in the order of computation.

  Attributes:
    phase: `params` (the params before the step), `forward`, `backward` or `update` (the params
      after the step).
    layer: index of the layer, from 0, as in `layers_0`; None for tensors outside the layers.
    time: time step, from 0; None for tensors without a time axis.
    tensor: name of the tensor, by phase:
      - `forward`: `xs`, `targets`, `initial_carry`, `drive` (the input's part of the
        pre-activation), `recurrent` (the carry's part), a leaf of the carry after the step
        (`hidden`, `cell`), `output`, `readout`, `loss` (at one step), `mean_loss` or
        `penalty`.
      - `backward`: a forward tensor's name for dL/d of that tensor, a param's name for its
        gradient, or `grad_norm`, which may overflow although every gradient is finite.
      - `params`, `update`: the param's name.
    entry: index of the entry in the tensor; (example, unit) in a tensor at one time step.
    value: `nan`, or `inf` for either infinity.
    largest: largest finite absolute value in all tensors up to and including this one.
    overflow: whether `largest` exceeds the square root of the dtype's largest float (1.8e19 in
      float32). If so, values probably grew until a product overflowed, and nothing else is wrong.
  """

  phase: str
  layer: int | None
  time: int | None
  tensor: str
  entry: tuple[int, ...]
  value: str
  largest: float
  overflow: bool


class _Tensor(NamedTuple):
  """A tensor of the training step, or its slice at one time step, labeled as in `NonFinite`."""

  phase: str
  layer: int | None
  time: int | None
  name: str
  array: np.ndarray


def first_nonfinite(
  model: DeepRNN,
  params: Params,
  batch: PyTree,
  loss: Callable[[Array, Array], Array],
  *,
  carries: Sequence[Carry] | None = None,
  optimizer: optax.GradientTransformation | None = None,
  opt_state: optax.OptState | None = None,
  key: Key[Array, ""] | None = None,
  penalty: Callable[[Params, PyTree], Array] | None = None,
  dtype: DTypeLike | None = None,
  **time: Any,
) -> NonFinite | None:
  """Recomputes a training step and returns its first NaN or infinity, in the order of computation:

    params → xs, targets → layer 0: t = 0 … T−1 → layer 1 … → readout → loss → mean loss
    → dL/dreadout: t = T−1 … 0 → top layer: t = T−1 … 0 → … → dL/dparams → ‖dL/dparams‖ → update

  Within a step of a layer, the forward order is drive (the input's part of the pre-activation),
  recurrent (the carry's part), carry, output; the backward order is the reverse. All steps of a
  layer come before the first step of the layer above. With `reverse=True`, the steps of every layer
  come in the opposite order.

  In the backward pass, h_t is the carry after step t, and dL/dh_t is the total derivative of the
  batch's mean loss. If a derivative becomes non-finite inside step t, the tensor reported is
  `recurrent` or `drive` at t. If only dL/dh_{t−1} is affected, it is the leaf of the carry at t−1.

  Values that the loss ignores are not checked: xs at steps that are skipped because of `lengths` or
  the argument `mask`, and the readout, target and loss where `batch.mask` is False. Cotangents are
  checked at all steps, because training uses them.

  Cost: a training step that keeps every tensor, compiled once for the cells and shapes, and a check
  of each tensor on the host. The function is meant for a step that has already failed, and cannot
  be jitted.

  Args:
    model, loss, carries, key, penalty, dtype, **time: see `rnn_jax.training.update`. The tensor
      `penalty` comes after the mean loss. Of the backward pass, only the gradients of params
      include it.
    params: the model's params before the update.
    batch: xs [T, B, D] or tokens [T, B], targets, mask [T, B], lengths [B] or None.
    optimizer, opt_state: if given, the updated params are checked, too. With loss scaling, all
      derivatives are those of the scaled loss.
  Returns:
    The NonFinite; None if everything is finite.
  Raises:
    TypeError, ValueError: if `model` is pooled, because a pooled loss belongs to no single step; or
      if the arguments would make `rnn_jax.training.update` raise.
  """
  checks.instance("model", model, DeepRNN)
  if model.pooled:
    raise ValueError("model must not be pooled, since a pooled loss belongs to no step.")
  if not hasattr(batch, "mask"):
    raise TypeError(f"batch must be a Batch, from rnn_jax.tasks, got {checks.shown(batch)}.")
  for name, function in (("loss", loss), ("penalty", penalty)):
    if name == "loss" or function is not None:
      checks.function(name, function)
  if key is not None:
    checks.key("key", key)
  if carries is not None:
    checks.per_layer("carries", carries, len(model.cells))
  if optimizer is not None:
    checks.instance("optimizer", optimizer, optax.GradientTransformation)
    if opt_state is None:
      raise ValueError("opt_state must be given with an optimizer, got None.")
  if isinstance(time.get("truncation"), int):  # checked here, because `step_tensors` traces it
    checks.integer("truncation", time["truncation"])
  time.pop("remat", None)  # rematerialization does not change values
  if time.get("clip_carry") is not None:
    clipping.check("clip_carry", time["clip_carry"])
    # In the batch's mean loss, each example's dL/dh_t is scaled by 1/B.
    time["clip_carry"] /= batch.mask.shape[1]
  if batch.lengths is not None:
    time["lengths"] = batch.lengths
  scaling = None if optimizer is None else loss_scaling.state_of(opt_state)
  scale = None if scaling is None else jnp.asarray(scaling.scale)
  if scale is not None and "clip_carry" in time and time["clip_carry"] is not None:
    time["clip_carry"] *= scale
  if dtype is not None:
    dtype = precision.check_dtype("dtype", dtype)
  model = model.clone(cells=tuple(model.cells))  # a tuple, so that the model is hashable
  step = step_tensors(model, loss, params, batch, carries, key, dtype, scale, **time)
  value = {}
  if penalty is not None:
    step, value["penalty"] = _with_penalty(step, penalty, params, batch, scale)
  steps = range(batch.mask.shape[0])
  order = steps[::-1] if time.get("reverse") else steps
  tensors = [
    _params("params", params),
    _inputs(batch, valid_steps(len(steps), time.get("lengths"), time.get("mask"))),
    _forward(step, carries, order),
    _results(step, batch.mask),
    _timeless("forward", None, value),
    _backward(step, order),
  ]
  if optimizer is not None:
    grads = step.grads if scale is None else loss_scaling.unscaled(step.grads, scale)
    tensors.append(_updated(optimizer, grads, opt_state, params))
  return _first(itertools.chain.from_iterable(tensors))


def describe_nonfinite(found: NonFinite) -> str:
  """Formats `found` as one line: `backward, layers_0, time 17: dL/d(hidden) is inf at [3, 5], …`.

  Raises:
    TypeError: if `found` is not a NonFinite.
  """
  checks.instance("found", found, NonFinite, "first_nonfinite")
  layer = None if found.layer is None else f"layers_{found.layer}"
  layer = None if layer and found.tensor.startswith(layer) else layer
  time = None if found.time is None else f"time {found.time}"
  where = ", ".join(part for part in (found.phase, layer, time) if part)
  is_derivative = found.phase == "backward" and found.tensor != "grad_norm"
  name = f"dL/d({found.tensor})" if is_derivative else found.tensor
  at = f" at {list(found.entry)}" if found.entry else ""
  cause = ": an overflow" if found.overflow else ""
  return f"{where}: {name} is {found.value}{at}{cause}, after entries up to {found.largest:.2g}"


# The functions below yield tensors in the order of computation. They are generators, because the
# search stops at the first non-finite entry.


def _inputs(batch: PyTree, valid: Bool[Array, "T B"] | None) -> Iterator[_Tensor]:
  """Yields xs and targets step by step, with zeros in skipped steps and in masked targets."""
  steps = range(batch.mask.shape[0])
  xs = batch.xs
  if valid is not None:
    xs = _where(valid, xs)
  inputs = {"xs": xs, "targets": _where(batch.mask, batch.targets)}
  yield from _by_time("forward", None, inputs, steps)


def _forward(
  step: StepTensors, carries: Sequence[Carry] | None, order: Iterable[int]
) -> Iterator[_Tensor]:
  """Yields each layer's forward tensors step by step, the layer nearest the input first.

  Args:
    step: all tensors of the training step.
    carries: the initial carry of each layer, yielded before the layer's steps; None to skip it.
    order: the time steps in the order in which the layers run them.
  """
  for i, layer in enumerate(step.forward.layers):
    if carries is not None:
      yield from _timeless("forward", i, {"initial_carry": carries[i]})
    yield from _by_time("forward", i, layer._asdict(), order)


def _results(step: StepTensors, mask: Bool[AnyArray, "T B"]) -> Iterator[_Tensor]:
  """Yields readout and loss step by step, zeroed where the mask is False, then the mean loss."""
  results = {"readout": step.forward.readout, "loss": step.forward.loss}
  masked = {name: _where(mask, a) for name, a in results.items()}
  yield from _by_time("forward", None, masked, range(len(mask)))
  yield from _timeless("forward", None, {"mean_loss": step.forward.mean_loss})


def _backward(step: StepTensors, order: Sequence[int]) -> Iterator[_Tensor]:
  """Yields the cotangents of the readout and of each layer, top layer first, then the gradients.

  Args:
    step: all tensors of the training step.
    order: the time steps in the order in which the forward pass runs them.
  """
  readout = {"readout": step.cotangents.readout}
  yield from _by_time("backward", None, readout, reversed(range(len(order))))
  for i, layer in reversed(list(enumerate(step.cotangents.layers))):
    backwards = dict(reversed(layer._asdict().items()))
    yield from _by_time("backward", i, backwards, order[::-1])
  yield from _params("backward", step.grads)
  yield from _timeless("backward", None, {"grad_norm": step.grad_norm})


def _with_penalty(
  step: StepTensors,
  penalty: Callable[[Params, PyTree], Array],
  params: Params,
  batch: PyTree,
  scale: Array | None,
) -> tuple[StepTensors, Array]:
  """Returns (the step with the penalty's gradient added to its own, the penalty).

  The step's gradient is that of the loss times `scale`; so is the penalty's that is added.
  """

  @jax.jit
  @jax.value_and_grad
  def value_of(floats: Params) -> Array:
    return penalty(with_floats(floats, params), batch)

  value, more = value_of(floats_of(params))
  if scale is not None:
    more = jax.tree.map(lambda a: a * scale, more)
  grads = jax.tree.map(jnp.add, step.grads, more)
  return step._replace(grads=grads, grad_norm=tree_norm(grads)), value


def _updated(
  optimizer: optax.GradientTransformation,
  grads: Params,
  opt_state: optax.OptState | None,
  params: Params,
) -> Iterator[_Tensor]:
  """Yields the params after the optimizer's update."""
  floats = floats_of(params)
  updates, _ = jax.jit(optimizer.update)(grads, opt_state, floats)
  yield from _params("update", optax.apply_updates(floats, updates))


def _params(phase: str, tree: Params) -> Iterator[_Tensor]:
  """Yields the leaves of the model's params, or of a pytree with the same structure."""
  for name, a in _named(tree).items():
    top = name.split(".")[0]
    layer = int(top.removeprefix("layers_")) if top.startswith("layers_") else None
    yield _Tensor(phase, layer, None, name, a)


def _timeless(phase: str, layer: int | None, tree: PyTree) -> Iterator[_Tensor]:
  """Yields the leaves of a pytree whose leaves have no time axis."""
  for name, a in _named(tree).items():
    yield _Tensor(phase, layer, None, name, a)


def _by_time(
  phase: str, layer: int | None, trees: Mapping[str, PyTree], steps: Iterable[int]
) -> Iterator[_Tensor]:
  """Yields the slices of leaves [T, ...] step by step; within a step, in the order of `trees`."""
  # Each tree is flattened separately, because flattening the whole dict would sort its keys.
  named = {name: a for tree in trees.items() for name, a in _named(dict([tree])).items()}
  for t in steps:
    for name, a in named.items():
      yield _Tensor(phase, layer, t, name, a[t])


def _where(keep: Bool[AnyArray, "T B"], a: Shaped[AnyArray, "T B *rest"]) -> np.ndarray:
  """Returns `a` with zeros where `keep` is False."""
  keep = np.asarray(keep).reshape(*keep.shape, *(1,) * (a.ndim - keep.ndim))
  return np.where(keep, np.asarray(a), np.zeros((), a.dtype))


def _named(tree: PyTree) -> dict[str, np.ndarray]:
  """Returns the pytree's floating-point and complex leaves as NumPy arrays, keyed by path."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
  # A carry that is a single array has the path `carry`. Report it as `hidden`.
  names = ["hidden" if name == "carry" else name.removeprefix("carry.") for name in names]
  named = zip(names, (leaf for _, leaf in leaves), strict=True)
  return {name: np.asarray(a) for name, a in named if jnp.issubdtype(a.dtype, jnp.inexact)}


def _first(tensors: Iterable[_Tensor]) -> NonFinite | None:
  """Returns the first non-finite entry of the tensors, or None if all entries are finite."""
  largest = 0.0
  for phase, layer, time, name, a in tensors:
    finite = np.isfinite(a)
    largest = max(largest, float(np.max(np.abs(a), where=finite, initial=0)))
    if not finite.all():
      index = tuple(int(i) for i in np.argwhere(~finite)[0])
      value = "nan" if np.isnan(a[index]) else "inf"
      overflow = largest > float(jnp.finfo(a.dtype).max) ** 0.5
      return NonFinite(phase, layer, time, name, index, value, largest, overflow)
  return None
