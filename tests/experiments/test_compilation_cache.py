"""Programs that one sweep has compiled and the next one loads, in real processes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from experiments import compilation_cache, sweep
from experiments.grid import Run, Settings
from experiments.group_program import Layout
from rnn_jax.tasks import adding

ROOT = Path(__file__).parents[2]
TINY = (
  "--task=adding --cell=elman --hidden_size=4 --sequence_length=5 --batch_size=2 --steps=1 "
  "--measures=none"
)
HIT, MISS = "Persistent compilation cache hit", "PERSISTENT COMPILATION CACHE MISS"


def start(folder: Path, *flags: str) -> tuple[str, dict[str, bytes]]:
  """What a sweep of one group says on standard error, and its records."""
  result = subprocess.run(
    (sys.executable, "-m", "experiments.sweep", *TINY.split(), f"--output_dir={folder}", *flags),
    cwd=ROOT,
    env={**os.environ, "JAX_LOG_COMPILES": "1", "JAX_EXPLAIN_CACHE_MISSES": "1"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  paths = [folder / "gradients.nc", *folder.glob("runs/*/metrics.jsonl")]
  return result.stderr, {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
  """A cache that holds one program, and the records of the sweep that compiled it."""
  folder = tmp_path_factory.mktemp("first")
  said, records = start(folder / "out", f"--compilation_cache={folder / 'programs'}")
  assert (said.count(HIT), said.count(MISS)) == (0, 1)
  return folder / "programs", records


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
  said, without = start(tmp_path / "compiled", "--compilation_cache=none")
  assert (said.count(HIT), said.count(MISS)) == (0, 0)
  assert without == records


def test_the_folder_is_the_users_own(cache_home, tmp_path):
  start(tmp_path)
  folder = cache_home / "rnn_jax"
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700
  assert list(folder.glob("*-cache"))


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


UNUSABLE = [of_another_user, writable_by_all, a_file, lambda _: "/proc/nothing", lambda _: ""]
OPTIONS = (
  "jax_compilation_cache_dir",
  "jax_compilation_cache_max_size",
  "jax_persistent_cache_min_compile_time_secs",
)


@pytest.mark.parametrize("make", UNUSABLE)
def test_a_folder_that_cannot_be_trusted_or_used_is_one_line(make, tmp_path, capsys):
  cache, before = make(tmp_path / "programs"), {name: jax.config.values[name] for name in OPTIONS}
  try:
    compilation_cache.use(str(cache))
    assert jax.config.values["jax_compilation_cache_dir"] is None
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
  said = capsys.readouterr().err
  assert said.startswith("warning: ") and said.count("\n") == 1
  assert "compiled programs are not kept" in said and str(cache) in said
  assert not list(tmp_path.glob("programs/*"))


def test_a_folder_that_cannot_be_trusted_is_no_failure(tmp_path):
  cache = writable_by_all(tmp_path / "programs")
  said, _ = start(tmp_path / "out", f"--compilation_cache={cache}")
  (line,) = [line for line in said.splitlines() if line.startswith("warning: ")]
  assert "compiled programs are not kept" in line and str(cache) in line
  assert (said.count(HIT), said.count(MISS)) == (0, 0)
  assert not list(tmp_path.glob("programs/*"))


def test_a_damaged_program_is_compiled_again(compiled, tmp_path):
  cache = copied(compiled[0], tmp_path / "programs")
  program(cache).write_bytes(program(cache).read_bytes()[:-8])
  said, records = start(tmp_path / "out", f"--compilation_cache={cache}")
  assert said.count(HIT) == 0
  assert records == compiled[1]


def test_a_program_that_was_half_written_is_replaced(compiled, tmp_path):
  cache = copied(compiled[0], tmp_path / "programs")
  whole = program(cache).stat().st_size
  # A kill between the two writes of jax leaves this.
  program(cache).write_bytes(b"half")
  next(cache.glob("*-atime")).unlink()
  said, _ = start(tmp_path / "out", f"--compilation_cache={cache}")
  assert (said.count(HIT), said.count(MISS)) == (0, 1)
  assert program(cache).stat().st_size == pytest.approx(whole, rel=0.01)


def test_the_next_group_compiles_while_one_is_in_use(compilations):
  settings = Settings("adding", "stdlib", 4, 5, 2, 1, "sgd", 1, "lag", 1)
  groups = [[Run("elman", depth, None, 0, 0.01, 1.0, 1.0, None)] for depth in (1, 2, 3)]
  task, layout = adding(5, 2), Layout(jax.local_devices()[:1])
  programs = sweep._programs(groups, SimpleNamespace(settings=settings, task=task, layout=layout))
  next(programs)
  for _ in range(600):
    if len(compilations) == 2:
      break
    time.sleep(0.1)
  time.sleep(1)
  assert len(compilations) == 2  # one ahead, and no more
  assert len(list(programs)) == 2
  assert len(compilations) == 3
