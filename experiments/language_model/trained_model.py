"""The folder of a language model, with its settings, its metrics and its best params.

model.json             settings, vocabulary, corpus, versions
language_model.flags   pass it as --flagfile to train the same model again
metrics.jsonl          one line per evaluation
checkpoints/STEP       params of the best evaluation so far
unfinished/STEP        checkpoints to resume from; deleted once training has finished
final/STEP             the training state after the last update, from which more steps continue
training.png           the loss curve
result.json            the outcome; present once training has finished
.lock                  held by the process that trains the model
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from experiments.cli import plugins
from experiments.language_model.settings import Settings, make_model
from experiments.language_model.texts import Texts
from experiments.networks.layers import Layers
from experiments.runtime import exits, files, locks, provenance
from rnn_jax import checkpoints, checks
from rnn_jax.cells import CELLS
from rnn_jax.modules import DeepRNN
from rnn_jax.text import (
  Corpus,
  Vocabulary,
  WordVocabulary,
  vocabulary_from_json,
  vocabulary_to_json,
)
from rnn_jax.types import Params

KIND = "language model"
_ROOT = "experiments.language_model.training"
# The files and folders of a model.
MODEL, FLAGFILE = "model.json", "language_model.flags"
METRICS, CURVE, RESULT = "metrics.jsonl", "training.png", "result.json"
BEST, UNFINISHED, FINAL = "checkpoints", "unfinished", "final"
_OUTCOME = (RESULT, METRICS, CURVE, BEST, UNFINISHED, FINAL)
_OURS = (MODEL, FLAGFILE, *_OUTCOME, locks.LOCK)


class TrainedModel(NamedTuple):
  """A language model loaded from its folder.

  Attributes:
    settings: the settings that it was trained with.
    model: the network.
    variables: the network's variables, `{"params": …}`, at the best evaluation.
    vocabulary: the vocabulary of its training text.
    step: number of updates before the best evaluation.
    metadata: the contents of model.json.
  """

  settings: Settings
  model: DeepRNN
  variables: dict[str, Params]
  vocabulary: Vocabulary | WordVocabulary
  step: int
  metadata: dict[str, Any]


def configuration(settings: Settings, corpus: Corpus) -> dict[str, object]:
  """Returns settings and corpus hash as JSON data; training resumes only if they are unchanged."""
  return {**dataclasses.asdict(settings), "corpus_sha256": corpus.sha256}


def with_recorded_path(settings: Settings, corpus: Corpus, folder: Path) -> Settings:
  """Returns the settings, with the path at which a model's folder records the same text, if any.

  A text that has moved is the same text if its SHA-256 is the same.
  """
  try:
    saved = files.read_json(folder / MODEL)
    path, sha256 = saved["settings"]["corpus"], saved["corpus"]["sha256"]
  except (OSError, ValueError, KeyError, TypeError):  # no model, or a damaged one
    return settings
  return dataclasses.replace(settings, corpus=path) if sha256 == corpus.sha256 else settings


def metadata(texts: Texts, baseline: float) -> dict[str, object]:
  """Returns the entries of model.json for the data, the baseline loss, versions and devices."""
  corpus, held_out = texts.corpus, texts.held_out
  return {
    "corpus": {"name": corpus.name, "sha256": corpus.sha256, "bytes": len(corpus.text)},
    "tokens": {
      "learned": len(texts.train.symbols),
      "held_out": 0 if held_out is None else len(held_out.symbols),
    },
    "baseline": baseline,
    "evaluation": "one stream",  # version 0.1.0, which has no such entry, read lanes in parallel
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "import": plugins.given(),
    "versions": provenance.versions(
      (*provenance.PACKAGES, "orbax-checkpoint", *provenance.plugins())
    ),
    "devices": [str(device) for device in jax.local_devices()],
    "git": provenance.git(),
    "code": provenance.code(_ROOT, task="", measures=()),
  }


def warn_if_changed(metadata: Mapping[str, Any], settings: Settings) -> None:
  """Prints a warning if other code than this trained a model, whose model.json is `metadata`."""
  if isinstance(metadata.get("code"), dict):
    code = provenance.code(_ROOT, settings.layers.cell, task="", measures=())
    text = provenance.difference(metadata, code)
    if text is not None:
      exits.warn(f"this model was trained by different code: {text}.")


def is_finished(folder: Path) -> bool:
  """Returns whether a folder holds a model whose training has finished."""
  return (folder / RESULT).exists()


def began_with_lanes(folder: Path) -> bool:
  """Returns whether version 0.1.0, which evaluated in lanes, began the training in a folder."""
  return "evaluation" not in files.read_json(folder / MODEL)


def check_folder(folder: Path, steps: int, overwrite: bool) -> None:
  """Checks that a model may be trained in a folder for a number of steps.

  Raises:
    ValueError: if `folder` is a file, holds files but no model, holds a model that was trained for
      at least as many steps while `overwrite` is False, or contains symbolic links in place of a
      model's files.
  """
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"--output_dir must be a folder, got the file {folder}.")
  files.check_no_links(*(folder / name for name in _OURS))
  if not (folder / MODEL).exists():
    # A process that was killed right after its start may have left these files.
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - {locks.LOCK, f"{MODEL}.tmp"}:
      raise ValueError(
        "--output_dir must be a new or empty folder, or the folder of a language model, got "
        f"{folder}."
      )
  elif is_finished(folder) and not overwrite:
    try:
      has_more = steps > _recorded(folder)["steps"]
    except (OSError, ValueError, KeyError, TypeError):  # a damaged model
      has_more = False
    if not has_more:
      raise ValueError(
        f"--output_dir already holds a trained model, {folder}. Pass --sample or --evaluate to use "
        "it, more --steps to train it further, or --overwrite to replace it."
      )


def can_resume(folder: Path, wanted: Mapping[str, object], overwrite: bool) -> bool:
  """Returns whether the training in a folder can be resumed for the wanted configuration.

  This is an unfinished training of this configuration, or a finished one of fewer steps.

  Args:
    folder: a folder that has passed `check_folder`.
    wanted: the configuration of the training to resume, from `configuration`.
    overwrite: whether a finished model, or a different model's unfinished training, may be
      replaced.
  Raises:
    ValueError: if `overwrite` is False, and the folder holds a different model, or a finished model
      that cannot be trained further; the message says why.
  """
  finished, steps = is_finished(folder), wanted["steps"]
  has_final = (folder / FINAL).exists()
  if not (folder / MODEL).exists() or (finished and overwrite):
    return False
  is_longer = False
  try:
    found = _recorded(folder)
    # A process may have been killed in `record_steps`, or before its first checkpoint.
    was_finished = has_final and not (folder / UNFINISHED).exists()
    if finished or was_finished:
      is_longer = steps > found["steps"]
    difference = checkpoints.difference({**found, "steps": steps} if is_longer else found, wanted)
  except (ValueError, KeyError, TypeError):
    difference = "model.json is damaged"
  if overwrite:
    return difference is None and not is_longer
  if difference is not None:
    kind = (
      "a different trained model" if finished else "the unfinished training of a different model"
    )
    raise ValueError(
      f"--output_dir holds {kind}, {folder}: its {difference}. Pass --overwrite to replace it, or "
      "choose another --output_dir."
    )
  if is_longer and wanted["schedule"] == "cosine":
    raise ValueError(
      f"--steps must stay {found['steps']} with --schedule=cosine, got {steps}: its learning rate "
      "has already decayed to 0. Pass --overwrite to train from the start."
    )
  if is_longer and not has_final:
    raise ValueError(
      f"--output_dir must hold the final training state if it is to be trained further; {folder} "
      "does not, because its training diverged or was run by version 0.1.0. Pass --overwrite to "
      "train from the start."
    )
  return True


def _recorded(folder: Path) -> dict[str, Any]:
  """Returns the configuration of the model in a folder, from its model.json."""
  saved = files.read_json(folder / MODEL)
  return {**saved["settings"], "corpus_sha256": saved["corpus"]["sha256"]}


def start(
  folder: Path,
  settings: Settings,
  vocabulary: Vocabulary | WordVocabulary,
  flagfile: str,
  metadata: Mapping[str, object],
) -> None:
  """Writes model.json and the flagfile of a new model, after deleting an earlier model's files."""
  files.remove(*(folder / name for name in _OUTCOME))
  saved = {
    "kind": KIND,
    "settings": dataclasses.asdict(settings),
    "vocabulary": vocabulary_to_json(vocabulary),
    **metadata,
  }
  files.write_json(folder / MODEL, saved)
  files.write_text(folder / FLAGFILE, flagfile)


def record_steps(folder: Path, settings: Settings, flagfile: str) -> None:
  """Writes a new number of steps to model.json and the flagfile; the model becomes unfinished.

  If model.json already has the settings' number of steps, this function does nothing.
  """
  saved = files.read_json(folder / MODEL)
  if saved["settings"]["steps"] == settings.steps:
    return
  # A process that was killed while it finished may have left these checkpoints of fewer steps.
  shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
  for name in (RESULT, CURVE):
    (folder / name).unlink(missing_ok=True)
  saved["settings"]["steps"] = settings.steps
  files.write_text(folder / FLAGFILE, flagfile)
  files.write_json(folder / MODEL, saved)


def write_metrics(folder: Path, entries: Sequence[Mapping[str, object]]) -> None:
  """Writes all entries to metrics.jsonl, one per line, replacing the file."""
  files.write_text(folder / METRICS, "".join(json.dumps(e) + "\n" for e in entries))


def save_best(folder: Path, step: int, params: Params) -> None:
  """Saves the params of the best evaluation so far, then deletes the previously saved params."""
  _save_only(folder / BEST, step, params)


def save_final(folder: Path, step: int, state: PyTree) -> None:
  """Saves the training state after the last update, then deletes an earlier one."""
  _save_only(folder / FINAL, step, state)


def _save_only(folder: Path, step: int, tree: PyTree) -> None:
  with contextlib.closing(checkpoints.Series(folder, keep=1)) as series:
    series.save(step, tree, {})


def finish(folder: Path, result: Mapping[str, object]) -> None:
  """Writes result.json, and deletes the checkpoints to resume from, which are no longer needed."""
  files.write_json(folder / RESULT, result)
  shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def load(folder: Path) -> TrainedModel:
  """Loads the model in a folder, with its best params.

  Raises:
    ValueError: if the folder holds no model with saved params, or a file in it is damaged.
  """
  path = folder / MODEL
  try:
    saved = files.read_json(path)
  except OSError as error:
    raise ValueError(
      f"--output_dir must be the folder of a trained model, got {folder} "
      f"(model.json: {error.strerror})."
    ) from None
  if saved.get("kind") != KIND:
    raise ValueError(f"{path} must describe a {KIND}, got {saved.get('kind')!r}.")
  tokens = jnp.zeros((1, 1), jnp.int32)
  try:
    settings = _settings(saved["settings"])
    if settings.layers.cell not in CELLS:
      plugins.check_imported(f"The model in {folder}", saved)
    vocabulary = vocabulary_from_json(saved["vocabulary"])
    model = make_model(settings, vocabulary.size)
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens)["params"])
  except plugins.NotImportedError:
    raise
  except (KeyError, TypeError, ValueError, OverflowError) as error:
    reason = f"missing key {error}." if isinstance(error, KeyError) else error
    raise ValueError(f"{path} is damaged, or from another version: {reason}") from None
  best = checkpoints.newest(folder / BEST, {}, lambda step: like)
  if best is None:
    raise ValueError(f"{folder} holds no checkpoint yet; train the model first.")
  if best.step is None:
    raise ValueError(best.damaged[0])
  warn_if_changed(saved, settings)
  return TrainedModel(settings, model, {"params": best.tree}, vocabulary, best.step, saved)


def _settings(saved: Mapping[str, Any]) -> Settings:
  """Rebuilds the Settings from the entry `settings` of model.json."""
  layers = dict(saved["layers"])
  layers["hidden_sizes"] = tuple(layers["hidden_sizes"])
  # A model.json that was saved before cells had options lacks this entry.
  layers["options"] = tuple((name, value) for name, value in layers.get("options", ()))
  settings = Settings(**{**saved, "layers": Layers(**layers)})
  # The network checks all other sizes.
  for name in ("window", "batch_size"):
    checks.integer(name, getattr(settings, name))
  return settings
