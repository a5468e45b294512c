"""Writes and reads `replay.npz`, from which the step at which a run diverged can be recomputed.

The file holds the step's inputs as plain arrays and JSON text. `experiments/replay.py` recomputes
the step.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from experiments.cli import plugins
from experiments.runtime import files, provenance
from experiments.sweep.config.runs import Run, run_of
from experiments.sweep.records.record import Snapshot, nonfinite_from_json, nonfinite_text
from experiments.sweep.training.divergence import DivergedStep
from experiments.sweep.training.run_setup import network, numbers_of, optimizer_of
from rnn_jax import checks, precision
from rnn_jax.cells import CELLS
from rnn_jax.gradient_flow import NonFinite
from rnn_jax.losses import LOSSES
from rnn_jax.tasks import TASKS, Batch
from rnn_jax.training import init_state
from rnn_jax.types import Array


def to_bytes(
  diverged: DivergedStep, nonfinite: NonFinite | None, imports: Sequence[str] = ()
) -> bytes:
  """Returns the contents of `replay.npz`: the snapshot's arrays and the rest as JSON in `about`.

  Args:
    diverged: the step.
    nonfinite: location of its first non-finite value.
    imports: modules that registered the run's cell or task.
  """
  about = {
    "run": dataclasses.asdict(diverged.run),
    "step": diverged.step,
    # A task from elsewhere may have a loss of its own; it is then that of the task.
    "loss": next((name for name, loss in LOSSES.items() if loss is diverged.loss), None),
    "output_size": diverged.output_size,
    "vocabulary_size": diverged.vocabulary_size,
    "place": nonfinite and nonfinite._asdict(),  # this key keeps its name from older versions
    "matmul_precision": jax.config.values["jax_default_matmul_precision"],
    "platform": jax.default_backend(),
    "versions": provenance.versions(provenance.PACKAGES),
    **({"import": list(imports)} if imports else {}),
  }
  file = io.BytesIO()
  np.savez(file, about=np.array(json.dumps(about)), **_named_leaves(diverged.snapshot))
  return file.getvalue()


def load(path: Path) -> tuple[DivergedStep, NonFinite | None, dict[str, Any]]:
  """Reads a file that holds the bytes from `to_bytes`, without unpickling or executing anything.

  Returns:
    (diverged step, recorded location of its first non-finite value or None, `about` as a dict).
  Raises:
    ValueError: if the file is unreadable, damaged, or not a replay file.
  """
  try:
    files.check_readable(path)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
      # `to_bytes` does not compress. Compressed arrays could be far larger than their file.
      if sum(part.file_size for part in archive.zip.infolist()) > path.stat().st_size:
        raise ValueError("its arrays are larger than the file")
      arrays = {name: archive[name] for name in archive.files}
    about = json.loads(str(arrays["about"]))
    # Suppress NumPy's warning, because `_restore` rejects a learning rate that overflows to inf.
    with np.errstate(over="ignore"):
      return _restore(about, arrays)
  except plugins.NotImportedError:
    raise
  except OSError as error:
    raise ValueError(f"FILE must be readable, got {path} ({error.strerror or error}).") from None
  except Exception as error:  # damaged files raise exceptions of many types
    raise ValueError(
      f"FILE must be the intact replay.npz of a sweep's run, got {path} ({error})."
    ) from None


def _restore(
  about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[DivergedStep, NonFinite | None, dict[str, Any]]:
  run = _run(about)
  if run.cell not in CELLS or (about["loss"] is None and run.task not in TASKS):
    plugins.check_imported("FILE", about)
  if checks.integer("depth", run.depth) > len(arrays):
    raise ValueError(f"depth must be at most the number of arrays, {len(arrays)}, got {run.depth}")
  sizes = about["output_size"], about["vocabulary_size"]
  # A sweep's sequences all have full length, so its batches have no `lengths`.
  precision.check_dtype("dtype", run.dtype)
  parts = {name: jnp.asarray(arrays[f"batch.{name}"]) for name in ("xs", "targets", "mask")}
  shape = (run.sequence_length, run.batch_size)
  for name, a in parts.items():
    if a.shape[:2] != shape:
      raise ValueError(f"batch.{name} must have leading axes {shape}, got shape {a.shape}")
  batch = Batch(**parts)
  optimizer = optimizer_of(run, numbers_of(run))

  def start(xs: Array) -> Snapshot:
    state = init_state(network(run, *sizes), optimizer, jax.random.key(0), xs)
    return Snapshot(state.params, state.opt_state, batch)

  shapes = jax.eval_shape(start, batch.xs)
  for name, like in _named_leaves(shapes).items():
    if (arrays[name].shape, arrays[name].dtype) != (like.shape, like.dtype):
      raise ValueError(f"{name} must be {like}, got {arrays[name].dtype}{arrays[name].shape}")
  snapshot = jax.tree.unflatten(
    jax.tree.structure(shapes), [arrays[name] for name in _named_leaves(shapes)]
  )
  step = checks.integer("step", about["step"], minimum=0)
  if step >= 2**31:  # keys and optimizer states count steps in int32
    raise ValueError(f"step must be below {2**31}, got {step}")
  if about["loss"] is None:
    loss = TASKS[checks.choice("task", run.task, TASKS)](*shape).loss
  else:
    loss = LOSSES[checks.choice("loss", about["loss"], LOSSES)]
  nonfinite = nonfinite_from_json(about["place"])
  nonfinite_text(nonfinite)  # raises an exception if a field has the wrong type
  for name, kind in (("matmul_precision", str | None), ("platform", str), ("versions", dict)):
    if not isinstance(about[name], kind):
      raise TypeError(f"{name} must be {kind}, got {about[name]!r}")
  return DivergedStep(run, step, loss, *sizes, snapshot), nonfinite, dict(about)


def _run(about: Mapping[str, Any]) -> Run:
  """Returns the run; files of versions up to 0.2.0 have some of its settings in `settings`."""
  saved = {**about["run"], **about.get("settings", {})}
  own = about["run"].get("hidden_size")
  return run_of({**saved, "hidden_size": saved.get("hidden_size") if own is None else own})


def _named_leaves(snapshot: Snapshot) -> dict[str, PyTree]:
  """Returns the snapshot's leaves by their dotted paths, such as `params.layers_0.cell.w_h`."""
  leaves = jax.tree_util.tree_leaves_with_path(snapshot)
  return {jax.tree_util.keystr(path, simple=True, separator="."): a for path, a in leaves}
