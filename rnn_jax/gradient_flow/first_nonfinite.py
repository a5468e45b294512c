"""The first NaN or infinity of a training step: where and when it arose."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, Key, PyTree, Shaped

from rnn_jax import checks, clipping
from rnn_jax.gradient_flow.training_step import StepTensors, step_tensors
from rnn_jax.modules import DeepRNN
from rnn_jax.types import AnyArray, Carry, Params


class NonFinite(NamedTuple):
  """The first non-finite entry, in the order of computation.

  Attributes:
    phase: `params` (before the step), `forward`, `backward` or `update`.
    layer: from 0, as in the names of the params, `layers_0`; None outside the layers.
    time: from 0; None for tensors without time.
    tensor: in `forward` one of `xs`, `targets`, `initial_carry`, `drive`, `recurrent`, a leaf of
      the carry that leaves the step (`hidden`, `cell`), `output`, `readout`, `loss` (of a step),
      `mean_loss`. In `backward` the same names for dL/d of them, the name of a param for its
      gradient, and `grad_norm`, which may overflow although every entry is finite. Otherwise the
      name of a param.
    entry: index of the entry; (example, unit) for a tensor at a time.
    value: `nan` or `inf`, which stands for −inf, too.
    largest: largest finite absolute value of any entry up to there.
    overflow: whether `largest` is above the square root of the largest float, 1.8e19 in float32:
      numbers grew until their products left the range, and nothing else need be wrong.
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
  """A tensor of the training step, or its part at one time; attributes as in NonFinite."""

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
  **time: Any,
) -> NonFinite | None:
  """Recomputes a training step and returns its first NaN or infinity.

    params → xs, targets → layer 0: t = 0 … T−1 → layer 1 … → readout → loss → mean loss
    → dL/dreadout: t = T−1 … 0 → top layer: t = T−1 … 0 → … → dL/dparams → ‖dL/dparams‖ → update

  Within a layer and a step the order is drive, recurrent, carry, output, and the reverse in the
  backward pass. All steps of a lower layer come before those of a higher one; with `reverse`, time
  runs the other way. In the backward pass, h_t is the carry that leaves step t and dL/dh_t its
  total derivative, of the mean loss of the batch. A derivative that breaks inside step t is found
  in `recurrent` or `drive` at t, or, if it reaches h_{t−1}, in that leaf at t−1.

  Values that the step ignores do not count: padding (beyond `lengths`), and readout, target and
  loss where the mask is False. Their gradients count, as they do in training.

  Cost: a training step that keeps every tensor, compiled once for the cells and shapes, and a check
  of each tensor on the host. Meant for a step that has gone wrong; it cannot be jitted.

  Args:
    model, loss, carries, key, **time: see `rnn_jax.training.update`.
    params: of the model, before the update.
    batch: xs [T, B, D] or tokens [T, B], targets, mask [T, B], lengths [B] or None.
    optimizer, opt_state: to check the updated params, too.
  Returns:
    The NonFinite; None if everything is finite.
  Raises:
    TypeError, ValueError: a pooled network, whose loss does not belong to a step; or what
      `rnn_jax.training.update` refuses.
  """
  checks.instance("model", model, DeepRNN)
  if model.pooled:
    raise ValueError("model must not be pooled, since a pooled loss belongs to no step.")
  if not hasattr(batch, "mask"):
    raise TypeError(f"batch must be a Batch, from rnn_jax.tasks, got {checks.shown(batch)}.")
  checks.function("loss", loss)
  if key is not None:
    checks.key("key", key)
  if carries is not None:
    checks.per_layer("carries", carries, len(model.cells))
  if optimizer is not None:
    checks.instance("optimizer", optimizer, optax.GradientTransformation)
    if opt_state is None:
      raise ValueError("opt_state must be given with an optimizer, got None.")
  if isinstance(time.get("truncation"), int):  # traced below, where its value is unknown
    checks.integer("truncation", time["truncation"])
  time.pop("remat", None)  # rematerialized values equal stored ones
  if time.get("clip_carry") is not None:
    clipping.check("clip_carry", time["clip_carry"])
    time["clip_carry"] /= batch.mask.shape[1]  # one example's share of the mean loss
  if batch.lengths is not None:
    time["lengths"] = batch.lengths
  model = model.clone(cells=tuple(model.cells))  # makes the model hashable
  step = step_tensors(model, loss, params, batch, carries, key, **time)
  steps = range(batch.mask.shape[0])
  order = steps[::-1] if time.get("reverse") else steps
  tensors = [
    _params("params", params),
    _inputs(batch, time.get("lengths")),
    _forward(step, carries, order),
    _results(step, batch.mask),
    _backward(step, order),
  ]
  if optimizer is not None:
    tensors.append(_updated(optimizer, step.grads, opt_state, params))
  return _first(itertools.chain.from_iterable(tensors))


def describe_nonfinite(found: NonFinite) -> str:
  """Returns one line: `backward, layers_0, time 17: dL/d(hidden) is inf at [3, 5], …`.

  Raises:
    TypeError: `found` is not a NonFinite.
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


# Tensors in the order of computation. All of these are lazy: the search ends at the first
# non-finite entry.


def _inputs(batch: PyTree, lengths: Int[AnyArray, " B"] | None) -> Iterator[_Tensor]:
  """Yields xs and targets, without padding and masked steps."""
  steps = range(batch.mask.shape[0])
  xs = batch.xs
  if lengths is not None:
    xs = _where(np.arange(len(steps))[:, None] < np.asarray(lengths)[None], xs)
  inputs = {"xs": xs, "targets": _where(batch.mask, batch.targets)}
  yield from _by_time("forward", None, inputs, steps)


def _forward(
  step: StepTensors, carries: Sequence[Carry] | None, order: Iterable[int]
) -> Iterator[_Tensor]:
  """Yields the tensors of the layers, the layer nearest the input first."""
  for i, layer in enumerate(step.forward.layers):
    if carries is not None:
      yield from _timeless("forward", i, {"initial_carry": carries[i]})
    yield from _by_time("forward", i, layer._asdict(), order)


def _results(step: StepTensors, mask: Bool[AnyArray, "T B"]) -> Iterator[_Tensor]:
  """Yields readout and loss without masked steps, and the mean loss."""
  results = {"readout": step.forward.readout, "loss": step.forward.loss}
  masked = {name: _where(mask, a) for name, a in results.items()}
  yield from _by_time("forward", None, masked, range(len(mask)))
  yield from _timeless("forward", None, {"mean_loss": step.forward.mean_loss})


def _backward(step: StepTensors, order: Sequence[int]) -> Iterator[_Tensor]:
  """Yields the cotangents, the top layer first, then the gradients and their norm."""
  readout = {"readout": step.cotangents.readout}
  yield from _by_time("backward", None, readout, reversed(range(len(order))))
  for i, layer in reversed(list(enumerate(step.cotangents.layers))):
    backwards = dict(reversed(layer._asdict().items()))
    yield from _by_time("backward", i, backwards, order[::-1])
  yield from _params("backward", step.grads)
  yield from _timeless("backward", None, {"grad_norm": step.grad_norm})


def _updated(
  optimizer: optax.GradientTransformation,
  grads: Params,
  opt_state: optax.OptState | None,
  params: Params,
) -> Iterator[_Tensor]:
  """Yields the updated params."""
  updates, _ = jax.jit(optimizer.update)(grads, opt_state, params)
  yield from _params("update", optax.apply_updates(params, updates))


def _params(phase: str, tree: Params) -> Iterator[_Tensor]:
  """Yields the leaves of a pytree with the structure of the model's params."""
  for name, a in _named(tree).items():
    top = name.split(".")[0]
    layer = int(top.removeprefix("layers_")) if top.startswith("layers_") else None
    yield _Tensor(phase, layer, None, name, a)


def _timeless(phase: str, layer: int | None, tree: PyTree) -> Iterator[_Tensor]:
  """Yields the leaves of a pytree without a time axis."""
  for name, a in _named(tree).items():
    yield _Tensor(phase, layer, None, name, a)


def _by_time(
  phase: str, layer: int | None, trees: Mapping[str, PyTree], steps: Iterable[int]
) -> Iterator[_Tensor]:
  """Yields the leaves [T, ...] step by step; within a step, in the order of `trees`."""
  # One tree at a time: jax sorts the keys of a dict.
  named = {name: a for tree in trees.items() for name, a in _named(dict([tree])).items()}
  for t in steps:
    for name, a in named.items():
      yield _Tensor(phase, layer, t, name, a[t])


def _where(keep: Bool[AnyArray, "T B"], a: Shaped[AnyArray, "T B *rest"]) -> np.ndarray:
  """Returns `a` with zeros where `keep` is False."""
  keep = np.asarray(keep).reshape(*keep.shape, *(1,) * (a.ndim - keep.ndim))
  return np.where(keep, np.asarray(a), np.zeros((), a.dtype))


def _named(tree: PyTree) -> dict[str, np.ndarray]:
  """Returns the real and complex leaves, by their paths."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
  # The carry of a cell with one leaf has no name of its own.
  names = ["hidden" if name == "carry" else name.removeprefix("carry.") for name in names]
  named = zip(names, (leaf for _, leaf in leaves), strict=True)
  return {name: np.asarray(a) for name, a in named if jnp.issubdtype(a.dtype, jnp.inexact)}


def _first(tensors: Iterable[_Tensor]) -> NonFinite | None:
  """Returns the first non-finite entry of the tensors; None if there is none."""
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
