"""The first value of a training step that is NaN or infinite: where and when it arose."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax.losses import masked_mean
from rnn_jax.modules import DeepRNN
from rnn_jax.probes import tree_norm
from rnn_jax.time_loop import unroll
from rnn_jax.types import Array, Carry, Cell, Drive, Params


class NonFinite(NamedTuple):
  """The first entry that is not finite, in the order of computation.

  Attributes:
    phase: `params` (as the step found them), `forward`, `backward` or `update`.
    layer: from 0, as in the params' names, `layers_0`; None outside of the layers.
    time: from 0; None for what has no time.
    tensor: forward `xs`, `targets`, `initial_carry`, `drive`, `recurrent`, a leaf of the carry that
      leaves the step (`hidden`, `cell`), `output`, `readout`, `loss` (of a step), `mean_loss`;
      backward the same names for dL/d of it, the name of a param for its gradient, and `grad_norm`,
      which may overflow though every entry is finite; else the name of a param.
    entry: its index; for a tensor at a time, (example, unit).
    value: `nan` or `inf`, which stands for −inf too.
    largest: the largest finite size of any entry up to there.
    overflow: whether that is above the square root of the largest float, 1.8e19 in float32: numbers
      grew until products left the range, and nothing else need be wrong.
  """

  phase: str
  layer: int | None
  time: int | None
  tensor: str
  entry: tuple[int, ...]
  value: str
  largest: float
  overflow: bool


class _Record(NamedTuple):
  """What a layer computes, in this order, at each step; leaves [T, B, ...]."""

  drive: Drive
  recurrent: Any
  carry: Carry
  output: Any


class _Forward(NamedTuple):
  """What the network computes, in this order."""

  layers: tuple[_Record, ...]
  readout: Array  # [T, B, O]
  loss: Array  # [T, B]
  mean_loss: Array


class _Slots(NamedTuple):
  """Zeros that are added where a forward tensor is made, so that their gradient is dL/d of it."""

  layers: tuple[_Record, ...]
  readout: Array


# (phase, layer, time, name, array)
_Tensor = tuple[str, int | None, int | None, str, np.ndarray]


def first_nonfinite(
  model: DeepRNN,
  params: Any,
  batch: Any,
  loss: Callable[[Array, Array], Array],
  *,
  carries: Sequence[Carry] | None = None,
  optimizer: optax.GradientTransformation | None = None,
  opt_state: Any = None,
  key: Array | None = None,
  **time: Any,
) -> NonFinite | None:
  """Computes a training step again and says where its first NaN or infinity arose.

    params → xs, targets → layer 0: t = 0 … T−1 → layer 1 … → readout → loss → mean loss
    → dL/dreadout: t = T−1 … 0 → top layer: t = T−1 … 0 → … → dL/dparams → ‖dL/dparams‖ → update

  Within a layer and a step: drive, recurrent, carry, output, and backward the other way round. Of a
  lower layer's late step and a higher layer's early one the lower layer's comes first; with
  `reverse`, a layer's time runs the other way. Backward, h_t is the carry that leaves step t and
  dL/dh_t its total derivative, of the mean loss of the batch: a derivative that breaks inside of
  step t is found in `recurrent` or `drive` at t, or, on the way of h_{t−1}, in its leaf at t−1.

  What the step itself ignores does not count: padding (beyond `lengths`), and readout, target and
  loss where the mask is False; their gradients count, as they do in training.

  Cost: a training step that keeps every tensor, compiled once for the cells and shapes,
  and a look at each of them on the host. To be run when something has gone wrong; not jit-able.

  Args:
    model, loss, carries, key, **time: as `rnn_jax.training.update` takes them.
    params: of the model, before the update.
    batch: xs [T, B, D] or tokens [T, B], targets, mask [T, B], lengths [B] or None.
    optimizer, opt_state: to look at the updated params too.
  Returns:
    The place; None if all is finite.
  Raises:
    ValueError: a pooled network, whose loss belongs to no step.
  """
  if model.pooled:
    raise ValueError("model must not be pooled, since a pooled loss belongs to no step.")
  time.pop("remat", None)  # what is stored and what is computed again are the same
  if time.get("clip_carry") is not None:
    time["clip_carry"] /= batch.mask.shape[1]  # of the mean loss, an example has a share
  if batch.lengths is not None:
    time["lengths"] = batch.lengths
  model = model.clone(cells=tuple(model.cells))  # to be hashed
  forward, grads, cotangents, grad_norm = _training_step(
    model, loss, params, batch, carries, key, **time
  )
  lengths = time.get("lengths")
  steps = range(batch.mask.shape[0])
  order = steps[::-1] if time.get("reverse") else steps

  def tensors() -> Iterator[_Tensor]:
    yield from _params("params", params)
    xs = batch.xs
    if lengths is not None:
      xs = _where(np.arange(len(steps))[:, None] < np.asarray(lengths)[None], xs)
    inputs = {"xs": xs, "targets": _where(batch.mask, batch.targets)}
    yield from _by_time("forward", None, inputs, steps)
    for i, record in enumerate(forward.layers):
      if carries is not None:
        yield from _whole("forward", i, {"initial_carry": carries[i]})
      yield from _by_time("forward", i, record._asdict(), order)
    ends = {"readout": forward.readout, "loss": forward.loss}
    ends = {name: _where(batch.mask, a) for name, a in ends.items()}
    yield from _by_time("forward", None, ends, steps)
    yield from _whole("forward", None, {"mean_loss": forward.mean_loss})
    yield from _by_time("backward", None, {"readout": cotangents.readout}, steps[::-1])
    for i, record in reversed(list(enumerate(cotangents.layers))):
      backwards = dict(reversed(record._asdict().items()))
      yield from _by_time("backward", i, backwards, order[::-1])
    yield from _params("backward", grads)
    yield from _whole("backward", None, {"grad_norm": grad_norm})
    if optimizer is not None:
      updates, _ = jax.jit(optimizer.update)(grads, opt_state, params)
      yield from _params("update", optax.apply_updates(params, updates))

  return _first(tensors())


def describe_nonfinite(place: NonFinite) -> str:
  """The place in words: `backward, layers_0, time 17: dL/d(hidden) is inf at [3, 5], …`."""
  layer = None if place.layer is None else f"layers_{place.layer}"
  layer = None if layer and place.tensor.startswith(layer) else layer
  time = None if place.time is None else f"time {place.time}"
  where = ", ".join(part for part in (place.phase, layer, time) if part)
  of_loss = place.phase == "backward" and place.tensor != "grad_norm"
  name = f"dL/d({place.tensor})" if of_loss else place.tensor
  at = f" at {list(place.entry)}" if place.entry else ""
  cause = ": an overflow" if place.overflow else ""
  return f"{where}: {name} is {place.value}{at}{cause}, after entries up to {place.largest:.2g}"


@functools.partial(
  jax.jit, static_argnames=("model", "loss", "reverse", "scan_unroll", "forward_mode")
)
def _training_step(
  model: DeepRNN,
  loss: Callable[[Array, Array], Array],
  params: Any,
  batch: Any,
  carries: Sequence[Carry] | None,
  key: Array | None,
  **time: Any,
) -> tuple[_Forward, Any, _Slots, Array]:
  """Every tensor of a forward pass, dL/dparams, dL/d of the forward tensors, ‖dL/dparams‖."""
  dropout_key, cell_key = (None, None) if key is None else jax.random.split(key)

  def objective(params: Any, slots: _Slots | None) -> tuple[Array, _Forward]:
    network: Callable[..., Any] = model.apply
    layers, readout = network(
      {"params": params},
      batch.xs,
      model.cell_params({"params": params}),
      carries,
      slots,
      key=cell_key,
      deterministic=key is None,
      rngs=None if key is None else {"dropout": dropout_key},
      method=_network,
      **time,
    )
    losses = loss(readout, batch.targets)
    mean = masked_mean(losses, batch.mask)
    return mean, _Forward(layers, readout, losses, mean)

  shapes = jax.eval_shape(objective, params, None)[1]
  slots = _zeros(_Slots(shapes.layers, shapes.readout))
  # A counter in a carry is an integer; its derivative is of no size.
  gradient = jax.grad(objective, argnums=(0, 1), has_aux=True, allow_int=True)
  (grads, cotangents), forward = gradient(params, slots)
  return forward, grads, cotangents, tree_norm(grads)


def _network(
  model: DeepRNN,
  xs: Array,
  params: Sequence[Params],
  carries: Sequence[Carry] | None,
  slots: _Slots | None,
  *,
  deterministic: bool,
  key: Array | None = None,
  **time: Any,
) -> tuple[tuple[_Record, ...], Array]:
  """`DeepRNN.__call__` layer by layer, with all that is computed on the way; and the readout."""
  ys, records = model.encode(xs), []
  if carries is None and model.learned_carry:
    carries = model.learned_carries(ys.shape[1])
  for i, cell in enumerate(model.cells):
    if i > 0:
      ys = model.between(ys, deterministic=deterministic)
    watched = _watched(cell, params[i], None if slots is None else slots.layers[i])
    carry = watched.initial_carry(ys.shape[1:2])
    if carries is not None:
      carry = (carries[i], carry[1])
    layer_key = None if key is None else jax.random.fold_in(key, i)
    _, record = unroll(watched, params[i], ys, carry, key=layer_key, **time)
    records.append(record)
    ys = record.output
  readout = model.readout(ys)
  return tuple(records), readout if slots is None else readout + slots.readout


def _watched(cell: Cell, params: Params, slots: _Record | None) -> Cell:
  """The cell, with its record as the output; its carry holds the recurrent product too."""

  def initial_carry(batch_shape: tuple[int, ...], dtype: Any = float) -> Any:
    carry = cell.initial_carry(batch_shape, dtype)
    prepared = jax.eval_shape(cell.prepare, params)
    return carry, _zeros(jax.eval_shape(cell.recur, prepared, carry))

  def project(params: Params, xs: Array, key: Array | None = None) -> Any:
    drive = cell.project(params, xs, key)
    return drive if slots is None else jax.tree.map(jnp.add, drive, slots.drive), slots

  def recur(params: Params, carry: Any) -> Any:
    return cell.recur(params, carry[0])

  def update(params: Params, carry: Any, drive: Any, recurrent: Any) -> Any:
    drive, slot = drive
    if slot is not None:
      recurrent = jax.tree.map(jnp.add, recurrent, slot.recurrent)
    new = cell.update(params, carry[0], drive, recurrent)
    return new if slot is None else jax.tree.map(jnp.add, new, slot.carry), recurrent

  def output(params: Params, carry: Any, drive: Any) -> _Record:
    (new, recurrent), (drive, slot) = carry, drive
    y = cell.output(params, new, drive)
    y = y if slot is None else jax.tree.map(jnp.add, y, slot.output)
    return _Record(drive, recurrent, new, y)

  return Cell(
    init=cell.init,
    initial_carry=initial_carry,
    prepare=cell.prepare,
    project=project,
    recur=recur,
    update=update,
    output=output,
  )


def _zeros(shapes: Any) -> Any:
  return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


def _where(keep: Any, a: Any) -> np.ndarray:
  """`a` with zeros where its leading axes [T, B] are not to be kept."""
  keep = np.asarray(keep).reshape(*keep.shape, *(1,) * (a.ndim - keep.ndim))
  return np.where(keep, np.asarray(a), np.zeros((), a.dtype))


def _named(tree: Any) -> dict[str, np.ndarray]:
  """Leaves by the names on the way to them; those without NaN and infinities are left out."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
  # The one state of a plain cell has no name of its own.
  names = ["hidden" if name == "carry" else name.removeprefix("carry.") for name in names]
  named = zip(names, (leaf for _, leaf in leaves), strict=True)
  return {name: np.asarray(a) for name, a in named if jnp.issubdtype(a.dtype, jnp.inexact)}


def _params(phase: str, tree: Any) -> Iterator[_Tensor]:
  """What has the structure of the model's params."""
  for name, a in _named(tree).items():
    top = name.split(".")[0]
    layer = int(top.removeprefix("layers_")) if top.startswith("layers_") else None
    yield phase, layer, None, name, a


def _whole(phase: str, layer: int | None, tree: Any) -> Iterator[_Tensor]:
  """Tensors that have no time."""
  for name, a in _named(tree).items():
    yield phase, layer, None, name, a


def _by_time(
  phase: str, layer: int | None, parts: Mapping[str, Any], steps: Iterable[int]
) -> Iterator[_Tensor]:
  """Tensors [T, ...], step by step; in a step, in the order of `parts`."""
  # One by one: as a pytree, a dict is in the order of its names.
  named = {name: a for part in parts.items() for name, a in _named(dict([part])).items()}
  for t in steps:
    for name, a in named.items():
      yield phase, layer, t, name, a[t]


def _first(tensors: Iterable[_Tensor]) -> NonFinite | None:
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
