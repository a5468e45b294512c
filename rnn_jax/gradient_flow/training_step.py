"""Every tensor of a training step: the values computed in each layer, and their cotangents.

To get the cotangents, a slot (an array of zeros) is added to every tensor. The gradient of the loss
with respect to the slot is the tensor's cotangent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, PyTree

from rnn_jax import loss_scaling, precision
from rnn_jax.losses import masked_mean
from rnn_jax.modules import DeepRNN
from rnn_jax.precision import at_least_float32
from rnn_jax.probes import tree_norm
from rnn_jax.time_loop import check_params, unroll
from rnn_jax.types import Carry, Cell, Drive, Params, Shape, floats_of, with_floats


class LayerTensors(NamedTuple):
  """The tensors that a layer computes at every step, in this order; leaves [T, B, ...].

  Attributes:
    drive: the input's part of the pre-activation.
    recurrent: the carry's part of the pre-activation, from the carry before the step.
    carry: the carry after the step.
    output: the layer's output.
  """

  drive: Drive
  recurrent: PyTree[Array]
  carry: Carry
  output: PyTree[Array]


class ForwardTensors(NamedTuple):
  """The tensors of the forward pass, in the order in which they are computed."""

  layers: tuple[LayerTensors, ...]
  readout: Float[Array, "T B O"]
  loss: Float[Array, "T B"]
  mean_loss: Float[Array, ""]


class Slots(NamedTuple):
  """Zeros added to the forward tensors, so that a slot's gradient is its tensor's cotangent."""

  layers: tuple[LayerTensors, ...]
  readout: Float[Array, "T B O"]


class StepTensors(NamedTuple):
  """All tensors of a training step.

  Attributes:
    forward: the tensors of the forward pass.
    grads: dL/dparams, with None in place of integer params.
    cotangents: the cotangents of each layer's tensors and of the readout.
    grad_norm: ‖dL/dparams‖, over all params together.
  """

  forward: ForwardTensors
  grads: Params
  cotangents: Slots
  grad_norm: Float[Array, ""]


@functools.partial(
  jax.jit, static_argnames=("model", "loss", "dtype", "reverse", "scan_unroll", "forward_mode")
)
def step_tensors(
  model: DeepRNN,
  loss: Callable[[Array, Array], Array],
  params: Params,
  batch: PyTree,
  carries: Sequence[Carry] | None,
  key: Key[Array, ""] | None,
  dtype: np.dtype | None = None,
  scale: Float[Array, ""] | None = None,
  **time: Any,
) -> StepTensors:
  """Computes all tensors of a training step on the batch's mean loss, without updating the params.

  Args:
    model: the network.
    loss, carries, key, dtype, **time: see `rnn_jax.training.update`.
    params: the model's params.
    batch: a `rnn_jax.tasks.Batch`, or another object with the attributes xs, targets and mask.
    scale: factor on the loss whose derivatives are returned; None for 1.
  Returns:
    The StepTensors.
  """
  dropout_key, cell_key = (None, None) if key is None else jax.random.split(key)

  def objective(floats: Params, slots: Slots | None) -> tuple[Array, ForwardTensors]:
    of_model, xs = with_floats(floats, params), batch.xs
    if dtype is not None:
      of_model, xs = precision.cast((of_model, xs), dtype)
    network: Callable[..., Any] = model.apply
    layers, readout = network(
      {"params": of_model},
      xs,
      model.cell_params({"params": of_model}),
      carries if dtype is None else precision.cast(carries, dtype),
      slots,
      key=cell_key,
      deterministic=key is None,
      dtype=dtype,
      rngs=None if key is None else {"dropout": dropout_key},
      method=_run,
      **time,
    )
    losses = loss(readout if dtype is None else at_least_float32(readout), batch.targets)
    mean = masked_mean(losses, batch.mask)
    total = mean if scale is None else loss_scaling.scaled(mean, scale)
    return total, ForwardTensors(layers, readout, losses, mean)

  shapes = jax.eval_shape(objective, floats_of(params), None)[1]
  slots = _zeros(Slots(shapes.layers, shapes.readout))
  # `allow_int`, because carries may hold integer step counters; their cotangents are float0.
  gradient = jax.grad(objective, argnums=(0, 1), has_aux=True, allow_int=True)
  (grads, cotangents), forward = gradient(floats_of(params), slots)
  return StepTensors(forward, grads, cotangents, tree_norm(grads))


def _run(
  model: DeepRNN,
  xs: Float[Array, "T B D"] | Int[Array, "T B"],
  params: Sequence[Params],
  carries: Sequence[Carry] | None,
  slots: Slots | None,
  *,
  deterministic: bool,
  dtype: np.dtype | None,
  key: Key[Array, ""] | None = None,
  **time: Any,
) -> tuple[tuple[LayerTensors, ...], Float[Array, "T B O"]]:
  """Runs a DeepRNN layer by layer, as its `__call__` does, and keeps every tensor.

  Args:
    model: the network, bound to its variables.
    xs: inputs [T, B, D], or tokens [T, B].
    params: the params of each layer's cell.
    carries: the initial carry of each layer. If None, zeros, or the model's learned carries.
    slots: zeros that are added to the tensors; None to add nothing.
    deterministic: whether dropout is off.
    dtype: precision of the model; None for that of params and inputs.
    key: draws the masks of stochastic cells; None for evaluation.
    **time: further arguments of `unroll`.
  Returns:
    (the tensors of each layer, the readout).
  """
  ys, layers = model.encode(xs), []
  if carries is None and model.learned_carry:
    carries = model.learned_carries(ys.shape[1])
  for i, cell in enumerate(model.cells):
    if i > 0:
      ys = model.between(ys, deterministic=deterministic)
    check_params(f"params['layers_{i}']['cell']", cell, params[i], ys)
    watched = _watched(cell, params[i], None if slots is None else slots.layers[i])
    carry = watched.initial_carry(ys.shape[1:2], float if dtype is None else dtype)
    if carries is not None:
      carry = carry._replace(carry=carries[i])
    layer_key = None if key is None else jax.random.fold_in(key, i)
    _, tensors = unroll(watched, params[i], ys, carry, key=layer_key, **time)
    layers.append(tensors)
    ys = tensors.output
  readout = model.readout(ys)
  return tuple(layers), readout if slots is None else readout + slots.readout


class _Watched(NamedTuple):
  """The carry of a watched cell: the original cell's carry and the step's recurrent product."""

  carry: Carry
  recurrent: PyTree[Array]


def _watched(cell: Cell, params: Params, slots: LayerTensors | None) -> Cell:
  """Returns a cell that outputs all tensors of each step of `cell`, each with its slot added.

  Args:
    cell: the cell to watch.
    params: the cell's params.
    slots: zeros to add to the tensors, leaves [T, B, ...]; None to add nothing.
  """

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> _Watched:
    carry = cell.initial_carry(batch_shape, dtype)
    prepared = jax.eval_shape(cell.prepare, params)
    return _Watched(carry, _zeros(jax.eval_shape(cell.recur, prepared, carry)))

  def project(
    params: Params, xs: Array, key: Key[Array, ""] | None = None
  ) -> tuple[Drive, LayerTensors | None]:
    drive = cell.project(params, xs, key)
    return drive if slots is None else jax.tree.map(jnp.add, drive, slots.drive), slots

  def recur(params: Params, carry: _Watched) -> PyTree[Array]:
    return cell.recur(params, carry.carry)

  def update(
    params: Params,
    carry: _Watched,
    drive: tuple[Drive, LayerTensors | None],
    recurrent: PyTree[Array],
  ) -> _Watched:
    own, slot = drive
    if slot is not None:
      recurrent = jax.tree.map(jnp.add, recurrent, slot.recurrent)
    new = cell.update(params, carry.carry, own, recurrent)
    new = new if slot is None else jax.tree.map(jnp.add, new, slot.carry)
    return _Watched(new, recurrent)

  def output(
    params: Params, carry: _Watched, drive: tuple[Drive, LayerTensors | None]
  ) -> LayerTensors:
    own, slot = drive
    y = cell.output(params, carry.carry, own)
    y = y if slot is None else jax.tree.map(jnp.add, y, slot.output)
    return LayerTensors(own, carry.recurrent, carry.carry, y)

  return Cell(
    init=cell.init,
    initial_carry=initial_carry,
    prepare=cell.prepare,
    project=project,
    recur=recur,
    update=update,
    output=output,
  )


def _zeros(shapes: PyTree) -> PyTree[Array]:
  """Returns a pytree of zeros with the shapes and dtypes of the leaves of `shapes`."""
  return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
