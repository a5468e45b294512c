"""What the times depend on: processor, instruction set, threads, versions and settings."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import jax

from experiments.benchmark import timing
from experiments.runtime import backend, provenance

NATIVE, AVX2 = "native", "AVX2"  # values of --instruction_set
RESTRICTED = "restricted to AVX2"
_PACKAGES = ("rnn_jax", "jax", "jaxlib", "flax", "torch", "dm-haiku", "equinox", "keras", "numpy")
_NAMES = {"avx512f": "AVX-512", "avx2": AVX2}  # by the flag in /proc/cpuinfo, the widest first

# XLA takes matrix products from YNNPACK, which uses all instructions that the processor has. If the
# second flag leaves YNNPACK out, they come from oneDNN, which obeys ONEDNN_MAX_CPU_ISA.
_XLA_FLAGS = "--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type="
_VARIABLES = {  # for oneDNN (in torch and jaxlib), torch's own kernels, and MKL
  "ONEDNN_MAX_CPU_ISA": "AVX2",
  "ATEN_CPU_CAPABILITY": "avx2",
  "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


class Machine(TypedDict):
  """A description of what the times depend on, stored as `machine` in `benchmark.json`."""

  versions: Mapping[str, str]
  device: str
  cpu: str
  cores: int
  threads: int
  instruction_set: str
  load_average: tuple[float, float, float]
  environment: Mapping[str, str]
  matmul_precision: str
  commit: str
  code: Mapping[str, str]


def instruction_set() -> str:
  """Returns the name of the processor's widest vector instructions, or of its architecture."""
  architecture = platform.machine()
  if architecture in ("aarch64", "arm64"):
    return "NEON"
  try:
    flags = Path("/proc/cpuinfo").read_text().split()
  except OSError:
    return architecture
  return next((name for flag, name in _NAMES.items() if flag in flags), architecture)


def check_instruction_set(instructions: str) -> None:
  """Raises ValueError if `instructions` is AVX2, and this processor is not known to have AVX2."""
  name = instruction_set()
  if instructions == AVX2 and name not in _NAMES.values():
    raise ValueError(f"--instruction_set must be native on this processor ({name}), got AVX2.")


def configure(threads: int, instructions: str = NATIVE) -> Machine:
  """Sets the same threads, instruction set and precision in every library.

  Must be called before the first use of a device, and before torch is imported.

  Args:
    threads: number of threads of each implementation.
    instructions: NATIVE for all instructions that the processor has, or AVX2.
  Returns:
    A description of the machine.
  """
  given = {name: os.environ.get(name, "") for name in ("GLIBC_TUNABLES", "XLA_FLAGS", *_VARIABLES)}
  name = instruction_set()
  if instructions == AVX2 and name != AVX2:
    name = RESTRICTED
    # Of two equal flags the later one counts.
    os.environ["XLA_FLAGS"] = f"{given['XLA_FLAGS']} {_XLA_FLAGS}"
    os.environ.update(_VARIABLES)
  cores = provenance.cores()
  if hasattr(os, "sched_setaffinity"):
    # XLA starts one thread for each core that the process may use.
    os.sched_setaffinity(0, cores[:threads])
  backend.pin_settings()
  if timing.torch_is_installed():
    from experiments.benchmark import torch_layers  # its docstring says why it is imported here

    torch_layers.configure(threads)
  return {
    "versions": provenance.versions(_PACKAGES),
    "device": str(jax.devices()[0].device_kind),
    "cpu": provenance.processor(),
    "cores": len(cores),
    "threads": threads,
    "instruction_set": name,
    "load_average": os.getloadavg(),
    "environment": {name: value for name, value in given.items() if value},
    "matmul_precision": backend.MATMUL_PRECISION,
    "commit": provenance.commit_text({"git": provenance.git()}),
    "code": provenance.code("experiments.benchmark.__main__"),
  }


def agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
  """Returns whether two machines differ at most in instruction set, load and commit.

  Two commits may differ in files that no time depends on; the other files are compared by `code`.
  """
  keys = (one.keys() | other.keys()) - {"instruction_set", "load_average", "commit"}
  return all(one.get(key) == other.get(key) for key in keys)


def describe(machine: Machine) -> list[str]:
  """Returns lines that name processor, instruction set, threads, versions and settings."""
  versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
  load = ", ".join(f"{value:.2f}" for value in machine["load_average"])
  return [
    f"{machine['cpu']} ({machine['device']}), {machine['instruction_set']}, "
    f"{machine['threads']} threads on {machine['cores']} cores",
    f"{versions}, commit {machine['commit']}",
    f"load {load}, products in precision {machine['matmul_precision']}",
    *(f"{name}={value}" for name, value in machine["environment"].items()),
  ]
