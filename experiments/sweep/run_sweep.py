"""Trains a sweep from Python, for `experiments.run_sweep`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.cli import flag_table
from experiments.networks import cell_options
from experiments.runtime import backend, compilation_cache, provenance
from experiments.sweep import execution
from experiments.sweep.config import grid
from experiments.sweep.config.flags import TABLE
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import dataset
from rnn_jax import checks
from rnn_jax.cells import CELLS
from rnn_jax.cells import cell_options as options_of

if TYPE_CHECKING:
  import xarray as xr

_FLAGS = {flag.name: flag for flag in TABLE}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepSettings:
  """What a sweep from Python needs besides its axes and its folder.

  Each attribute means what the flag of the same name does, and has its default; the table in
  `experiments/sweep/README.md` describes them. None stands for the flag's `none`, `all`, `auto`,
  `at_end` or `as_logged`.

  Attributes:
    design: how the axes are combined, `grid` or `one_at_a_time`.
    select: axis whose best value is chosen for every setting, on held-out data; None to train all.
    select_seed: seeds of the runs by which `select` chooses.
    corpus: text for the task `charlm`: path of a file, or `stdlib`.
    data_file: data for the task `data_file`: path of an .npz file of arrays; None for no file.
    match_params: parameter budget from which each network's hidden size is chosen, or None.
    log_every: optimization steps between records of the gradient norms.
    measures: names of the measures to compute.
    measure_every: optimization steps between measurements; None for those of `log_every`.
    evaluate_every: optimization steps between evaluations; None to evaluate at the last step.
    test_sequence_length: further sequence lengths to evaluate at, such as 512 or `2T`.
    checkpoint_every: optimization steps between checkpoints.
    retry_failed: whether failed runs are trained again.
    keep_stale: whether records and checkpoints made by different code are kept.
    tracker: experiment tracker to which metrics and figures are sent, in addition to the records.
    overwrite: whether records of a sweep with other shared settings in the folder are replaced.
    devices: number of devices to use; None for all devices of this process.
    data_parallel: number of devices that share each run's batch.
    runs_per_device: maximum number of runs that a device trains at once, or None.
    remat: what the backward pass recomputes instead of storing it, `none` or `sqrt`.
    compilation_cache: folder that keeps compiled programs; `auto` or `none`.
  """

  design: str = "grid"
  select: str | None = None
  select_seed: int | Sequence[int] = (1000, 1001, 1002)
  corpus: str | Path = "stdlib"
  data_file: str | Path | None = None
  match_params: int | None = None
  log_every: int = 20
  measures: str | Sequence[str] = ("lag",)
  measure_every: int | None = None
  evaluate_every: int | None = None
  test_sequence_length: int | str | Sequence[int | str] = ()
  checkpoint_every: int = 1000
  retry_failed: bool = False
  keep_stale: bool = False
  tracker: str = "none"
  overwrite: bool = False
  devices: int | None = None
  data_parallel: int = 1
  runs_per_device: int | None = None
  remat: str = "none"
  compilation_cache: str | Path = "auto"


def run_sweep(
  settings: SweepSettings, axes: Mapping[str, Any], output_dir: str | Path, progress: bool = True
) -> xr.Dataset:
  """Trains a sweep and returns its records; `experiments.run_sweep` describes it."""
  checks.instance("settings", settings, SweepSettings)
  checks.instance("axes", axes, Mapping)
  hidden = contextlib.nullcontext() if progress else contextlib.redirect_stdout(io.StringIO())
  with hidden, backend.configured(), _errors_name_arguments():
    given = {**_given(settings), **_given_axes(axes), "output_dir": str(output_dir)}
    # `process_count` alone would create the devices, before `stages` can set their threads.
    if jax.distributed.is_initialized() and jax.process_count() > 1:
      raise ValueError(
        f"run_sweep trains in one process, got {jax.process_count()} that share their devices; "
        "python -m experiments.sweep --coordinator=auto trains in all of them."
      )
    sweeps = execution.stages(given)
    _report_devices(sweeps[0])
    with compilation_cache.used(str(settings.compilation_cache)):
      failed = execution.run_stages(sweeps, _run)
    if failed:
      warnings.warn(
        f"Some runs of the sweep in {sweeps[-1].folder} failed; their error.txt says why. "
        "SweepSettings(retry_failed=True) trains them again.",
        stacklevel=3,
      )
    return dataset.open_sweep(sweeps[-1].folder)


def _run(sweep: Sweep) -> bool:
  """Runs a sweep, and returns whether a run failed.

  Raises:
    KeyboardInterrupt: if Ctrl-C or SIGTERM stopped the sweep, and the process is to continue.
  """
  try:
    return execution.run(sweep, quits=False)
  except execution.Interrupted as error:
    if error.number != signal.SIGINT:
      signal.raise_signal(error.number)  # for the handler from before the sweep
  text = execution.progress_text(sweep)
  raise KeyboardInterrupt(f"{text} Call run_sweep again to resume.")


def _given(settings: SweepSettings) -> dict[str, Any]:
  """Returns {flag: value} of the settings that differ from their defaults."""
  found = {}
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    if value is not field.default:
      found[field.name] = flag_table.parser(_FLAGS[field.name])(_text(value))
  return found


def _given_axes(axes: Mapping[str, Any]) -> dict[str, Any]:
  """Returns {flag: value} of the axes, those that are options of cells under `cell_option`.

  Raises:
    ValueError: if an axis is neither an axis nor an option of a cell, or if a value is invalid.
  """
  found: dict[str, Any] = {"cell_option": []}
  options = {name for cell in CELLS for name in options_of(cell)}
  settings = [field.name for field in dataclasses.fields(SweepSettings)]
  for name, value in axes.items():
    if name in settings:
      raise ValueError(f"{name} is not an axis; pass it as SweepSettings({name}=...).")
    if name in grid.AXES:
      found[name] = flag_table.parser(_FLAGS[name])(_text(value, "full" * (name == "truncation")))
      continue
    checks.choice("axis", str(name).rpartition(".")[2], [*grid.AXES, *options])
    found["cell_option"].append(cell_options.parse(f"{name}={_text(value)}"))
  return found


def _text(value: Any, none: str = "") -> str:
  """Returns the text of one or several values of a flag; `none` is the text of None, or empty."""
  if isinstance(value, str) or np.ndim(value) == 0:
    return (none or "none") if value is None else str(value)
  return ",".join(_text(item, none) for item in value)


def _report_devices(sweep: Sweep) -> None:
  """Prints why a sweep does not use every CPU core, if JAX was in use before."""
  devices, cores = jax.devices(), len(provenance.cores())
  if devices[0].platform == "cpu" and len(devices) < cores and len(sweep.layout.devices) < cores:
    print(
      f"JAX was in use before this sweep, with {execution.count(len(devices), 'device')} for "
      f"{cores} CPU cores. In a new process, call run_sweep first: then each core trains a run."
    )


@contextlib.contextmanager
def _errors_name_arguments() -> Iterator[None]:
  """Removes the dashes of flags from the messages of ValueErrors and TypeErrors."""
  try:
    yield
  except (ValueError, TypeError) as error:
    text = re.sub(r"(?<![^\s(])--(?=[a-z])", "", str(error))
    raise (TypeError if isinstance(error, TypeError) else ValueError)(text) from None
