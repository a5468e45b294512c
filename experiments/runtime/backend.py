"""How the programs set up jax, before its first computation."""

from __future__ import annotations

import os

import jax

from experiments.runtime import provenance

MATMUL_PRECISION = "highest"  # TF32 would blur what is measured far below 1


def configure(cpus: int | None = None) -> None:
  """CPU cores become devices of one thread each, and products keep full precision everywhere.

  Args:
    cpus: how many; None for all that this process may use.
  """
  os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
  jax.config.update("jax_num_cpu_devices", cpus or len(provenance.cores()))
  jax.config.update("jax_default_matmul_precision", MATMUL_PRECISION)
