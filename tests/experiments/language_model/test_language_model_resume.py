"""Tests that an interrupted training of a language model resumes and gives the same results."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from lock_holder import held_elsewhere

from experiments.language_model import __main__ as language_model
from experiments.language_model import plot, resume, run, trained_model
from experiments.language_model.texts import read_texts
from experiments.language_model.training import Evaluation, best_evaluation
from experiments.runtime import exits

TEXT = b'the cat sat on the mat.\n\nthe dog (a big one) barked: "who sat?"\n' * 40

FLAGS = (
  "--cell=elman",
  "--hidden_size=8",
  "--window=8",
  "--batch_size=4",
  "--dropout=0.1",
  "--evaluate_every=50",
  "--learning_rate=0.03",
  "--validation_share=0.1",
  "--checkpoint_every=15",
)

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
  path = tmp_path_factory.mktemp("text") / "text.txt"
  path.write_bytes(TEXT)
  return f"--corpus={path}"


def lines(folder):
  """Returns the entries of metrics.jsonl without their times, which differ between trainings."""
  found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  return [line for line in found if line.pop("seconds") is not None]


def assert_the_same(folder, other):
  assert lines(folder) == lines(other)
  found, expected = (trained_model.load(f) for f in (folder, other))
  jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)
  assert found.step == expected.step
  results = [json.loads((f / "result.json").read_text()) for f in (folder, other)]
  assert results[0].keys() == results[1].keys()
  assert [r["best"]["step"] for r in results] == [found.step] * 2
  names = [{path.name for path in f.iterdir()} for f in (folder, other)]
  assert names[0] == names[1] and "unfinished" not in names[0]


@pytest.fixture
def program(program_here, text, monkeypatch):
  monkeypatch.setattr(plot, "save", lambda *args: args[-1].touch())  # saves 0.4 s of plotting
  return lambda *flags: program_here(language_model, *FLAGS, "--steps=80", text, *flags)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  return tmp_path_factory.mktemp("models")


@pytest.fixture
def whole(folders, program):
  """The folder of an uninterrupted training, which runs when the fixture is first used."""
  if not (folders / "whole").exists():
    assert program(f"--output_dir={folders / 'whole'}") == 0
  return folders / "whole"


@pytest.fixture
def stopped(folders, program, monkeypatch, tmp_path):
  """A fresh copy of the folder of a training that SIGTERM stopped after 60 of 80 updates."""
  made, folder = folders / "stopped", tmp_path / "stopped"
  if not made.exists():
    with monkeypatch.context() as patch:
      train = run.train

      def interrupted(*args):
        for call in train(*args):
          if call.step == 60:
            signal.raise_signal(signal.SIGTERM)
          yield call

      # Replaced, because the real `exits.interrupted` would end this process.
      patch.setattr(exits, "interrupted", lambda message, status: sys.exit(status))
      patch.setattr(run, "train", interrupted)
      assert program(f"--output_dir={made}") == 143
  shutil.copytree(made, folder)
  return folder


# Starts a training, kills it and resumes it. Both processes are forked from this program, so that
# JAX is imported only once.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import jax
from experiments.cli import command_line
from experiments.language_model import __main__ as language_model

jax.config.update("jax_num_cpu_devices", int(sys.argv.pop()))
language_model.define_flags()
folder, flags = Path(sys.argv[1]), sys.argv[2:]

def start(name):
  child = os.fork()
  if child == 0:
    try:
      arguments = ["language_model", *flags, f"--output_dir={folder / name}"]
      command_line.run(language_model.main, arguments)
    except SystemExit as ended:
      os._exit(ended.code or 0)
    os._exit(0)
  return child

def end(child):
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def reach(step):
  names, deadline = set(), time.monotonic() + 60
  while not any(name.isdecimal() and int(name) >= step for name in names):
    assert time.monotonic() < deadline, names
    time.sleep(0.001)
    names = {path.name for path in folder.glob("broken/unfinished/*")}

child = start("broken")
reach(20)
os.kill(child, signal.SIGKILL)
print("ended:", end(child), end(start("broken")))
"""


def test_a_killed_process_resumes_with_the_same_results(whole, tmp_path, text):
  flags = (*FLAGS, "--steps=80", text, f"{jax.local_device_count()}")
  done = subprocess.run(
    (sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path), *flags),
    cwd=Path(language_model.__file__).parents[2],
    capture_output=True,
    text=True,
    timeout=200,
  )
  statuses = [line for line in done.stdout.splitlines() if line.startswith("ended:")]
  assert statuses == ["ended: -9 0"], done.stderr
  assert done.stdout.count("Resuming after ") == 1
  assert_the_same(tmp_path / "broken", whole)


def test_an_unfinished_training_resumes_even_with_overwrite(stopped, whole, program):
  assert {path.name for path in (stopped / "unfinished").iterdir()} == {"40", "60"}
  assert program(f"--output_dir={stopped}", "--overwrite") == 0
  assert_the_same(stopped, whole)
  # The training has finished now, so running the same command again is an error.
  assert program(f"--output_dir={stopped}") == 2


@pytest.mark.parametrize("damaged", [["60"], ["40", "60"]], ids=["newest", "all"])
def test_resumes_from_the_newest_intact_checkpoint(stopped, whole, program, capfd, damaged):
  for name in damaged:
    (stopped / "unfinished" / name / "checkpoint.json").write_text("{")
  # As if a process had saved new best params after its last checkpoint, and was then killed.
  trained_model.save_best(stopped, 70, trained_model.load(whole).variables["params"])
  assert program(f"--output_dir={stopped}") == 0
  out, err = capfd.readouterr()
  assert ("Resuming after 40 updates." in out) == (damaged == ["60"])
  assert err.count("is damaged: checkpoint.json differs from what was written.") == len(damaged)
  assert_the_same(stopped, whole)


@pytest.mark.parametrize("damage", ["later", "gone"])
def test_resuming_restores_the_best_params_of_the_checkpoint(stopped, program, monkeypatch, damage):
  """The params on disk were replaced (`later`) or deleted (`gone`) since the checkpoint."""
  best = trained_model.load(stopped)
  if damage == "later":
    trained_model.save_best(stopped, 70, jax.tree.map(np.zeros_like, best.variables["params"]))
  else:
    shutil.rmtree(stopped / "checkpoints")
  monkeypatch.setattr(run, "train", lambda *_: iter(()))
  assert program(f"--output_dir={stopped}") == 0
  found = trained_model.load(stopped)
  assert found.step == best.step == 50
  jax.tree.map(np.testing.assert_array_equal, found.variables, best.variables)


def contents(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--seed=1",), "holds the unfinished training of a different model"),
    (
      ("--learning_rate=0.04",),
      "its learning_rate is 0.03, not 0.04. Pass --overwrite to",
    ),
    (("--hidden_size=9",), "its layers.hidden_size is 8, not 9. Pass --overwrite to"),
    (("--cell_option=activation=relu",), "its layers.options is [], not [['activation', 'relu']]"),
    (("--characters=2000",), "its characters is None, not 2000"),
  ],
)
def test_the_unfinished_training_of_a_different_model_is_not_replaced(
  stopped, program, capfd, flags, message
):
  before = contents(stopped)
  assert program(f"--output_dir={stopped}", *flags) == 2
  error = capfd.readouterr().err
  assert message in error and error.count("\n") == 1
  assert contents(stopped) == before


@pytest.fixture
def shorter(folders, program, tmp_path):
  """A fresh copy of the folder of a finished training of 60 updates, evaluated at 50 and 60."""
  made, folder = folders / "shorter", tmp_path / "shorter"
  if not made.exists():
    assert program(f"--output_dir={made}", "--steps=60") == 0
  shutil.copytree(made, folder)
  return folder


def test_further_training_equals_all_steps_at_once(shorter, whole, program, capfd):
  # A process that is killed while it finishes may leave this folder.
  shutil.copytree(shorter / "final", shorter / "unfinished")
  assert program(f"--output_dir={shorter}") == 0
  assert "Resuming after 60 updates." in capfd.readouterr().out
  assert_the_same(shorter, whole)
  name = "language_model.flags"
  assert (shorter / name).read_text() == (whole / name).read_text()
  assert trained_model.load(shorter).settings == trained_model.load(whole).settings


def test_further_training_resumes_after_an_early_failure(shorter, whole, program, monkeypatch):
  """The first attempt fails before it changes model.json and before its first checkpoint."""

  def fail(*_):
    raise OSError("disk full")

  with monkeypatch.context() as patch:
    patch.setattr(trained_model.files, "write_json", fail)
    assert program(f"--output_dir={shorter}") == 2
  assert not (shorter / "result.json").exists()
  assert program(f"--output_dir={shorter}") == 0
  assert_the_same(shorter, whole)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--steps=60",), "already holds a trained model"),
    (("--steps=50",), "more --steps to train it further, or --overwrite to replace it."),
    (("--seed=1",), "holds a different trained model"),
  ],
)
def test_a_finished_model_is_not_replaced(shorter, program, capfd, flags, message):
  before = contents(shorter)
  assert program(f"--output_dir={shorter}", *flags) == 2
  error = capfd.readouterr().err
  assert message in error and error.count("\n") == 1
  assert contents(shorter) == before


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    ("cosine", "--steps must stay 60 with --schedule=cosine"),
    ("gone", "must hold the final training state"),
    ("broken", "Pass --overwrite to train from the start."),
  ],
)
def test_a_finished_model_that_cannot_be_trained_further_is_an_error(
  shorter, program, capfd, damage, message
):
  flags = ()
  if damage == "cosine":
    about = json.loads((shorter / "model.json").read_text())
    about["settings"]["schedule"], flags = "cosine", ("--schedule=cosine",)
    (shorter / "model.json").write_text(json.dumps(about))
  elif damage == "gone":
    shutil.rmtree(shorter / "final")
  else:
    (shorter / "final/60/checkpoint.json").write_text("{")
  before = contents(shorter)
  assert program(f"--output_dir={shorter}", *flags) == 2
  assert message in capfd.readouterr().err
  assert contents(shorter) == before


def test_resuming_a_training_of_version_0_1_0_warns_about_its_losses(
  stopped, program, capfd, monkeypatch
):
  about = json.loads((stopped / "model.json").read_text())
  del about["evaluation"]
  (stopped / "model.json").write_text(json.dumps(about))
  monkeypatch.setattr(run, "train", lambda *_: iter(()))
  assert program(f"--output_dir={stopped}") == 0
  assert "held-out losses up to update 50 may be too high: version 0.1.0" in capfd.readouterr().err


def test_losses_of_batches_stand_in_for_the_text_that_version_0_1_0_did_not_evaluate(
  stopped, capfd
):
  about = json.loads((stopped / "model.json").read_text())
  del about["evaluation"]
  (stopped / "model.json").write_text(json.dumps(about))
  trained = trained_model.load(stopped)
  texts = read_texts(trained.settings)
  configuration = trained_model.configuration(trained.settings, texts.corpus)
  point = resume.newest(stopped, configuration, trained.settings, trained.model)
  point.evaluations[:, 3] = math.nan  # as if nothing had been held out
  record = run._Record(trained.settings, texts._replace(held_out=None), stopped, {}, point)
  (evaluation,) = record.evaluations
  assert evaluation.text_loss == evaluation.loss == point.evaluations[0, 1]
  assert "training text up to update 50 are those of the training batches" in capfd.readouterr().err


def test_a_changed_text_makes_a_different_model(stopped, program, capfd, tmp_path, text):
  path = Path(text.removeprefix("--corpus="))
  path.write_bytes(TEXT.replace(b"sat", b"lay"))
  try:
    assert program(f"--output_dir={stopped}") == 2
  finally:
    path.write_bytes(TEXT)
  assert "its corpus_sha256 is '" in capfd.readouterr().err


def test_training_resumes_after_its_text_has_moved(stopped, whole, program, tmp_path, capfd):
  moved = tmp_path / "moved.txt"
  moved.write_bytes(TEXT)
  assert program(f"--output_dir={stopped}", f"--corpus={moved}") == 0
  assert "Resuming after 60 updates." in capfd.readouterr().out
  assert_the_same(stopped, whole)


def test_overwrite_replaces_an_unfinished_training(stopped, program):
  assert program(f"--output_dir={stopped}", "--overwrite", "--seed=1", "--steps=20") == 0
  assert trained_model.load(stopped).settings.seed == 1
  assert not (stopped / "unfinished").exists()


def test_a_folder_in_use_by_another_process_is_refused(stopped, program, capfd):
  before = contents(stopped)
  with held_elsewhere(stopped / ".lock"):
    assert program(f"--output_dir={stopped}") == 2
  assert "--output_dir must not be in use by another process" in capfd.readouterr().err
  assert contents(stopped) == before


def test_best_evaluation_is_the_first_with_the_lowest_loss():
  losses = [3.0, math.nan, 1.0, math.inf, 1.0, 2.0]
  evaluations = [Evaluation(i, 0.0, 0.0, loss, 0.0, None) for i, loss in enumerate(losses)]
  assert best_evaluation(evaluations) is evaluations[2]
  assert best_evaluation(evaluations[1:2]) is None is best_evaluation([])
