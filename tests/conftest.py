"""Strict numerics for every test, and CPU cores as devices."""

import contextlib
import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Thousands of programs that run once: a fifth of the suite's time is spent on making them fast.
# Set to 0, the tests see the code as users run it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
  # Programs this small compile in a quarter of the time by the older emitters and in one piece.
  quick = (
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters "
    "--xla_cpu_parallel_codegen_split_count=1"
  )
  os.environ["XLA_FLAGS"] = f"{quick} {os.environ.get('XLA_FLAGS', '')}"

import jax
import jaxtyping
import pytest
from jaxtyping import install_import_hook

# Modules whose annotations, shapes included, are checked at every call.
CHECKED = (
  "experiments.language_model",
  "experiments.sequence_problem",
  "experiments.states",
  "experiments.sweep.engines",
  "experiments.sweep.records",
  "experiments.sweep.training",
  "rnn_jax.checkpoints",
  "rnn_jax.gradient_flow",
  "rnn_jax.losses",
  "rnn_jax.modules",
  "rnn_jax.parallel",
  "rnn_jax.sampling",
  "rnn_jax.tasks",
  "rnn_jax.text",
  "rnn_jax.time_loop",
  "rnn_jax.training",
  "rnn_jax.windows",
)
install_import_hook(CHECKED, "beartype.beartype")

# What jax keeps of thousands of programs is millions of objects, which hardly ever become garbage.
gc.set_threshold(100_000, 20, 100)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if os.environ["JAX_PLATFORMS"] == "cpu":
  jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
  """The folder that is a sweep's `~/.cache`, also in a process of its own."""
  base = tmp_path_factory.getbasetemp()
  # Workers share what they compile: the folder of all of them is one above.
  folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
  folder.mkdir(exist_ok=True)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XDG_CACHE_HOME", str(folder))
    yield folder


@pytest.fixture
def x64():
  """Double precision, for closed forms."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def unchecked_types():
  """Annotations are not checked, as for users: errors are those that the code itself raises."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def optax_promotion():
  """Standard promotion: optax's Adam raises a float to an integer power."""
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture(scope="session")
def sweep_flags():
  """absl's flags with those of the sweep defined, which absl allows once a process."""
  from absl import flags

  from experiments.sweep import __main__ as sweep

  sweep.define_flags()
  return flags.FLAGS


@pytest.fixture
def promotion():
  """Standard promotion in all threads, as the programs have it: a sweep's compile in a thread."""
  jax.config.update("jax_numpy_dtype_promotion", "standard")
  yield
  jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def sweep_in_process(sweep_here, promotion, monkeypatch):
  """`(*flags) -> exit status` of a sweep that trains here and draws nothing.

  A process of its own takes seconds to import, and as long for its figures.
  """
  from experiments.sweep.figures import figures

  monkeypatch.setattr(figures, "save_all", lambda *_: ["no picture"])
  return lambda *flags: sweep_here("--compilation_cache=none", *map(str, flags))


@pytest.fixture
def sweep_here(sweep_flags):
  """`(*flags) -> exit status` of a sweep in this process; for those that end before they train."""
  from absl.testing import flagsaver

  from experiments.cli import command_line
  from experiments.sweep import __main__ as sweep

  def run(*flags: str) -> int:
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
      command_line.run(sweep.main, ["sweep", *flags])
    return ended.value.code or 0

  return run


@pytest.fixture
def flags_of():
  """`flags_of(program)`: a context in which absl's flags are the program's."""
  from absl import flags

  def others():
    """Flags that are not absl's own."""
    modules = {name: flags.FLAGS.find_module_defining_flag(name, "") for name in flags.FLAGS}
    return {n: flags.FLAGS[n] for n, module in modules.items() if not module.startswith("absl")}

  @contextlib.contextmanager
  def defined(program):
    # A process has one set of flags: those of other programs make room.
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
  """`(program, *flags) -> exit status` of a program with flags of its own, in this process."""
  from absl.testing import flagsaver

  from experiments.cli import command_line

  def run(program, *arguments: str) -> int:
    with flags_of(program), flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
      command_line.run(program.main, ["program", *map(str, arguments)])
    return ended.value.code or 0

  return run


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
