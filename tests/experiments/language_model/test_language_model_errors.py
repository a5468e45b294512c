"""Tests that the language model command reports wrong input in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_models import CHARACTERS, SMALL

from experiments.language_model import __main__ as language_model

FLAGFILES = Path(language_model.__file__).parents[1] / "flagfiles"

pytestmark = pytest.mark.usefixtures("optax_promotion")


@CHARACTERS
@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--sample", "--temperature=-1"), "temperature must be a number of at least 0"),
    (("--sample", "--top_k=1000"), "--top_k must be at most the vocabulary's 25 tokens, got 1000."),
    (
      ("--sample", "--prime=Ω"),
      "--prime must consist of characters of the training text: text holds 'Ω' at",
    ),
    (("--sample", "--evaluate=x"), "--sample and --evaluate must not be given together."),
    (("--evaluate=/nowhere",), "--evaluate: corpus must be a file that exists, got /nowhere."),
    ((), "Pass --overwrite to replace it"),
  ],
)
def test_wrong_flags_for_a_trained_model_are_reported_in_one_line(folder, error, flags, message):
  assert message in error(f"--output_dir={folder}", *flags)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--steps=15",), "steps must be a multiple of 10, got 15."),
    (("--warmup=40",), "--warmup must be below --steps=40, got 40."),
    (("--min_count=3",), "--min_count applies to words only, got --level=char."),
    (("--tied=true",), "--tied needs --embedding_size=16"),
    (("--window=100000",), "batch_size · window must be below the"),
    (("--reading=lines", "--window=0"), "window must be an integer from 1"),
    (("--validation_share=1",), "validation_share must be a number from 0 to below 1"),
    (("--validation_share=0.0005",), "--validation_share must be 0 or hold out at least 2 tokens"),
    (
      ("--validation_share=0", "--characters=1"),
      "--corpus must have at least 2 tokens, got 1.",
    ),
    (("--corpus=/nowhere",), "--corpus must be a file that exists, got /nowhere."),
    (("--level=letter",), "Unknown level 'letter'"),
    (("--cell_option=rest=1",), "Unknown --cell_option 'rest'. Choose one of: chrono, forget_bias"),
    (
      ("--cell=gru", "--cell_option=reset=x"),
      "--cell=gru --cell_option=reset=x: Unknown reset 'x'",
    ),
    (("--cell_option=forget_bias=1,2",), "cell_option must hold one value, got 'forget_bias=1,2'."),
    (("--match_params=500",), "--match_params and --hidden_size must not be given together"),
    (("extra",), "Arguments must be flags, --name=value, got 'extra'."),
  ],
)
def test_wrong_flags_for_training_are_reported_in_one_line_and_write_nothing(
  error, text, tmp_path, flags, message
):
  folder = tmp_path / "model"
  given = (*SMALL, f"--corpus={text}", f"--output_dir={folder}", *flags)
  assert message in error(*given)
  assert not folder.exists()


@CHARACTERS
@pytest.mark.parametrize(
  "damage", ["kind", "json", "vocabulary", "missing", "other", "newer", "window", "layers"]
)
def test_a_damaged_folder_is_reported_in_one_line(folder, error, tmp_path, damage):
  broken = tmp_path / "broken"
  broken.mkdir()
  about = json.loads((folder / "model.json").read_text())
  message = {
    "kind": "must describe a language model, got 'sweep'",
    "json": "is damaged: it must hold a JSON object",
    "vocabulary": "must hold a checkpoint with head.bias float32[2], got float32[25]",
    "missing": "--output_dir must be the folder of a trained model",
    "other": "holds no checkpoint yet",
    "newer": "model.json is damaged, or from another version: got an unexpected keyword",
    "window": "model.json is damaged, or from another version: window must be at least 1, got 0.",
    "layers": "model.json is damaged, or from another version: missing key 'layers'.",
  }[damage]
  if damage == "kind":
    about["kind"] = "sweep"
  if damage == "vocabulary":
    (broken / "checkpoints").symlink_to(folder / "checkpoints")
    about["vocabulary"]["symbols"] = [97, 98]
  if damage == "newer":
    about["settings"]["new"] = 1
  if damage == "window":
    about["settings"]["window"] = 0
  if damage == "layers":
    del about["settings"]["layers"]
  if damage != "missing":
    (broken / "model.json").write_text("[" if damage == "json" else json.dumps(about))
  assert message in error(f"--output_dir={broken}", "--sample")


def test_divergence_is_reported_in_one_line_with_advice(program, text, tmp_path, capfd):
  folder = tmp_path / "model"
  flags = ("--cell=elman", "--optimizer=sgd", "--clip_norm=none", "--learning_rate=3e38")
  assert program(*SMALL, *flags, f"--corpus={text}", f"--output_dir={folder}") == 2
  assert "Try a smaller --learning_rate or --clip_norm." in capfd.readouterr().err


@pytest.mark.parametrize("name", ["characters", "words", "memorised_characters"])
def test_flagfiles_are_valid(error, tmp_path, name):
  flags = (f"--flagfile={FLAGFILES / name}.flags", f"--output_dir={tmp_path / name}")
  assert error(*flags, "--corpus=/nowhere").startswith("--corpus must be a file that exists")
