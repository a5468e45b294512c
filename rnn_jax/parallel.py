"""Many training runs in parallel, or one run on many devices. Only this module uses `jax.pmap`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, cast, runtime_checkable

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from rnn_jax import checks

_AXIS = "devices"

Tree = TypeVar("Tree", bound=PyTree)


@runtime_checkable
class MappedRuns(Protocol):
  """The type of the program that `map_runs` returns."""

  def __call__(self, run: PyTree, state: PyTree, data: PyTree) -> tuple[PyTree, PyTree]:
    """Returns (state, records), both with leaves [devices, ...]."""
    ...

  def lower(self, *args: PyTree) -> jax.stages.Lowered:
    """Lowers the program for arguments of these shapes, for ahead-of-time compilation."""
    ...


def map_runs(
  function: Callable[..., tuple[PyTree, PyTree]], devices: Sequence[jax.Device] | None = None
) -> MappedRuns:
  """Returns a program that applies `function` on every device, each to its own training run.

    (run, state, data) ↦ (state', records)      run, state, state', records: [devices, ...]

  Devices exchange nothing, unless `function` splits a run's batch among neighboring devices. In
  that case, these devices hold the same run and state, take their parts of the batch by `shard`,
  and add up results by `psum`.

  The devices may belong to several processes (`jax.distributed`). Every process must then make the
  same calls in the same order, lay out the arguments by `spread`, and read the results by `fetch`.

  Args:
    function: pure function `(run, state, data) -> (state, records)`, which runs on one device.
    devices: the devices; all local devices by default. Every process contributes the same number of
      devices, in its own local order.
  Returns:
    The pmapped function. `run` and `state` have a leading axis with one entry per device; `data` is
    the same for all devices. The state is donated, so its old value must not be read afterwards. A
    call returns when its results are ready. A program from `lower().compile()` does not wait, so if
    it contains a `psum`, the caller must await each call's results before the next call.
  Raises:
    TypeError, ValueError: if `function` is not callable, or if `devices` is not a sequence of at
      least one device.
  """
  checks.function("function", function)
  if devices is not None:
    _check_devices(devices)
  mapped = jax.pmap(
    function, axis_name=_AXIS, in_axes=(0, 0, None), devices=devices, donate_argnums=1
  )

  @functools.wraps(mapped)  # also copies the method `lower`
  def waiting(run: PyTree, state: PyTree, data: PyTree) -> tuple[PyTree, PyTree]:
    # On CPU devices, collectives deadlock if a call starts before the previous one has finished.
    return jax.block_until_ready(mapped(run, state, data))

  return cast(MappedRuns, waiting)


def spread(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree[Array]:
  """Lays out arguments of a `map_runs` program on its devices, including other processes' devices.

  Args:
    tree: leaves [devices, ...] on the host, the same in every process.
    devices: the devices that were passed to `map_runs`.
  Returns:
    Leaves [devices, ...], each entry on its device. With several processes, a program from
    `lower().compile()` accepts `run` and `state` only in this layout.
  Raises:
    TypeError, ValueError: if `devices` is not a sequence of at least one device, or if a leaf does
      not have one entry per device.
  """
  _check_devices(devices)
  sharding = NamedSharding(Mesh(np.array(devices), (_AXIS,)), PartitionSpec(_AXIS))

  def leaf(a: np.ndarray | Array) -> Array:
    if np.ndim(a) == 0 or len(a) != len(devices):
      raise ValueError(
        f"tree must have leaves [devices, ...] with {len(devices)} entries, got {checks.shown(a)}."
      )
    return jax.make_array_from_callback(a.shape, sharding, lambda index: a[index])

  return jax.tree.map(leaf, tree)


def fetch(tree: PyTree[Array]) -> PyTree[np.ndarray]:
  """Copies the results of a `map_runs` program from this process's devices to the host.

  Args:
    tree: leaves [devices, ...].
  Returns:
    NumPy arrays [local devices, ...]. If there is a single process, every device is local.
  Raises:
    TypeError: if a leaf is not a JAX array.
  """

  def leaf(a: Array) -> np.ndarray:
    if not isinstance(a, jax.Array):
      raise TypeError(f"tree must hold JAX arrays, got {checks.shown(a)}.")
    if a.is_fully_addressable:
      return jax.device_get(a)
    shards = sorted(a.addressable_shards, key=lambda shard: shard.index[0].start)
    return np.concatenate([shard.data for shard in shards])

  return jax.tree.map(leaf, tree)


def shard(batch: PyTree, count: int) -> PyTree:
  """Returns this device's part of a batch that is split among `count` neighboring devices.

  Call it only in a function that runs under `map_runs`.

  Args:
    batch: the whole batch, leaves [T, B, ...] or [B], the same on each device that shares it.
    count: number of devices that share the batch; must divide B and the total number of devices.
  Returns:
    Leaves [T, B / count, ...] or [B / count]. Of the devices that share the batch, the i-th gets
    the i-th part of the examples.
  Raises:
    TypeError, ValueError: if the count is not an integer of at least 1 that divides B and the
      number of all devices, or if a leaf is a scalar.
  """
  checks.integer("count", count)
  if count == 1:
    return batch
  _check_count(count)
  part = jax.lax.axis_index(_AXIS) % count

  def leaf(a: Array) -> Array:
    if a.ndim == 0:
      raise ValueError("batch must have leaves [T, B, ...] or [B], got a scalar.")
    axis = min(1, a.ndim - 1)
    if a.shape[axis] % count:
      raise ValueError(f"count must divide the batch size {a.shape[axis]}, got {count}.")
    size = a.shape[axis] // count
    return jax.lax.dynamic_slice_in_dim(a, part * size, size, axis=axis)

  return jax.tree.map(leaf, batch)


def psum(tree: PyTree, count: int) -> PyTree:
  """Returns the sum of a pytree over the `count` neighboring devices that share a batch.

  Call it only in a function that runs under `map_runs`.

  Args:
    tree: this device's addend.
    count: number of devices that share the batch; must divide the number of all devices.
  Returns:
    The sum, the same on each device that shares the batch.
  Raises:
    TypeError, ValueError: if the count is not an integer of at least 1 that divides the number of
      all devices.
  """
  checks.integer("count", count)
  if count == 1:
    return tree
  devices = _check_count(count)
  groups = [list(range(first, first + count)) for first in range(0, devices, count)]
  total = functools.partial(jax.lax.psum, axis_name=_AXIS, axis_index_groups=groups)
  leaves = jax.tree.leaves(tree)
  if jax.process_count() == 1 or len(leaves) == 1 or len({leaf.dtype for leaf in leaves}) > 1:
    return total(tree)
  # Sum one concatenated array, because CPU devices of different processes send one message per
  # array, and the number of messages dominates the cost of a sum.
  flat, unravel = ravel_pytree(tree)
  return unravel(total(flat))


def _check_devices(devices: Sequence[jax.Device]) -> None:
  """Raises unless `devices` is a sequence of at least one device."""
  if isinstance(devices, str) or not isinstance(devices, Sequence | np.ndarray):
    raise TypeError(f"devices must be a sequence of devices, got {checks.shown(devices)}.")
  if len(devices) == 0:
    raise ValueError("devices must hold at least one device, got none.")
  for i, device in enumerate(devices):
    checks.instance(f"devices[{i}]", device, jax.Device)


def _check_count(count: int) -> int:
  """Returns the number of all devices of `map_runs`; raises unless the count divides it."""
  devices = jax.lax.axis_size(_AXIS)
  if devices % count:
    raise ValueError(f"count must divide the number of devices {devices}, got {count}.")
  return devices


def vary_alike(tree: Tree) -> Tree:
  """Casts a pytree so that all leaves vary over the same mesh axes: those of any leaf.

  Inside `jax.shard_map`, an array varies over a mesh axis if its values may differ between the
  devices along that axis. Outside, no array varies, and the tree is returned unchanged.

  The cast serves two purposes. First, the carry of a `lax.scan` must vary over the same axes before
  and after each step. Second, the gradient of params, which usually vary over no axis, is a sum
  over devices. Without the cast, JAX computes this sum in every step of the backward pass; with
  it, only once, after the backward pass.

  Args:
    tree: pytree of arrays.
  """
  axes = frozenset[str]().union(*map(_axes, jax.tree.leaves(tree)))

  def cast(a: Array | np.ndarray) -> Array | np.ndarray:
    missing = axes - _axes(a)
    return jax.lax.pcast(a, tuple(sorted(missing)), to="varying") if missing else a

  return jax.tree.map(cast, tree)


def _axes(a: Array | np.ndarray) -> frozenset[str]:
  """Returns the mesh axes over which an array varies."""
  return jax.typeof(a).manual_axis_type.varying
