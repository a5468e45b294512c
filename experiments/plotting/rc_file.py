"""Parameters that a user's matplotlibrc file sets over our style."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

from experiments.plotting.style import RC
from experiments.runtime import exits, files

_LARGEST = 2**20
# Parameters of windows; and a tight bounding box, which would change a figure's width.
_IGNORED = ("backend", "interactive", "toolbar", "savefig.bbox")


@contextlib.contextmanager
def applied(name: str, path: Path) -> Iterator[None]:
  """Applies a matplotlibrc file over our style while the block runs.

  Warnings of matplotlib in the block, such as that of a missing font, are printed once, in one line
  each. Colors, markers and widths of lines tell cells and settings apart, so the file does not
  change them.

  Args:
    name: the name of the flag that gives the path, in errors.
    path: the file.
  Raises:
    ValueError: if the file is not a matplotlibrc file, or if the block cannot draw with it, for
      example because it needs LaTeX, which is not installed.
  """
  parameters = {**RC, **_read(name, path)}
  with _messages() as said:
    try:
      with matplotlib.rc_context(parameters):
        yield
    except RuntimeError as error:
      lines = str(error).strip().split("\n")
      reason = next((line for line in lines if line.startswith("!")), lines[0])  # of LaTeX
      raise ValueError(f"{name}: figures cannot be drawn with {path} ({reason}).") from None
  for message in said:
    exits.warn(f"{path}: {message}")


def _read(name: str, path: Path) -> dict[Any, Any]:
  """Returns the parameters in a file."""
  files.check_readable(path, _LARGEST)
  with _messages() as said:
    try:
      found = matplotlib.rc_params_from_file(path, fail_on_error=True, use_default_template=False)
    except ValueError as error:
      raise ValueError(
        f"{name} must be a matplotlibrc file, got {path}: {str(error).rstrip('.')}."
      ) from None
  if said:
    raise ValueError(f"{name} must be a matplotlibrc file, got {path}: {said[0]}.")
  return {key: value for key, value in found.items() if key not in _IGNORED}


@contextlib.contextmanager
def _messages() -> Iterator[list[str]]:
  """Yields a list that receives, once each, what matplotlib warns about while the block runs."""
  said: dict[str, None] = {}
  listed: list[str] = []

  class Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
      said[record.getMessage().strip().split("\n")[0]] = None

  logger, handler = logging.getLogger("matplotlib"), Handler(logging.WARNING)
  propagates = logger.propagate
  logger.addHandler(handler)
  logger.propagate = False
  try:
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always")
      yield listed
  finally:
    logger.removeHandler(handler)
    logger.propagate = propagates
    said.update(dict.fromkeys(str(warning.message).split("\n")[0] for warning in caught))
    listed.extend(said)
