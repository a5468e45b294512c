"""Strict numerics for every test, and CPU cores as devices."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if os.environ["JAX_PLATFORMS"] == "cpu":
  jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
  """The folder that is a sweep's `~/.cache`, also in a process of its own."""
  with pytest.MonkeyPatch.context() as patch:
    folder = tmp_path_factory.mktemp("cache")
    patch.setenv("XDG_CACHE_HOME", str(folder))
    yield folder


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


@pytest.fixture
def compilations():
  """Durations of the compilations since the test began."""
  durations = []

  def listen(event: str, duration: float, **_: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
      durations.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield durations
  jax.monitoring.clear_event_listeners()
