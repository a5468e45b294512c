"""The step at which a run diverged: in a file of plain arrays, and computed again."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runtime import provenance
from experiments.sweep.config.grid import Run, Settings, run_of, width
from experiments.sweep.training.rounds import Result, Snapshot
from experiments.sweep.training.run_setup import (
  mask_key,
  network,
  numbers_of,
  optimizer_of,
  time_options,
)
from rnn_jax import checks
from rnn_jax.gradient_flow import NonFinite, describe_nonfinite, first_nonfinite
from rnn_jax.losses import LOSSES
from rnn_jax.modules import DeepRNN
from rnn_jax.tasks import Batch, Task
from rnn_jax.training import init_state
from rnn_jax.types import Array

# The same object for the same sizes, so that runs which differ in numbers share what is compiled.
_network = functools.cache(network)


class BadStep(NamedTuple):
  """A step, with all that it takes to compute it again.

  Attributes:
    run, settings: which run, and its sweep's settings.
    step: which step.
    loss, output_size, vocabulary_size: of the task.
    snapshot: params and optimiser before the step, and its batch.
  """

  run: Run
  settings: Settings
  step: int
  loss: Callable[[Array, Array], Array]
  output_size: int
  vocabulary_size: int | None
  snapshot: Snapshot


def of(result: Result, settings: Settings, task: Task) -> BadStep | None:
  """The step at which the run of `result` diverged, if it did."""
  if result.diverged_step is None or result.snapshot is None:
    return None
  about = task.loss, task.output_size, task.vocabulary_size
  return BadStep(result.run, settings, result.diverged_step, *about, result.snapshot)


def find(bad: BadStep) -> NonFinite | None:
  """Where in the step the first NaN or infinity arises; None if, this time, there is none."""
  numbers = numbers_of(bad.run, bad.settings)
  params, opt_state, batch = bad.snapshot
  _, data_key = jax.random.split(jax.random.key(numbers.seed))
  return first_nonfinite(
    _model(bad.run, bad.settings, bad.output_size, bad.vocabulary_size),
    params,
    batch,
    bad.loss,
    optimizer=optimizer_of(bad.run, bad.settings, numbers),
    opt_state=opt_state,
    key=mask_key(data_key, bad.step),
    **time_options(bad.run, numbers),
  )


def words(place: NonFinite | None) -> str:
  """One line."""
  return describe_nonfinite(place) if place else "no bad place was found"


def place_of(data: Mapping[str, Any] | None) -> NonFinite | None:
  """The place out of what JSON makes of it."""
  if not data:
    return None
  return NonFinite(**{name: data[name] for name in NonFinite._fields})._replace(
    entry=tuple(data["entry"])
  )


def save(file: IO[bytes], bad: BadStep, place: NonFinite | None) -> None:
  """Writes a NumPy archive (.npz): arrays of numbers, and one JSON text, `about`."""
  about = {
    "run": dataclasses.asdict(bad.run),
    "settings": dataclasses.asdict(bad.settings),
    "step": bad.step,
    "loss": bad.loss.__name__,
    "output_size": bad.output_size,
    "vocabulary_size": bad.vocabulary_size,
    "place": place and place._asdict(),
    "matmul_precision": jax.config.values["jax_default_matmul_precision"],
    "platform": jax.default_backend(),
    "versions": provenance.versions(provenance.PACKAGES),
  }
  np.savez(file, about=np.array(json.dumps(about)), **_named(bad.snapshot))


def load(path: Path) -> tuple[BadStep, NonFinite | None, dict[str, Any]]:
  """Reads what `save` wrote; nothing in the file is executed.

  Returns:
    (step, place as it was found, all of `about`).
  Raises:
    ValueError: the file cannot be read, is damaged or another program's.
  """
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
      arrays = {name: archive[name] for name in archive.files}
    about = json.loads(str(arrays["about"]))
    with np.errstate(over="ignore"):  # what is not finite in float32 is refused
      return _restore(about, arrays)
  except OSError as error:
    raise ValueError(f"FILE must be readable, got {path} ({error.strerror or error}).") from None
  except Exception as error:  # zipfile, NumPy, JSON and wrong values raise each their own
    raise ValueError(f"FILE must be a sweep's replay.npz, whole, got {path} ({error}).") from None


def _restore(
  about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[BadStep, NonFinite | None, dict[str, Any]]:
  run = run_of(about["run"])
  settings = Settings(**about["settings"])
  if checks.integer("depth", run.depth) > len(arrays):
    raise ValueError(f"depth must be that of the params, got {run.depth}")
  sizes = about["output_size"], about["vocabulary_size"]
  # All steps of a sweep's sequences are valid, so that there are no lengths.
  parts = {name: jnp.asarray(arrays[f"batch.{name}"]) for name in ("xs", "targets", "mask")}
  shape = (settings.sequence_length, settings.batch_size)
  for name, a in parts.items():
    if a.shape[:2] != shape:
      raise ValueError(f"batch.{name} must begin with {shape}, got {a.shape}")
  batch = Batch(**parts)
  optimizer = optimizer_of(run, settings, numbers_of(run, settings))

  def start(xs: Any) -> Snapshot:
    state = init_state(_model(run, settings, *sizes), optimizer, jax.random.key(0), xs)
    return Snapshot(state.params, state.opt_state, batch)

  shapes = jax.eval_shape(start, batch.xs)
  for name, like in _named(shapes).items():
    if (arrays[name].shape, arrays[name].dtype) != (like.shape, like.dtype):
      raise ValueError(f"{name} must be {like}, got {arrays[name].dtype}{arrays[name].shape}")
  snapshot = jax.tree.unflatten(
    jax.tree.structure(shapes), [arrays[name] for name in _named(shapes)]
  )
  step = checks.integer("step", about["step"], minimum=0)
  loss = LOSSES[checks.choice("loss", about["loss"], LOSSES)]
  place = place_of(about["place"])
  words(place)  # raises where its values are of other types
  for name, kind in (("matmul_precision", str | None), ("platform", str), ("versions", dict)):
    if not isinstance(about[name], kind):
      raise TypeError(f"{name} must be {kind}, got {about[name]!r}")
  return BadStep(run, settings, step, loss, *sizes, snapshot), place, dict(about)


def _model(run: Run, settings: Settings, output_size: int, vocabulary_size: int | None) -> DeepRNN:
  about = run.cell, run.depth, width(run, settings), output_size, vocabulary_size
  return _network(*about, **dict(run.options))


def _named(snapshot: Snapshot) -> dict[str, Any]:
  """Leaves by the names on the way to them."""
  leaves = jax.tree_util.tree_leaves_with_path(snapshot)
  return {jax.tree_util.keystr(path, simple=True, separator="."): a for path, a in leaves}
