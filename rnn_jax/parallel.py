"""Many runs in parallel, or many devices for one run: the only module that uses pmap."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol, cast, runtime_checkable

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from rnn_jax import checks

_AXIS = "devices"


@runtime_checkable
class MappedRuns(Protocol):
  """A program over devices, as `map_runs` returns it."""

  def __call__(self, run: PyTree, state: PyTree, data: PyTree) -> tuple[PyTree, PyTree]:
    """Returns (state, records), each [devices, ...]."""
    ...

  def lower(self, *args: PyTree) -> jax.stages.Lowered:
    """Lowers the program for arguments of these shapes, to be compiled ahead of time."""
    ...


def map_runs(
  function: Callable[..., tuple[PyTree, PyTree]],
  devices: Sequence[jax.Device] | None = None,
) -> MappedRuns:
  """Maps runs over devices, one entry per device.

    (run, state, data) ↦ (state, records)      run, state, state', records: [devices, ...]

  Runs do not exchange anything, unless `function` shares a run's batch among devices: neighboring
  devices with the same run and state each take their `shard` of it, and add up by `psum`.

  The devices may belong to several processes (`jax.distributed`), each of which then makes the same
  calls in the same order: `spread` lays out the arguments, `fetch` reads the results.

  Args:
    function: `(run, state, data) -> (state, records)` of one device, pure.
    devices: the devices; all local devices by default. Each process contributes the same number, in
      its own order.
  Returns:
    The pmapped function. `run` and `state` have a leading axis, one entry per device; `data` is the
    same for all. The old state's memory is reused, so it must not be read afterwards. A call
    returns when its results are ready. A program from `lower().compile()` does not wait; where it
    contains a `psum`, each call's results must be awaited before the next call.
  Raises:
    TypeError, ValueError: not a function, or devices that are not a sequence of at least one.
  """
  checks.function("function", function)
  if devices is not None:
    _check_devices(devices)
  mapped = jax.pmap(
    function, axis_name=_AXIS, in_axes=(0, 0, None), devices=devices, donate_argnums=1
  )

  @functools.wraps(mapped)  # copies its `lower`, too
  def waiting(run: PyTree, state: PyTree, data: PyTree) -> tuple[PyTree, PyTree]:
    # On CPU devices, reductions of calls that run ahead of each other deadlock.
    return jax.block_until_ready(mapped(run, state, data))

  return cast(MappedRuns, waiting)


def spread(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree[Array]:
  """Lays out arguments of `map_runs` over its devices, some of which other processes may own.

  Args:
    tree: leaves [devices, ...] on the host, the same in every process.
    devices: those of `map_runs`.
  Returns:
    Leaves [devices, ...], each entry on its device. With several processes, a program from
    `lower().compile()` accepts `run` and `state` only in this layout.
  Raises:
    TypeError, ValueError: devices that are not a sequence of at least one, or a leaf without an
      entry for each.
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
  """Copies this process's entries of the results of `map_runs` to the host.

  Args:
    tree: leaves [devices, ...].
  Returns:
    NumPy arrays [devices of this process, ...]; all devices if there is one process.
  Raises:
    TypeError: a leaf is not a JAX array.
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
  """Returns this device's share of a batch that `count` neighboring devices share, in `map_runs`.

  Args:
    batch: leaves [T, B, ...], or [B]: the whole batch, the same on every device that shares it.
    count: number of devices that share it; must divide B and the number of devices.
  Returns:
    Leaves [T, B / count, ...], or [B / count]: the i-th device has the i-th part of the examples.
  Raises:
    TypeError, ValueError: a count that is not an integer of at least 1, or does not divide B and
      the number of devices; a scalar leaf.
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
  """Sums a pytree over the `count` neighboring devices that share a batch, in `map_runs`.

  Args:
    tree: this device's addend.
    count: number of devices that share the batch; must divide the number of devices.
  Returns:
    The sum, the same on each of the devices.
  Raises:
    TypeError, ValueError: a count that is not an integer of at least 1, or does not divide the
      number of devices.
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
  # As one message: between processes, CPU devices send a message per leaf, and messages are what a
  # sum costs.
  flat, unravel = ravel_pytree(tree)
  return unravel(total(flat))


def _check_devices(devices: Sequence[jax.Device]) -> None:
  """Refuses devices that are not a sequence of at least one device."""
  if isinstance(devices, str) or not isinstance(devices, Sequence | np.ndarray):
    raise TypeError(f"devices must be a sequence of devices, got {checks.shown(devices)}.")
  if len(devices) == 0:
    raise ValueError("devices must hold at least one device, got none.")
  for i, device in enumerate(devices):
    checks.instance(f"devices[{i}]", device, jax.Device)


def _check_count(count: int) -> int:
  """Returns the number of devices of `map_runs`; refuses a count that does not divide it."""
  devices = jax.lax.axis_size(_AXIS)
  if devices % count:
    raise ValueError(f"count must divide the number of devices {devices}, got {count}.")
  return devices
