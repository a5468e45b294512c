"""JAX settings that all commands share."""

from __future__ import annotations

import os

import jax

from experiments.runtime import provenance

MATMUL_PRECISION = "highest"  # TF32 would distort gradient norms far below 1


def configure(cpus: int | None = None) -> None:
  """Makes each CPU core a one-threaded JAX device, and sets full matmul precision.

  Must be called before the first use of a device.

  Args:
    cpus: number of CPU devices; None for one per core that this process may use.
  """
  os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
  jax.config.update("jax_num_cpu_devices", cpus or len(provenance.cores()))
  use_full_precision()


def use_full_precision() -> None:
  """Makes JAX compute all matrix products in full float32 precision, even on accelerators."""
  jax.config.update("jax_default_matmul_precision", MATMUL_PRECISION)
