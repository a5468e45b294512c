"""Tests of the compilation cache, some with real processes, and of compiling one group ahead."""

from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from configured import make_run, make_settings, tasks_of
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from swept import ROOT, WITHOUT_PICTURES

from experiments.runtime import compilation_cache, exits
from experiments.sweep.config.device_layout import Layout
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.training import train
from rnn_jax.tasks import adding

TINY = (
  "--task=adding --cell=elman --hidden_size=4 --sequence_length=5 --batch_size=2 --steps=1 "
  "--measures=none"
)
HIT, MISS = "Persistent compilation cache hit", "PERSISTENT COMPILATION CACHE MISS"


ONE_PROGRAM = """
import sys
import jax
import numpy as np
from experiments.runtime import compilation_cache
compilation_cache.use(sys.argv[1])
print(jax.jit(lambda a: np.pi * a @ a)(np.arange(4.0, dtype=np.float32)))
"""


def call(*command: object, **environment: object) -> tuple[str, str]:
  """Runs Python with these arguments; returns its standard output and standard error.

  Args:
    *command: arguments of `python`.
    **environment: additional environment variables.
  """
  log = {"JAX_LOG_COMPILES": "1", "JAX_EXPLAIN_CACHE_MISSES": "1"}
  result = subprocess.run(
    (sys.executable, *map(str, command)),
    cwd=ROOT,
    env={**os.environ, **log, **{name: str(value) for name, value in environment.items()}},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout, result.stderr


def start(folder: Path, *flags: str, **environment: object) -> tuple[str, dict[str, bytes]]:
  """Runs a sweep that compiles one program; returns its standard error, and its records by name."""
  command = ("-c", WITHOUT_PICTURES, *TINY.split(), f"--output_dir={folder}", *flags)
  _, said = call(*command, **environment)
  paths = [folder / "gradients.nc", *folder.glob("runs/*/metrics.jsonl")]
  return said, {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
  """The folder of a cache that holds the one program of a sweep, and the sweep's records."""
  folder = tmp_path_factory.mktemp("first")
  said, records = start(folder / "out", XDG_CACHE_HOME=folder)
  assert (said.count(HIT), said.count(MISS)) == (0, 1)
  return folder / "rnn_jax", records


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> tuple[Path, str]:
  """The folder of a cache that holds the program of ONE_PROGRAM, and what ONE_PROGRAM prints."""
  cache = tmp_path_factory.mktemp("one") / "programs"
  printed, said = call("-c", ONE_PROGRAM, cache)
  assert (said.count(HIT), said.count(MISS)) == (0, 1)
  return cache, printed


def copied(cache: Path, to: Path) -> Path:
  to.mkdir(mode=0o700)
  for path in cache.iterdir():
    (to / path.name).write_bytes(path.read_bytes())
  return to


def program(cache: Path) -> Path:
  (path,) = cache.glob("*-cache")
  return path


def test_the_next_sweep_loads_the_program_and_computes_the_same(compiled, tmp_path):
  cache, records = compiled
  said, again = start(tmp_path / "loaded", f"--compilation_cache={cache}")
  assert (said.count(HIT), said.count(MISS)) == (1, 0)
  assert again == records


def test_the_folder_is_private(compiled):
  folder, _ = compiled
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700
  assert program(folder).stat().st_size


def of_another_user(tmp_path):
  if os.getuid() != 0:
    return Path("/usr")
  tmp_path.mkdir(mode=0o700)
  os.chown(tmp_path, 12345, -1)
  return tmp_path


def writable_by_all(path):
  path.mkdir()
  path.chmod(0o777)
  return path


def a_file(path):
  path.write_bytes(b"")
  return path


def not_utf8(path):
  return Path(f"{path}\udcff")


UNUSABLE = [
  of_another_user,
  writable_by_all,
  a_file,
  lambda _: "/proc/nothing",
  lambda _: "",
  not_utf8,
]
OPTIONS = (
  "jax_compilation_cache_dir",
  "jax_compilation_cache_max_size",
  "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def options():
  """Restores jax's options of the compilation cache after the test."""
  before = {name: jax.config.values[name] for name in OPTIONS}
  reset_cache()
  yield
  reset_cache()
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.mark.usefixtures("options")
def test_none_disables_the_cache_without_a_warning(tmp_path, capsys):
  compilation_cache.use(str(tmp_path))
  assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path)
  compilation_cache.use("none")
  assert jax.config.values["jax_compilation_cache_dir"] is None
  assert not capsys.readouterr().err


@pytest.mark.usefixtures("options")
def test_the_flag_replaces_a_folder_that_jax_has_already_used(tmp_path):
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "environment"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.jit(lambda a: 3 * a)(1.0)
  compilation_cache.use(str(tmp_path / "flag"))
  jax.jit(lambda a: 5 * a)(1.0)
  assert list((tmp_path / "environment").glob("*-cache"))
  assert list((tmp_path / "flag").glob("*-cache"))


@pytest.mark.usefixtures("options")
@pytest.mark.parametrize("make", UNUSABLE)
def test_a_shared_or_unusable_folder_gives_one_warning_and_no_cache(make, tmp_path, capsys):
  cache = make(tmp_path / "programs")
  compilation_cache.use(str(cache))
  assert jax.config.values["jax_compilation_cache_dir"] is None
  said = capsys.readouterr().err
  assert said.startswith("warning: ") and said.count("\n") == 1
  assert "compiled programs are not kept" in said and exits.printable(str(cache)) in said
  assert not list(tmp_path.glob("programs/*"))


def test_a_sweep_runs_without_a_cache_if_the_folder_is_shared(compiled, tmp_path):
  cache = writable_by_all(tmp_path / "programs")
  said, records = start(tmp_path / "out", f"--compilation_cache={cache}")
  assert records == compiled[1]
  (line,) = [line for line in said.splitlines() if line.startswith("warning: ")]
  assert "compiled programs are not kept" in line and str(cache) in line
  assert (said.count(HIT), said.count(MISS)) == (0, 0)
  assert not list(tmp_path.glob("programs/*"))


def test_a_damaged_program_is_compiled_again(kept, tmp_path):
  cache = copied(kept[0], tmp_path / "programs")
  program(cache).write_bytes(program(cache).read_bytes()[:-8])
  printed, said = call("-c", ONE_PROGRAM, cache)
  assert said.count(HIT) == 0
  assert printed == kept[1]


def test_a_half_written_program_is_replaced(kept, tmp_path):
  cache = copied(kept[0], tmp_path / "programs")
  whole = program(cache).stat().st_size
  # jax writes NAME-cache, then NAME-atime. If jax is killed during the first write, NAME-cache is
  # incomplete and NAME-atime is missing.
  program(cache).write_bytes(b"half")
  next(cache.glob("*-atime")).unlink()
  _, said = call("-c", ONE_PROGRAM, cache)
  assert (said.count(HIT), said.count(MISS)) == (0, 1)
  assert program(cache).stat().st_size == pytest.approx(whole, rel=0.01)


def live_programs():
  """Returns the number of programs of groups that are in memory."""
  live = jax.local_devices()[0].client.live_executables()
  return sum("_fun" in module.name for executable in live for module in executable.hlo_modules())


def test_the_next_group_compiles_while_one_is_trained(compilations):
  sizes = {"hidden_size": 4, "sequence_length": 5, "batch_size": 2, "steps": 1, "optimizer": "sgd"}
  groups = [[make_run(cell, **sizes)] for cell in ("elman", "gru", "mgu")]
  tasks, layout = {("adding", 5, 2): tasks_of(adding(5, 2), 5)}, Layout(jax.local_devices()[:1])
  about = make_settings(1, "lag", 1), {}, (), "grid", {}, (), None
  sweep = Sweep(*about, tasks, layout, Path(), 1)
  jax.clear_caches()
  gc.collect()
  others = live_programs()  # which other tests keep
  programs = train._compile_ahead(groups, sweep, stop=lambda: False)
  next(programs).result()
  for _ in range(600):
    if len(compilations) == 2:
      break
    time.sleep(0.1)
  time.sleep(0.5)
  assert len(compilations) == 2  # the first group and the next, but not the third
  assert len(list(programs)) == 2
  assert len(compilations) == 3
  # At most the last two of the three programs are still in memory.
  assert 1 <= live_programs() <= others + 2
