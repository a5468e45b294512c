"""A display of training progress: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

Report = Callable[[str, float, float | None], None]

_SECONDS_BETWEEN_LINES = 5.0


@contextlib.contextmanager
def show(
  total: int, finished: int, console: Console, *, title: str = "sweep", unit: str = "runs"
) -> Iterator[Report]:
  """Yields `report(activity, done, loss)`, to be called whenever there is progress.

  Args:
    total: total number of units of work.
    finished: number of units that were done before the call.
    console: where the bar is shown.
    title: title of the bar.
    unit: name of the units, in the plural.
  Yields:
    A function that displays its arguments: the current activity, the number of units done so far
    (a half-finished run counts as 0.5), and the latest loss, or None if there is no new loss.
  """
  start = time.monotonic()
  last_loss = math.nan

  def describe(done: float, loss: float | None) -> str:
    nonlocal last_loss
    last_loss = last_loss if loss is None else loss
    seconds = time.monotonic() - start
    rate = (done - finished) / seconds if seconds > 0 else 0.0
    left = f"{(total - done) / rate:.0f} s left" if rate > 0 else "? s left"
    shown = "-" if math.isnan(last_loss) else f"{last_loss:.4g}"
    return f"{math.floor(done)}/{total} {unit}, loss {shown}, {rate:.2f} {unit}/s, {left}"

  if console.is_terminal:
    columns = (
      TextColumn(title),
      BarColumn(),
      TextColumn("{task.fields[numbers]}"),
      TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
      task = bar.add_task("", total=total, completed=finished, numbers="")

      def update(what: str, done: float, loss: float | None) -> None:
        bar.update(task, description=what, completed=done, numbers=describe(done, loss))

      yield update
    return

  printed = -math.inf
  last_what = ""

  def line(what: str, done: float, loss: float | None) -> None:
    nonlocal printed, last_what
    numbers = describe(done, loss)
    if what != last_what or time.monotonic() - printed > _SECONDS_BETWEEN_LINES:
      print(f"{what}: {numbers}", flush=True)
      printed, last_what = time.monotonic(), what

  yield line
