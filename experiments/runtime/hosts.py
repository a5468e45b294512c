"""Several processes that train each run together, on one machine or many.

Each process has its own devices, which train their share of each batch. All processes run the same
program with the same flags, and make the same calls in the same order. Process 0 alone reads and
writes the sweep's folder, and broadcasts what the other processes need of it. A process takes every
GPU that it sees, so if several processes run on one machine, set CUDA_VISIBLE_DEVICES or
JAX_LOCAL_DEVICE_IDS for each. Tested on CPU, where collectives use Gloo; untested on GPU and TPU.
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
from typing import Any, NamedTuple, NoReturn, ParamSpec, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.runtime import exits

P = ParamSpec("P")
T = TypeVar("T")

_START = 300  # seconds that a process waits for all others to start
_END = 24 * 3600  # seconds that the others wait while process 0 writes the results
_FAREWELL = 5  # seconds that a failed process waits for the others to leave before it exits


class Processes(NamedTuple):
  """This process's place among the processes that train together.

  Attributes:
    coordinator: HOST:PORT of process 0, or `auto` to find it in the environment.
    num_processes: number of processes; None to find it in the environment.
    process_id: index of this process; None to find it in the environment.
  """

  coordinator: str
  num_processes: int | None
  process_id: int | None


@contextlib.contextmanager
def joined(processes: Processes | None) -> Iterator[None]:
  """Connects this process to the others while the block runs; does nothing if `processes` is None.

  Must be entered before the first use of a device. An error in one process ends all processes.
  """
  if processes is None:
    yield
    return
  try:
    _join(processes)
    yield
    leave()
  except BaseException as error:
    _leave_with(error)


def _join(processes: Processes) -> None:
  # jax's preemption service would replace this program's handler of SIGTERM.
  jax.config.update("jax_enable_preemption_service", False)

  # This timer ends the process before jax's own timeout, which would abort with a stack trace.
  timer = threading.Timer(_START, _give_up)
  timer.daemon = True
  timer.start()
  # `initialize` blocks until all processes have joined, and Python's handler of Ctrl-C would wait
  # for it. The default action ends the process at once.
  handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
  is_auto = processes.coordinator == "auto"
  try:
    jax.distributed.initialize(
      None if is_auto else processes.coordinator,
      processes.num_processes,
      processes.process_id,
      cluster_detection_method=None if is_auto or None in processes else "deactivate",
      initialization_timeout=_START + 60,
      shutdown_timeout_seconds=_END,
    )
  except Exception as error:  # the error's type depends on which setting is missing
    exits.fail(f"--coordinator={processes.coordinator}: {type(error).__name__}: {error}")
  finally:
    signal.signal(signal.SIGINT, handler)
    timer.cancel()
  counts = [len(jax.local_devices(process)) for process in range(jax.process_count())]
  if len(set(counts)) > 1:
    exits.fail(f"--coordinator must join processes with equal numbers of devices, got {counts}.")


def _give_up() -> NoReturn:
  exits.say(
    "error: all processes must start with the same --coordinator and --num_processes, and each "
    f"with its own --process_id; some were missing after {_START} seconds."
  )
  os._exit(exits.USAGE_ERROR)


def leave() -> None:
  """Waits until every process has called `leave`, then disconnects this one."""
  jax.distributed.shutdown()


def _leave_with(error: BaseException) -> NoReturn:
  """Ends this process with an error, even if the others do not leave."""
  # If every process hit the same error, all leave within _FAREWELL seconds, and each exits with its
  # own status. Otherwise the survivors fail in the next collective, or when process 0 disappears.
  thread = threading.Thread(target=leave, daemon=True)
  thread.start()
  thread.join(_FAREWELL)
  if isinstance(error, KeyboardInterrupt):
    exits.interrupted()
  if not isinstance(error, SystemExit):
    traceback.print_exception(error)
  with contextlib.suppress(OSError):
    sys.stdout.flush()
  sys.stderr.flush()
  os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


def is_writer() -> bool:
  """Returns whether this process reads and writes the files, and prints."""
  return jax.process_index() == 0


def broadcast(value: T) -> T:
  """Returns process 0's value in every process; the other processes' values are ignored.

  Args:
    value: anything that can be pickled, such as a pytree of NumPy arrays.
  """
  if jax.process_count() == 1:
    return value
  # jax broadcasts by summing over the processes, which would turn −0 into 0. So bytes are sent.
  data = np.frombuffer(pickle.dumps(value) if is_writer() else b"", np.uint8)
  high, low = multihost_utils.broadcast_one_to_all(np.array(divmod(len(data), 2**31), np.uint32))
  size = int(high) * 2**31 + int(low)
  sent = multihost_utils.broadcast_one_to_all(data if is_writer() else np.zeros(size, np.uint8))
  return pickle.loads(sent.tobytes())


def by_writer(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
  """Calls a function in process 0 alone, and returns its result in every process.

  Raises:
    Exception: in process 0, if the function raises; it is the function's own exception.
    ValueError: in the other processes, if the function raises; it holds that exception's message.
  """
  if jax.process_count() == 1:
    return function(*args, **kwargs)
  value: Any = None
  if is_writer():
    try:
      value = function(*args, **kwargs)
    except Exception as error:
      broadcast((None, f"process 0 failed: {error}"))
      raise
  value, failure = broadcast((value, None))
  if failure is not None:
    raise ValueError(failure)
  return value


def any_of(flag: bool) -> bool:
  """Returns whether the flag is set in any process.

  Every process must call this function. A call takes milliseconds.
  """
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))
