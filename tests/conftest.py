"""Strict numerics for every test, and CPU cores as devices."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if os.environ["JAX_PLATFORMS"] == "cpu":
  jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture
def x64():
  """Double precision, for closed forms."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def optax_promotion():
  """Standard promotion: optax's Adam raises a float to an integer power."""
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture(scope="session")
def sweep_flags():
  """absl's flags with those of the sweep defined, which absl allows once a process."""
  from absl import flags

  from experiments import sweep

  sweep.define_flags()
  return flags.FLAGS
