"""Tests of the wheel: it holds `rnn_jax` alone, and a user's own `experiments/` keeps working."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rnn_jax

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
  """The wheel of this checkout, built in a copy, because a build leaves files behind."""
  source, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
  for name in ("rnn_jax", "experiments"):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source)
  command = (sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps")
  subprocess.run((*command, f"--wheel-dir={target}", str(source)), check=True)
  (built,) = target.glob("rnn_jax-*.whl")
  return built


def test_wheel_holds_the_library_alone(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.split("/")[0].split("-")[0] for name in names} == {"rnn_jax"}
  assert "rnn_jax/py.typed" in names
  assert any(name.endswith("licenses/LICENSE") for name in names)
  modules = {str(p.relative_to(ROOT)) for p in (ROOT / "rnn_jax").rglob("*.py")}
  assert modules <= set(names)


def test_version_and_modules_are_attributes(wheel):
  assert wheel.name.startswith(f"rnn_jax-{rnn_jax.__version__}-")
  assert rnn_jax.gradient_flow.lag_profile
  with pytest.raises(AttributeError, match="module 'rnn_jax' has no attribute 'grads'"):
    _ = rnn_jax.grads


def run(code: str, folder: Path, installed: Path) -> str:
  """Returns the standard output of Python code that runs in `folder`.

  Args:
    code: the code.
    folder: the working directory.
    installed: folder with the wheel's packages, which is added to the import path.
  """
  environment = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
  result = subprocess.run(
    (sys.executable, "-c", code),
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  )
  return result.stdout.strip()


def test_an_experiments_folder_of_the_users_own_is_left_alone(wheel, tmp_path):
  installed, user, empty = tmp_path / "installed", tmp_path / "user", tmp_path / "empty"
  zipfile.ZipFile(wheel).extractall(installed)
  (user / "experiments").mkdir(parents=True)
  (user / "experiments" / "__init__.py").write_text("OWNER = 'the user'\n")
  empty.mkdir()
  code = "import experiments, rnn_jax; print(experiments.OWNER, rnn_jax.__file__)"
  assert run(code, user, installed) == f"the user {installed / 'rnn_jax' / '__init__.py'}"
  code = "import importlib.util, rnn_jax; print(importlib.util.find_spec('experiments'))"
  assert run(code, empty, installed) == "None"
