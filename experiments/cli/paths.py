"""Paths in the values of flags and in arguments."""

from __future__ import annotations

from pathlib import Path


def path(name: str, text: str) -> Path:
  """Returns the path in `text`, with `~` expanded.

  Args:
    name: the name of the flag or argument in errors, such as `--corpus` or `FOLDER`.
    text: the user's text.
  Raises:
    ValueError: if `text` cannot be a path.
  """
  try:
    text.encode()
    if "\0" in text:
      raise RuntimeError("a path cannot hold a null character")
    return Path(text).expanduser()
  except (UnicodeEncodeError, RuntimeError) as error:
    raise ValueError(f"{name} must be a path, got {text!r} ({error}).") from None


def absolute_path(name: str, text: str) -> Path:
  """Returns the absolute path in `text`, with `~` expanded; `name` is as in `path`.

  Raises:
    ValueError: if `text` cannot be a path, or is relative to a folder that has been deleted.
  """
  found = path(name, text)
  try:
    return found.absolute()
  except FileNotFoundError:
    raise ValueError(
      f"{name} must be an absolute path if the current folder has been deleted, got {text!r}."
    ) from None


def recorded_path(name: str, text: str) -> str:
  """Returns the absolute path in `text`, with `~` expanded, as a line of a flagfile can hold it.

  `name` is as in `path`.

  Raises:
    ValueError: if `absolute_path` raises it, or if the path has a line break or ends in a space.
  """
  absolute = str(absolute_path(name, text))
  path(name, absolute)  # the current folder's own path may not be UTF-8
  if absolute != absolute.rstrip() or "\n" in absolute or "\r" in absolute:
    raise ValueError(
      f"{name} must not contain a line break or end with whitespace, got {absolute!r}."
    )
  return absolute


def folder(name: str, text: str) -> Path:
  """Returns the folder in `text`, with `~` expanded; `name` is as in `path`.

  Raises:
    ValueError: if `text` is empty or cannot be a path.
  """
  if not text:
    raise ValueError(f"{name} must name a folder, got ''.")
  return path(name, text)
