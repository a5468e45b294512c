"""The class `Tracker`, which sends the records of a sweep's runs to an experiment tracker."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.networks.cell_options import value_text
from experiments.runtime import exits, files
from experiments.sweep.config.runs import Run, run_config
from experiments.sweep.config.sweep import Sweep
from experiments.sweep.records import origins, run_gradients, sweep_folder
from experiments.sweep.trackers import wandb
from experiments.sweep.trackers.tracked_run import OpenRun, TrackedRun

# The variables of gradients.nc that are tracked begin with these names.
_NORMS = ("log10_grad_norm", "log10_lag_norm")
# The tracker is given up when it has not responded for this long, or for this long after the sweep
# was stopped.
_PATIENCE = 120.0
_PATIENCE_STOPPED = 10.0
# A wait that is longer is announced.
_UNNOTICED = 2.0


@dataclasses.dataclass
class _Followed:
  """A run whose records are being sent.

  Attributes:
    run: the run in the tracker.
    offset: number of bytes of its metrics.jsonl that have been sent.
  """

  run: TrackedRun
  offset: int = 0


class Tracker:
  """Sends a sweep's records to a tracker, from a thread of its own, which training never waits for.

  The first error is a warning, after which nothing more is sent. `close` must be called at the end.

  Args:
    name: name of the tracker, a module of this package.
    sweep: the sweep. Its folder must be prepared before its first run trains.
  Raises:
    ValueError: if the tracker needs a login, and the login fails.
  """

  def __init__(self, name: str, sweep: Sweep):
    if name == "wandb":
      wandb.log_in()
    self._name = name
    self._sweep = sweep
    self._followed: dict[str, _Followed] = {}
    self._view = ""
    self._failed = False
    # Calls that the thread makes, one after the other; None ends it.
    self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
    self._responded = time.monotonic()
    self._thread = threading.Thread(target=self._make_calls, daemon=True)
    self._thread.start()

  def following(
    self, on_progress: Callable[[Run, str, float, float | None], None]
  ) -> Callable[[Run, str, float, float | None], None]:
    """Returns an `OnProgress` that calls `on_progress`, and sends the run's new records."""

    def sending(run: Run, activity: str, share: float, loss: float | None) -> None:
      on_progress(run, activity, share, loss)
      ended = share == 1 and loss is None
      # Other reports without a loss precede new metrics; those on disk may be about to be replaced.
      if ended or loss is not None:
        self._call(functools.partial(self._send, run, ended))

    return sending

  def figures(self, folder: Path) -> None:
    """Sends the figures in a folder, as a run `figures`."""
    self._call(functools.partial(self._send_figures, folder))

  def close(self, stopped: bool = False) -> None:
    """Waits until all is sent, but not for a tracker that no longer responds.

    Args:
      stopped: whether the sweep was stopped, so that this process must end soon.
    """
    self._call(None)
    start = self._responded = time.monotonic()
    self._thread.join(_UNNOTICED)
    if self._thread.is_alive() and not self._failed:
      exits.say(f"Waiting for --tracker={self._name}. The sweep's records are on disk.")
    while self._thread.is_alive() and not self._failed:
      self._thread.join(0.1)
      since, patience = (start, _PATIENCE_STOPPED) if stopped else (self._responded, _PATIENCE)
      if time.monotonic() - since > patience:
        exits.warn(f"--tracker={self._name} did not respond for {patience:g} s and was left.")
        return
    if self._view and not stopped and not self._failed:
      print(f"View the tracked runs: {self._view}")

  def _call(self, call: Callable[[], None] | None) -> None:
    if not self._failed:
      self._calls.put(call)

  def _make_calls(self) -> None:
    """Makes the calls until there is a None; this is what the thread does."""
    try:
      for call in iter(self._calls.get, None):
        call()
        self._responded = time.monotonic()
      while self._followed:
        self._followed.popitem()[1].run.close(complete=False)
    except BaseException as error:  # trackers raise errors of any type, SystemExit included
      self._failed = True
      exits.warn(
        f"--tracker={self._name} failed; the sweep continues without it. "
        f"{type(error).__name__}: {error}"
      )
      for followed in self._followed.values():
        with contextlib.suppress(BaseException):
          followed.run.close(complete=False)

  def _open(self, name: str, config: Mapping[str, str | bool | int | float]) -> TrackedRun:
    module = importlib.import_module(f"experiments.sweep.trackers.{self._name}")
    open_run: OpenRun = module.open_run
    started = sweep_folder.read_sweep(self._sweep.folder).get("started")
    key = sweep_folder.json_sha256([started, origins.key(), name])[:16]
    run = open_run(self._sweep.folder, name, config, key)
    self._view = run.view
    return run

  def _send(self, run: Run, ended: bool) -> None:
    name = self._sweep.names[run]
    folder = self._sweep.folder / "runs" / name
    # While a run is trained again because other code made its record, the folder holds that record.
    if not ended and files.read_json(folder / "status.json").get("status") != "running":
      return
    if name not in self._followed:
      self._followed[name] = _Followed(self._open(name, _config(run, self._sweep)))
    followed = self._followed[name]
    with (folder / "metrics.jsonl").open("rb") as file:
      file.seek(followed.offset)
      new = file.read()
    new = new[: new.rfind(b"\n") + 1]  # a line may be half written
    followed.offset += len(new)
    for line in new.splitlines():
      values = json.loads(line)
      followed.run.scalars(values.pop("step"), values)
    if ended:
      for step, samples in _histograms(folder / "gradients.nc"):
        followed.run.histograms(step, samples)
      followed.run.close(complete=True)
      del self._followed[name]

  def _send_figures(self, folder: Path) -> None:
    run = self._open("figures", {})
    for path in sorted(folder.glob("*.png")):
      run.figure(path.stem, path)
    run.close(complete=True)


def _config(run: Run, sweep: Sweep) -> dict[str, str | bool | int | float]:
  """Returns the settings of a run, with cell options by name, and None as text."""
  found: dict[str, str | bool | int | float] = {}
  settings = run_config(run, sweep.settings, sweep.sha256)
  for name, value in {**settings, **{f"cell_option.{n}": v for n, v in run.options}}.items():
    if name == "options":
      continue
    if isinstance(value, (str, bool, int, float)):
      found[name] = value
    else:
      found[name] = "full" if name == "truncation" else value_text(value)
  return found


def _histograms(path: Path) -> Iterator[tuple[int, dict[str, Float[np.ndarray, " n"]]]]:
  """Yields (step, finite gradient norms over time or lag by variable and layer) of a run's file."""
  gradients = run_gradients.read(path)
  layers = gradients.coordinates["layer"]
  norms = {n: values for n, (_, values) in gradients.variables.items() if n.startswith(_NORMS)}
  for i, step in enumerate(gradients.coordinates["step"]):
    samples = {
      f"{name}/layer_{layer}": np.asarray(values[i, j], np.float64)
      for name, values in norms.items()
      for j, layer in enumerate(layers)
    }
    finite = {name: sample[np.isfinite(sample)] for name, sample in samples.items()}
    yield int(step), {name: sample for name, sample in finite.items() if sample.size}
