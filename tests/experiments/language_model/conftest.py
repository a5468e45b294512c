"""Fixtures of the language model's tests: small trained models, and the command as a function."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import KINDS, SMALL, TEXT

from experiments.language_model import __main__ as language_model
from experiments.language_model import plot

SAVE = plot.save


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
  path = tmp_path_factory.mktemp("text") / "text.txt"
  path.write_bytes(TEXT)
  return path


@pytest.fixture
def program(program_here, monkeypatch):
  monkeypatch.setattr(plot, "save", lambda *args: args[-1].touch())  # saves 0.4 s of plotting
  return lambda *flags: program_here(language_model, *flags)


@pytest.fixture
def error(program, capfd):
  """A function `(*flags) -> message` that runs the command and expects a one-line error."""

  def failed(*flags) -> str:
    assert program(*flags) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("error: ")

  return failed


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
  return {kind: tmp_path_factory.mktemp(kind) / "model" for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
  return request.param


@pytest.fixture
def folder(kind, folders, text, program_here, monkeypatch):
  """The folder of a trained model; a model of each kind is trained when it is first needed."""
  if not folders[kind].exists():
    flags = (*SMALL, *KINDS[kind], f"--corpus={text}", f"--output_dir={folders[kind]}")
    with monkeypatch.context() as patch:
      patch.setattr(plot, "save", SAVE)
      assert program_here(language_model, *flags) == 0
  return folders[kind]
