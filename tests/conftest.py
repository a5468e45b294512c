"""Settings and fixtures of all tests: strict numerics, checked annotations, four CPU devices."""

import contextlib
import gc
import importlib
import os
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The suite compiles thousands of programs and runs most of them once, so LLVM's optimizations are
# off. JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests the code as users run it; test_optimized.py sets it
# for a part of the suite.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
  # With its older fusion emitters, and without splitting code generation, XLA compiles programs
  # this small in a quarter of the time.
  quick = (
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters "
    "--xla_cpu_parallel_codegen_split_count=1"
  )
  os.environ["XLA_FLAGS"] = f"{quick} {os.environ.get('XLA_FLAGS', '')}"
# Each device has one thread, as in the commands (`experiments.runtime.backend`). With more threads,
# jax 0.12 rounds differently, and a sweep in this process would not equal one in a subprocess to
# the bit.
os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=false {os.environ.get('XLA_FLAGS', '')}"

import jax
import jaxtyping
import pytest
from jaxtyping import install_import_hook

# Modules in which beartype checks type annotations, shapes included, at every call.
CHECKED = (
  "experiments.ablation",
  "experiments.benchmark",
  "experiments.language_model",
  "experiments.reproduce",
  "experiments.sequence_problem",
  "experiments.states",
  "experiments.sweep.config",
  "experiments.sweep.engines",
  "experiments.sweep.figures",
  "experiments.sweep.records",
  "experiments.sweep.trackers",
  "experiments.sweep.training",
  "rnn_jax.cells",
  "rnn_jax.checkpoints",
  "rnn_jax.clipping",
  "rnn_jax.estimators",
  "rnn_jax.gradient_flow",
  "rnn_jax.initializers",
  "rnn_jax.interop",
  "rnn_jax.losses",
  "rnn_jax.modules",
  "rnn_jax.online",
  "rnn_jax.optimizers",
  "rnn_jax.parallel",
  "rnn_jax.powers",
  "rnn_jax.probes",
  "rnn_jax.sampling",
  "rnn_jax.tasks",
  "rnn_jax.testing",
  "rnn_jax.text",
  "rnn_jax.time_loop",
  "rnn_jax.training",
  "rnn_jax.types",
  "rnn_jax.windows",
)
install_import_hook(CHECKED, "shape_checks.checked")

# A shell without job control lets background processes, and so their children, ignore Ctrl-C. The
# tests of interruptions must not depend on how the suite is started.
signal.signal(signal.SIGINT, signal.default_int_handler)

# jax keeps millions of objects for thousands of programs, and hardly any become garbage. So garbage
# is collected rarely.
gc.set_threshold(100_000, 20, 100)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if os.environ["JAX_PLATFORMS"] == "cpu":
  jax.config.update("jax_num_cpu_devices", 4)


def pytest_collectstart() -> None:
  """Imports large packages, which the import hook would compile anew instead of reading .pyc files.

  It does so to every module that is first imported while it loads a checked one. The controller of
  pytest-xdist collects no tests, and so imports none of them.
  """
  for package in (
    *("beartype", "flax.linen", "flax.nnx", "optax", "orbax.checkpoint"),
    *("matplotlib.pyplot", "scipy.optimize", "scipy.special", "xarray"),
  ):
    importlib.import_module(package)


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
  """Replaces `~/.cache` by a temporary folder, in subprocesses too; yields the folder."""
  base = tmp_path_factory.getbasetemp()
  # The workers of pytest-xdist share compiled programs in one folder, next to their own folders.
  folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
  folder.mkdir(exist_ok=True)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XDG_CACHE_HOME", str(folder))
    yield folder


@pytest.fixture
def x64():
  """Enables float64, which comparisons with closed forms need."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def unchecked_types():
  """Turns off the checks of annotations, so that the code raises the errors that users see."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def optax_promotion():
  """Allows standard dtype promotion, since optax's Adam raises a float to an integer power."""
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture(scope="session")
def sweep_flags():
  """Defines the sweep's flags, which absl allows only once per process; returns absl's flags."""
  from absl import flags

  from experiments.sweep import __main__ as sweep

  sweep.define_flags()
  return flags.FLAGS


@pytest.fixture
def promotion():
  """Allows standard dtype promotion in all threads, since a sweep compiles in another thread."""
  jax.config.update("jax_numpy_dtype_promotion", "standard")
  yield
  jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def sweep_in_process(sweep_here, promotion, monkeypatch):
  """Returns `(*flags) -> exit status`, which trains a sweep in this process and draws nothing.

  A subprocess would spend seconds on imports, and as many on figures.
  """
  from experiments.sweep.figures import gradients as figures

  monkeypatch.setattr(figures, "save_all", lambda *_: ["no picture"])
  return lambda *flags: sweep_here("--compilation_cache=none", *map(str, flags))


@pytest.fixture
def sweep_here(sweep_flags):
  """Returns `(*flags) -> exit status`, which runs `experiments.sweep` in this process.

  It suits sweeps that exit before they train; others need `sweep_in_process`.
  """
  from absl.testing import flagsaver

  from experiments.cli import command_line
  from experiments.runtime import provenance
  from experiments.sweep import __main__ as sweep
  from experiments.sweep.records import origins

  # They hold the code of the cells, tasks and measures at their first call, which a test may have
  # made that changes these tables.
  for cached in (origins._here, origins._key, provenance._code):
    cached.cache_clear()

  def run(*flags: str) -> int:
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
      command_line.run(sweep.main, ["sweep", *flags])
    return ended.value.code or 0

  return run


@pytest.fixture
def flags_of():
  """Returns `flags_of(program)`, a context manager that replaces absl's flags with the program's.

  It yields their names.
  """
  from absl import flags

  def others():
    """Returns all flags except absl's own, by name."""
    modules = {name: flags.FLAGS.find_module_defining_flag(name, "") for name in flags.FLAGS}
    return {n: flags.FLAGS[n] for n, module in modules.items() if not module.startswith("absl")}

  @contextlib.contextmanager
  def defined(program):
    # absl has one set of flags per process, so other programs' flags are removed meanwhile.
    kept = others()
    flags.FLAGS.remove_flag_values(kept)
    try:
      if hasattr(program, "define_flags"):
        program.define_flags()
      yield sorted(others())
    finally:
      flags.FLAGS.remove_flag_values(others())
      for name, flag in kept.items():
        flags.FLAGS[name] = flag

  return defined


@pytest.fixture
def program_here(flags_of):
  """Returns `(program, *arguments) -> exit status`, which runs a program in this process."""
  from absl.testing import flagsaver

  from experiments.cli import command_line

  def run(program, *arguments: str) -> int:
    with flags_of(program), flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
      command_line.run(program.main, ["program", *map(str, arguments)])
    return ended.value.code or 0

  return run


@pytest.fixture
def compilations():
  """Yields a list that receives the duration of each compilation while the test runs."""
  durations = []

  def listen(event: str, duration: float, **_: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
      durations.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield durations
  jax.monitoring.clear_event_listeners()
