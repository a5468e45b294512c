"""JAX settings that all commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from experiments.runtime import provenance

MATMUL_PRECISION = "highest"  # TF32 would distort gradient norms far below 1
# The settings that change what a program computes. Each can come from the environment, as
# JAX_ENABLE_X64 does, so the commands set them all: equal flags must give equal numbers.
PINNED = {
  "jax_enable_x64": False,
  "jax_default_matmul_precision": MATMUL_PRECISION,
  "jax_default_prng_impl": "threefry2x32",
  "jax_threefry_partitionable": True,
  "jax_random_seed_offset": 0,
  "jax_high_dynamic_range_gumbel": False,
  "jax_softmax_custom_jvp": False,
  "jax_disable_jit": False,
  # These two raise where a run diverges; the commands record the divergence instead.
  "jax_debug_nans": False,
  "jax_debug_infs": False,
  # If set otherwise, these options make jax raise errors in correct programs.
  "jax_check_tracer_leaks": False,
  "jax_debug_key_reuse": False,
  "jax_transfer_guard": "allow",
  "jax_numpy_dtype_promotion": "standard",
  "jax_numpy_rank_promotion": "allow",
}
_PINNED_XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false --xla_cpu_enable_fast_math=false"

_RECORDED = ("NVIDIA_TF32_OVERRIDE", "JAX_DISABLE_MOST_OPTIMIZATIONS")


def configure(cpus: int | None = None) -> None:
  """Makes each CPU core a one-threaded JAX device, and pins all settings that change numbers.

  Must be called before the first use of a device.

  Args:
    cpus: number of CPU devices; None for one per core that this process may use.
  """
  _configure_devices(cpus)
  # Figures are only written to files, and a notebook's MPLBACKEND may name a module that is absent.
  os.environ["MPLBACKEND"] = "agg"
  pin_settings()


def _configure_devices(cpus: int | None = None) -> None:
  """Makes each CPU core a one-threaded JAX device; `cpus` is as in `configure`.

  Raises:
    RuntimeError: if a device has been used.
  """
  jax.config.update("jax_num_cpu_devices", cpus or len(provenance.cores()))
  # Of two equal flags the later one counts.
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_PINNED_XLA_FLAGS}"


def add_spare_threads() -> None:
  """Enlarges the pool of CPU threads, because batched LAPACK calls may deadlock in the default one.

  The CPU devices of a process share one pool of threads, by default one per core. In jaxlib 0.10.2,
  such a call blocks a thread of the pool while others do its work. If all threads are blocked, the
  program hangs. With spare threads, a sweep over an LSTM took 7 to 22 % longer on two cores.

  Must be called before the first use of a device; later calls have no effect.
  """
  os.environ["PJRT_NPROC"] = str(16 * len(provenance.cores()))


@contextlib.contextmanager
def configured() -> Iterator[None]:
  """Configures JAX as `configure` does, in a process that has other uses, while the block runs.

  If a device has been used before, the process keeps its devices, and their number of threads.

  Raises:
    ValueError: if a context manager of JAX's overrides one of the settings.
  """
  with contextlib.suppress(RuntimeError):
    _configure_devices()
  # In another thread, the settings are those outside of this thread's context managers.
  with ThreadPoolExecutor(1) as other:
    before = other.submit(_settings).result()
  pin_settings()
  try:
    for name, value in _settings().items():
      if value != PINNED[name]:
        raise ValueError(
          f"{name} must be {PINNED[name]} here, but a context manager sets it to {value}."
        )
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


def _settings() -> dict[str, Any]:
  """Returns the current values of the settings `PINNED`."""
  return {name: getattr(jax.config, name) for name in PINNED}


def environment() -> dict[str, str]:
  """Returns the environment variables that change numbers, but are not pinned, if they are set."""
  found = {name: os.environ.get(name, "") for name in _RECORDED}
  ours, names = _PINNED_XLA_FLAGS.split(), ("--xla_force_host", "--xla_dump")
  given = os.environ.get("XLA_FLAGS", "").split()
  found["XLA_FLAGS"] = " ".join(f for f in given if f not in ours and not f.startswith(names))
  return {name: value for name, value in found.items() if value}


def pin_settings() -> None:
  """Sets the JAX settings `PINNED`, whatever the environment says."""
  for name, value in PINNED.items():
    jax.config.update(name, value)
