"""Several processes that train every run together, on one machine or many.

Each process has devices of its own, and its devices' share of each batch. All run the same program
on the same flags, and make the same calls in the same order; process 0 alone reads and writes the
sweep's folder, and what the others must know of it is broadcast. On GPUs a process takes all that
it sees, so where a machine has several processes, CUDA_VISIBLE_DEVICES or JAX_LOCAL_DEVICE_IDS must
give each its own. Tested on CPU, where sums go through Gloo; on GPU and TPU it has not been tried.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from experiments.cli import command_line, parsers

_START = 300  # seconds from the first process's start to the last one's
_END = 24 * 3600  # seconds that the others wait for process 0 to write what is left
_FAREWELL = 5  # seconds for the others to end too, where one ends with an error


def define() -> None:
  """The flags that say which processes there are, and which of them this is."""
  parsers.define(
    "coordinator",
    "none",
    _address,
    "Where process 0 waits for the others, HOST:PORT, if several processes train each run; auto to "
    "find it in the environment (JAX_COORDINATOR_ADDRESS, SLURM, Open MPI, Kubernetes, Cloud TPU); "
    "or none, the default.",
  )
  parsers.define(
    "num_processes",
    "auto",
    parsers.integer("num_processes", none="auto"),
    "Processes in all. A number, or auto, to find it in the environment.",
  )
  parsers.define(
    "process_id",
    "auto",
    parsers.integer("process_id", minimum=0, none="auto"),
    "Which of the processes this one is, from 0. A number, or auto, to find it in the environment.",
  )


def _address(text: str) -> str | None:
  return None if text == "none" else parsers.address("coordinator", "auto", "none")(text)


@contextlib.contextmanager
def joined() -> Iterator[None]:
  """Within it, this process is one of those that the flags tell of.

  To be entered before the first use of a device. One that ends with an error ends the others.
  """
  values = flags.FLAGS
  if values.coordinator is None:
    for name in ("num_processes", "process_id"):
      if values[name].value is not None:
        command_line.fail(f"--{name} needs --coordinator, got {values[name].value} without it.")
    yield
    return
  try:
    _join(values.coordinator, values.num_processes, values.process_id)
    yield
    leave()
  except BaseException as error:
    _leave_alone(error)


def _join(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
  everything = None not in (num_processes, process_id) and coordinator != "auto"
  # Its handler would take SIGTERM from this program's own.
  jax.config.update("jax_enable_preemption_service", False)

  def late() -> None:
    print(
      "error: all processes must start with the same --coordinator and --num_processes, and each "
      f"with its own --process_id; not all had after {_START} seconds.",
      file=sys.stderr,
      flush=True,
    )
    os._exit(command_line.USAGE_ERROR)

  # jax's own way to end here is to abort with a stack trace.
  timer = threading.Timer(_START, late)
  timer.daemon = True
  timer.start()
  # Python would look at Ctrl-C when all are there.
  handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    jax.distributed.initialize(
      None if coordinator == "auto" else coordinator,
      num_processes,
      process_id,
      cluster_detection_method="deactivate" if everything else None,
      initialization_timeout=_START + 60,
      shutdown_timeout_seconds=_END,
    )
  except Exception as error:  # environments differ in what they lack
    command_line.fail(f"--coordinator={coordinator}: {type(error).__name__}: {error}")
  finally:
    signal.signal(signal.SIGINT, handler)
    timer.cancel()
  counts = [len(jax.local_devices(process)) for process in range(jax.process_count())]
  if len(set(counts)) > 1:
    command_line.fail(f"--coordinator must join processes with as many devices each, got {counts}.")


def leave() -> None:
  """Takes this process out, once all others want to go, too; nothing is shared from then on."""
  jax.distributed.shutdown()


def _leave_alone(error: BaseException) -> NoReturn:
  """Ends this process although the others may not end."""
  # They do if it is for the same reason, and each has its own status then. Those that do not end by
  # what they miss: the next sum, or process 0.
  thread = threading.Thread(target=leave, daemon=True)
  thread.start()
  thread.join(_FAREWELL)
  if isinstance(error, KeyboardInterrupt):
    command_line.interrupted("")
  if not isinstance(error, SystemExit):
    traceback.print_exception(error)
  with contextlib.suppress(OSError):
    sys.stdout.flush()
  sys.stderr.flush()
  os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


def is_writer() -> bool:
  """Whether this process is the one that reads and writes files, and prints."""
  return jax.process_index() == 0


def broadcast(value: Any) -> Any:
  """Process 0's value, in every process; the others' is not looked at.

  Args:
    value: anything that can be pickled, such as a pytree of NumPy arrays: their bits are kept.
  """
  if jax.process_count() == 1:
    return value
  # As bytes, since what is shared is a sum: of −0 and 0 it would be 0.
  data = np.frombuffer(pickle.dumps(value) if is_writer() else b"", np.uint8)
  high, low = multihost_utils.broadcast_one_to_all(np.array(divmod(len(data), 2**31), np.uint32))
  size = int(high) * 2**31 + int(low)
  sent = multihost_utils.broadcast_one_to_all(data if is_writer() else np.zeros(size, np.uint8))
  return pickle.loads(sent.tobytes())


def by_writer(function: Callable[..., Any], *args: Any) -> Any:
  """What a function gives in process 0, which alone calls it, in every process.

  Raises:
    Exception: in process 0, what the function raises.
    ValueError: in the others, if it raises.
  """
  if jax.process_count() == 1:
    return function(*args)
  value: Any = None
  if is_writer():
    try:
      value = function(*args)
    except Exception as error:
      broadcast((None, f"process 0 has failed: {error}"))
      raise
  value, failure = broadcast((value, None))
  if failure is not None:
    raise ValueError(failure)
  return value


def any_of(flag: bool) -> bool:
  """Whether the flag is set in any process: a few milliseconds, in which all wait for the last."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))
