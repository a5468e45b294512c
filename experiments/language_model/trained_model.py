"""The folder of a trained language model: what it is, and the params that were best.

model.json         settings, vocabulary, text, versions
language_model.flags   feed it back as --flagfile and get the same model
metrics.jsonl      a line an evaluation
checkpoints/STEP   params of the best evaluation so far
unfinished/STEP    what the training goes on from, until it has ended
training.png       loss over training
result.json        how it ended; vouches for the rest
.lock              held by the process that trains
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.language_model.settings import Settings, make_model
from experiments.networks.layers import Layers
from experiments.runtime import files
from rnn_jax import checkpoints, checks
from rnn_jax.modules import DeepRNN
from rnn_jax.text import (
  Corpus,
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


def configuration(settings: Settings, corpus: Corpus) -> dict[str, Any]:
  """All that a training must share with an earlier one to go on from it."""
  return {**dataclasses.asdict(settings), "corpus_sha256": corpus.sha256}


def check_folder(folder: Path, overwrite: bool) -> None:
  """Refuses a folder that holds something else, or a model that may not be replaced.

  Raises:
    ValueError: naming --output_dir, the rule and what is there.
  """
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"--output_dir must be a folder, got the file {folder}.")
  if not (folder / "model.json").exists():
    # A lock and a draft are what is left of a process that was killed in its first moment.
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - {".lock", "model.json.tmp"}:
      raise ValueError(f"--output_dir must be new, empty or a model's, got {folder}.")
  elif (folder / "result.json").exists() and not overwrite:
    raise ValueError(
      f"--output_dir holds a trained model, {folder}; --overwrite replaces it, and --sample and "
      "--evaluate use it."
    )


def is_unfinished(folder: Path, wanted: dict[str, Any], overwrite: bool) -> bool:
  """Whether the folder holds this training, begun and not ended.

  Args:
    folder: as `check_folder` has passed it.
    wanted: the training's `configuration`.
    overwrite: whether another may be replaced.
  Raises:
    ValueError: it is another, which may not be replaced; with the first difference.
  """
  if not (folder / "model.json").exists() or (folder / "result.json").exists():
    return False
  try:
    about = files.read_json(folder / "model.json")
    found = {**about["settings"], "corpus_sha256": about["corpus"]["sha256"]}
    difference = checkpoints.difference(found, wanted)
  except (ValueError, KeyError, TypeError):
    difference = "model.json is damaged"
  if difference is not None and not overwrite:
    raise ValueError(
      f"--output_dir holds the unfinished training of another model, {folder}: its {difference}; "
      "--overwrite replaces it."
    )
  return difference is None


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
  for name in ("checkpoints", "unfinished"):
    shutil.rmtree(folder / name, ignore_errors=True)
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
  with contextlib.closing(checkpoints.Series(folder / "checkpoints", keep=1)) as series:
    series.save(step, params, {})


def end(folder: Path, result: dict[str, Any]) -> None:
  """Writes result.json; there is nothing to go on with any more."""
  files.write_json(folder / "result.json", result)
  shutil.rmtree(folder / "unfinished", ignore_errors=True)


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
  best = checkpoints.newest(folder / "checkpoints", {}, lambda step: like)
  if best is None:
    raise ValueError(f"{folder} holds no checkpoint yet; train the model first.")
  if best.step is None:
    raise ValueError(best.damaged[0])
  return Trained(settings, model, {"params": best.tree}, vocabulary, best.step, about)


def _settings(saved: dict[str, Any]) -> Settings:
  layers = dict(saved["layers"])
  layers["hidden_sizes"] = tuple(layers["hidden_sizes"])
  # Models from before cells had options to choose do not name any.
  layers["options"] = tuple((name, value) for name, value in layers.get("options", ()))
  settings = Settings(**{**saved, "layers": Layers(**layers)})
  for name in ("window", "batch_size"):  # what a model is evaluated in; others the network checks
    checks.integer(name, getattr(settings, name))
  return settings
