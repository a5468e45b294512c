"""Arrays by name in a folder, in orbax's format. No other module uses orbax.

The functions import orbax when they are called, because that takes a third of a second.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from rnn_jax.checkpoints.leaves import describe

# Hides orbax's log, because orbax also logs the errors that `save` raises, with a traceback from a
# background thread.
logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays, none of them empty, into a new folder.

  Raises:
    OSError: if the folder cannot be written.
  """
  import orbax.checkpoint

  # Not `orbax.checkpoint.v1.save`, because it would wait for all processes of `jax.distributed`,
  # but only process 0 calls this function.
  only = orbax.checkpoint.options.MultiprocessingOptions(
    active_processes={0}, barrier_sync_key_prefix="first"
  )
  handler = orbax.checkpoint.PyTreeCheckpointHandler(multiprocessing_options=only)
  try:
    with orbax.checkpoint.Checkpointer(handler, multiprocessing_options=only) as checkpointer:
      checkpointer.save(path.absolute(), arrays)
  except OSError:
    raise
  except Exception as error:
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number is None:
      raise OSError(f"{path}: {error}") from error
    raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load_arrays(path: Path, stored: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
  """Returns the arrays in a folder by name, after checking what the folder declares.

  orbax allocates arrays, and the chunks that they are stored in, as large as the files declare.

  Args:
    path: the folder.
    stored: the shape and dtype that each array must have.
  Raises:
    ValueError: if there are other arrays, or an array has another shape, dtype or larger chunks.
    Exception: of any type, if orbax cannot read the folder.
  """
  from orbax.checkpoint import v1 as ocp

  context = ocp.Context()
  context.multiprocessing.active_processes = {jax.process_index()}
  context.multiprocessing.primary_host = jax.process_index()
  context.multiprocessing.barrier_sync_key_prefix = f"process_{jax.process_index()}"
  wanted = {name: data for name, data in stored.items() if math.prod(data.shape)}
  # orbax opens an array for each entry.
  entries = json.loads((path / "_METADATA").read_bytes())["tree_metadata"]
  if len(entries) != len(wanted):
    raise ValueError(f"_METADATA must have {len(wanted)} entries, got {len(entries)}")
  with context:
    for name, found in ocp.metadata(path.absolute()).metadata.items():
      want = describe(wanted[name]) if name in wanted else "absent"
      have = describe(jax.ShapeDtypeStruct(found.shape, found.dtype))
      if want != have:
        raise ValueError(f"{name} must be {want}, got {have}")
      if math.prod(found.storage_metadata.chunk_shape) > math.prod(found.shape):
        raise ValueError(f"{name} must not have larger chunks than itself")
    return ocp.load(path.absolute())
