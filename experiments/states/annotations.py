"""Features of a text that the user marked in a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.runtime import files

_MOST, _LONGEST = 100, 60  # limits on the number of features and the length of their names


def read_annotations(
  path: Path, length: int, end: int | None, taken: Iterable[str]
) -> dict[str, Float[np.ndarray, " T"]]:
  """Reads a JSON object of features, each with the parts of the text in which it holds.

    {"dialogue": [[0, 17], [40, 52]], "dates": [[90, 100]]}

  A part goes from a token's number to that of the first token after the part.

  Args:
    path: the file.
    length: T, number of tokens to annotate. What is annotated after them is ignored.
    end: number of tokens in the text, the largest end of a part; None if it is not known.
    taken: names that a feature may not have.
  Returns:
    The values of each feature, 1 inside of its parts and 0 outside, by the feature's name.
  Raises:
    ValueError: if the file cannot be read or does not hold such an object.
  """
  try:
    marked = files.read_json(path)
  except OSError as error:
    raise ValueError(
      f"--annotations must be a readable file, got {path} ({error.strerror})."
    ) from None
  except ValueError as error:
    raise ValueError(f"--annotations: {error}") from None
  if not 1 <= len(marked) <= _MOST:
    raise ValueError(f"--annotations must contain 1 to {_MOST} features, got {len(marked)}.")
  taken = set(taken)
  for name in marked:
    if name in taken:
      raise ValueError(
        f"--annotations must not reuse the name of a built-in feature, got '{name}'."
      )
    if not (name.strip() and name.isprintable() and len(name) <= _LONGEST):
      raise ValueError(
        "--annotations must name features with 1 to "
        f"{_LONGEST} printable characters, got {name!a:.80}."
      )
  return {name: _feature(name, parts, length, end) for name, parts in marked.items()}


def _feature(name: str, parts: object, length: int, end: int | None) -> Float[np.ndarray, " T"]:
  """Returns the values of one feature."""
  rule = f"--annotations must hold a list of [start, end] for '{name}'"
  if not isinstance(parts, list):
    raise ValueError(f"{rule}, got {parts!r:.60}.")
  values = np.zeros(length)
  for part in parts:
    if not (isinstance(part, list) and len(part) == 2 and all(type(i) is int for i in part)):
      raise ValueError(f"{rule}, got {part!r:.60}.")
    start, stop = part
    if not 0 <= start < stop:
      raise ValueError(f"{rule} with 0 <= start < end, got {part!r:.60}.")
    if end is not None and stop > end:
      raise ValueError(f"{rule} with end at most {end}, the text's length, got {part!r:.60}.")
    values[min(start, length) : min(stop, length)] = 1
  return values
