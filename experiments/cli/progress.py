"""A display of training progress: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

TRAINING = "training"
_SECONDS_BETWEEN_LINES = 5.0


class Report(Protocol):
  """The function that `show` yields."""

  def __call__(self, activity: str, done: float, loss: float | None, subject: str = "") -> None:
    """Displays the arguments, which `show` describes."""


@contextlib.contextmanager
def show(
  total: int, finished: int, console: Console, *, title: str = "sweep", unit: str = "runs"
) -> Iterator[Report]:
  """Yields `report(activity, done, loss, subject)`, to be called whenever there is progress.

  The rate and the time left are estimated from the time that was spent in training alone: between
  two successive calls with the activity `training`.

  Args:
    total: total number of units of work.
    finished: number of units that were done before the call.
    console: where the bar is shown.
    title: title of the bar.
    unit: name of the units, in the plural.
  Yields:
    A function that displays its arguments: the activity that begins or continues, the number of
    units done so far (a half-finished run counts as 0.5), the latest loss, or None if there is no
    new loss, and what is being trained.
  """
  rate, last_loss = _TrainingRate(), math.nan

  def describe(activity: str, done: float, loss: float | None) -> str:
    nonlocal last_loss
    last_loss = last_loss if loss is None else loss
    speed = rate.after(activity, done)
    shown = "-" if math.isnan(last_loss) else f"{last_loss:.4g}"
    numbers = f"{math.floor(done)}/{total} {unit}, loss {shown}"
    if speed is None:
      return f"{numbers}, ? left"
    return f"{numbers}, {speed:.3g} {unit}/s, {_clock((total - done) / speed)} of training left"

  if console.is_terminal:
    columns = (
      TextColumn(title),
      BarColumn(),
      TextColumn("{task.fields[numbers]}"),
      TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
      task = bar.add_task("", total=total, completed=finished, numbers="")

      def update(activity: str, done: float, loss: float | None, subject: str = "") -> None:
        numbers = describe(activity, done, loss)
        bar.update(task, description=_text(activity, subject), completed=done, numbers=numbers)

      yield update
    return

  printed = -math.inf
  last_text = ""

  def line(activity: str, done: float, loss: float | None, subject: str = "") -> None:
    nonlocal printed, last_text
    text, numbers = _text(activity, subject), describe(activity, done, loss)
    if text != last_text or time.monotonic() - printed > _SECONDS_BETWEEN_LINES:
      print(f"{text}: {numbers}", flush=True)
      printed, last_text = time.monotonic(), text

  yield line


class _TrainingRate:
  """The number of units of work done per second of training."""

  def __init__(self) -> None:
    self._seconds = self._units = 0.0
    # (time, units done) at the previous report, if it was one of training.
    self._previous: tuple[float, float] | None = None

  def after(self, activity: str, done: float) -> float | None:
    """Returns the rate after a report; None if it is not known yet."""
    now = time.monotonic()
    if activity != TRAINING:
      self._previous = None
    else:
      if self._previous is not None:
        self._seconds += now - self._previous[0]
        self._units += done - self._previous[1]
      self._previous = now, done
    return self._units / self._seconds if self._seconds > 0 and self._units > 0 else None


def _text(activity: str, subject: str) -> str:
  """Returns `gru, depth 2: compiling`; the activity is left out where a subject is trained."""
  if not subject:
    return activity
  return subject if activity == TRAINING else f"{subject}: {activity}"


def _clock(seconds: float) -> str:
  """Returns a duration as h:mm:ss."""
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
