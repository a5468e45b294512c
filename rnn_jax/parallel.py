"""Many runs at once, or many devices for one run: the only place that uses pmap."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax import checks

_AXIS = "devices"


def map_runs(function: Callable[..., Any], devices: Sequence[Any] | None = None) -> Any:
  """Maps runs over devices, one entry a device.

    (run, state, data) ↦ (state, records)      run, state, state', records: [devices, ...]

  Runs do not exchange anything, unless `function` shares a run's batch among devices: neighbours of
  the same run and state take their `shard` and add up by `psum`.

  The devices may be those of several processes (`jax.distributed`), each of which then makes the
  same calls in the same order: `spread` lays out what goes in, `fetch` reads what came out.

  Args:
    function: `(run, state, data) -> (state, records)`, as one device computes it, pure.
    devices: where; all local devices by default. As many of each process, in its order.
  Returns:
    The pmapped function. `run` and `state` have a leading axis, one entry a device; `data` is the
    same for all. The old state's memory is reused, so it must not be read again. A call returns
    when its results are there; a program from `lower().compile()` does not wait, and where it holds
    a `psum` each call's results must be awaited before the next.
  """
  mapped = jax.pmap(
    function, axis_name=_AXIS, in_axes=(0, 0, None), devices=devices, donate_argnums=1
  )

  @functools.wraps(mapped)  # its `lower` too
  def waiting(*args: Any) -> Any:
    # On CPU devices, reductions of calls that run ahead of each other wait for one another forever.
    return jax.block_until_ready(mapped(*args))

  return waiting


def spread(tree: Any, devices: Sequence[Any]) -> Any:
  """Lays what `map_runs` maps over its devices, of which this process may have a few only.

  Args:
    tree: leaves [devices, ...] on the host, the same in every process.
    devices: those of `map_runs`.
  Returns:
    Leaves [devices, ...], each entry on its device; what `lower().compile()` gives takes no other
    `run` and `state` where there are several processes.
  """
  sharding = NamedSharding(Mesh(np.array(devices), (_AXIS,)), PartitionSpec(_AXIS))

  def laid(a: Any) -> Any:
    return jax.make_array_from_callback(a.shape, sharding, lambda index: a[index])

  return jax.tree.map(laid, tree)


def fetch(tree: Any) -> Any:
  """What this process's devices hold of what `map_runs` gave, on the host.

  Args:
    tree: leaves [devices, ...].
  Returns:
    NumPy arrays [devices of this process, ...]; of all devices where there is one process.
  """

  def own(a: Any) -> Any:
    if a.is_fully_addressable:
      return jax.device_get(a)
    shards = sorted(a.addressable_shards, key=lambda shard: shard.index[0].start)
    return np.concatenate([shard.data for shard in shards])

  return jax.tree.map(own, tree)


def shard(batch: Any, count: int) -> Any:
  """This device's share of a batch, where `count` neighbouring devices share it; in `map_runs`.

  Args:
    batch: leaves [T, B, ...], or [B], the whole batch, the same on every device that shares it.
    count: devices that share it; must divide B and the number of devices.
  Returns:
    Leaves [T, B / count, ...], or [B / count]: the i-th device has the i-th part of the examples.
  Raises:
    TypeError, ValueError: the count is no integer of at least 1, or does not divide B.
  """
  checks.integer("count", count)
  if count == 1:
    return batch
  place = jax.lax.axis_index(_AXIS) % count

  def part(a: Any) -> Any:
    axis = min(1, a.ndim - 1)
    if a.shape[axis] % count:
      raise ValueError(f"count must divide the batch size {a.shape[axis]}, got {count}.")
    size = a.shape[axis] // count
    return jax.lax.dynamic_slice_in_dim(a, place * size, size, axis=axis)

  return jax.tree.map(part, batch)


def psum(tree: Any, count: int) -> Any:
  """Sum of a pytree over the `count` neighbouring devices that share a batch; in `map_runs`.

  Args:
    tree: this device's addend.
    count: devices that share the batch; must divide the number of devices.
  Returns:
    The sum, the same on each of the devices.
  Raises:
    TypeError, ValueError: the count is no integer of at least 1, or does not divide the number of
      devices.
  """
  checks.integer("count", count)
  if count == 1:
    return tree
  devices = jax.lax.axis_size(_AXIS)
  if devices % count:
    raise ValueError(f"count must divide the number of devices {devices}, got {count}.")
  groups = [list(range(first, first + count)) for first in range(0, devices, count)]
  total = functools.partial(jax.lax.psum, axis_name=_AXIS, axis_index_groups=groups)
  leaves = jax.tree.leaves(tree)
  if jax.process_count() == 1 or len(leaves) == 1 or len({leaf.dtype for leaf in leaves}) > 1:
    return total(tree)
  # One message, where on CPU each leaf is one: a sum over processes takes as long as the messages.
  flat, unravel = ravel_pytree(tree)
  return unravel(total(flat))
