"""The folder of a trained language model: what it is, and the params that were best.

model.json         settings, vocabulary, text, versions
language_model.flags   feed it back as --flagfile and get the same model
metrics.jsonl      a line an evaluation
checkpoints/STEP   params of the best evaluation so far
result.json        how it ended
training.png       loss over training
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import files
from experiments.language.settings import Settings, make_model
from experiments.networks import Layers
from rnn_jax import checkpoints, checks
from rnn_jax.modules import DeepRNN
from rnn_jax.text import (
  Vocabulary,
  WordVocabulary,
  vocabulary_from_json,
  vocabulary_to_json,
)

KIND = "language model"


class Trained(NamedTuple):
  """A language model that was trained before.

  Attributes:
    settings: how.
    model: the network.
    variables: of its best evaluation.
    vocabulary: what its tokens are.
    step: updates before that evaluation.
    about: all of model.json.
  """

  settings: Settings
  model: DeepRNN
  variables: Any
  vocabulary: Vocabulary | WordVocabulary
  step: int
  about: dict[str, Any]


def check_folder(folder: Path, overwrite: bool) -> None:
  """Refuses a folder that holds something else, or a model that may not be replaced.

  Raises:
    ValueError: naming --output_dir, the rule and what is there.
  """
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"--output_dir must be a folder, got the file {folder}.")
  if not folder.is_dir() or not any(folder.iterdir()):
    return
  if not (folder / "model.json").exists():
    raise ValueError(f"--output_dir must be new, empty or a model's, got {folder}.")
  if not overwrite:
    raise ValueError(
      f"--output_dir holds a trained model, {folder}; --overwrite replaces it, and --sample and "
      "--evaluate use it."
    )


def begin(
  folder: Path,
  settings: Settings,
  vocabulary: Vocabulary | WordVocabulary,
  flags: str,
  about: dict[str, Any],
) -> None:
  """Starts a model's folder, in place of a model that was there."""
  for name in ("result.json", "metrics.jsonl", "training.png"):
    (folder / name).unlink(missing_ok=True)
  shutil.rmtree(folder / "checkpoints", ignore_errors=True)
  saved = {
    "kind": KIND,
    "settings": dataclasses.asdict(settings),
    "vocabulary": vocabulary_to_json(vocabulary),
    **about,
  }
  files.write_json(folder / "model.json", saved)
  files.write_text(folder / "language_model.flags", flags)


def write_metrics(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
  """Writes metrics.jsonl anew, a line an evaluation."""
  files.write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def keep(folder: Path, step: int, params: Any) -> None:
  """Keeps the params of the best evaluation so far, and then lets those before go."""
  place = folder / "checkpoints"
  place.mkdir(parents=True, exist_ok=True)
  before = _steps(place)
  checkpoints.save(place / str(step), params)
  for old in before:
    shutil.rmtree(place / str(old))


def load(folder: Path) -> Trained:
  """Reads a model's folder.

  Raises:
    ValueError: it is none, or damaged, or its parts do not belong together.
  """
  try:
    about = files.read_json(folder / "model.json")
  except OSError as error:
    raise ValueError(
      f"--output_dir must be the folder of a trained model, got {folder} "
      f"(model.json: {error.strerror})."
    ) from None
  if about.get("kind") != KIND:
    raise ValueError(f"{folder / 'model.json'} must be of a {KIND}, got {about.get('kind')!r}.")
  tokens = jnp.zeros((1, 1), jnp.int32)
  try:
    settings = _settings(about["settings"])
    vocabulary = vocabulary_from_json(about["vocabulary"])
    model = make_model(settings, vocabulary.size)
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens)["params"])
  except (KeyError, TypeError, ValueError, OverflowError) as error:
    reason = f"no {error}." if isinstance(error, KeyError) else error
    raise ValueError(f"{folder / 'model.json'} must be as it was written: {reason}") from None
  steps = _steps(folder / "checkpoints")
  if not steps:
    raise ValueError(f"{folder} holds no checkpoint yet; train the model first.")
  params = checkpoints.restore(folder / "checkpoints" / str(steps[-1]), like)
  return Trained(settings, model, {"params": params}, vocabulary, steps[-1], about)


def _settings(saved: dict[str, Any]) -> Settings:
  layers = dict(saved["layers"])
  layers["hidden_sizes"] = tuple(layers["hidden_sizes"])
  # Models from before cells had options to choose do not name any.
  layers["options"] = tuple((name, value) for name, value in layers.get("options", ()))
  settings = Settings(**{**saved, "layers": Layers(**layers)})
  for name in ("window", "batch_size"):  # what a model is evaluated in; others the network checks
    checks.integer(name, getattr(settings, name))
  return settings


def _steps(place: Path) -> list[int]:
  """The steps of which there are whole checkpoints, in order; orbax's own drafts are none."""
  if not place.is_dir():
    return []
  return sorted(int(path.name) for path in place.iterdir() if path.name.isdecimal())
