"""Values of flags: what may be given, and the error that says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from absl import flags

from rnn_jax import checks

Parse = Callable[[str], Any]


def choice(kind: str, choices: Iterable[str]) -> Parse:
  """One of `choices`."""
  names = sorted(choices)
  return lambda text: checks.choice(kind, text, names)


def subset(kind: str, choices: Iterable[str]) -> Parse:
  """Some of `choices`, a comma list, given back in their order; or the word `none`, as ''."""
  names = list(choices)

  def parse(text: str) -> str:
    if text in ("", "none"):
      return ""
    given = [checks.choice(kind, item.strip(), [*names, "none"]) for item in text.split(",")]
    if "none" in given:
      raise ValueError(f"{kind} must be none alone, or a list without it, got '{text}'.")
    return ",".join(name for name in names if name in given)

  return parse


def integer(name: str, minimum: int = 1, none: str | None = None) -> Parse:
  """An integer from `minimum` to 2³¹ − 1; or the word `none`, which gives None."""
  rule = f"{name} must be an integer from {minimum} to {2**31 - 1}" + _or(none)

  def parse(text: str) -> int | None:
    if none is not None and text == none:
      return None
    try:
      value = int(text)
    except ValueError:
      raise ValueError(f"{rule}, got '{text}'.") from None
    if not minimum <= value < 2**31:
      raise ValueError(f"{rule}, got {text}.")
    return value

  return parse


def number(name: str, rule: str, accept: Callable[[float], bool], none: str | None = None) -> Parse:
  """A float that `accept` accepts, finite in float32; or the word `none`, which gives None."""
  rule = f"{name} must be {rule} in float32" + _or(none)

  def parse(text: str) -> float | None:
    if none is not None and text == none:
      return None
    try:
      value = float(text)
    except ValueError:
      raise ValueError(f"{rule}, got '{text}'.") from None
    with np.errstate(over="ignore"):
      single = float(np.float32(value))  # what a run computes with
    if not (math.isfinite(single) and accept(single)):
      raise ValueError(f"{rule}, got {text}.")
    return value

  return parse


def positive(name: str, none: str | None = None) -> Parse:
  """A finite number above 0; or the word `none`, which gives None."""
  return number(name, "a finite number above 0", lambda v: v > 0, none)


def address(name: str, *words: str) -> Parse:
  """HOST:PORT, or one of some words, as they are."""
  rule = f"{name} must be HOST:PORT, or {' or '.join(words)}"

  def parse(text: str) -> str:
    host, _, port = text.rpartition(":")
    if text in words or (host and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
      return text
    raise ValueError(f"{rule}, got '{text}'.")

  return parse


def define(name: str, default: str, parse: Parse, help: str) -> None:
  """Defines a flag with a single value."""
  _define(name, default, parse, help, "none")


def define_axis(name: str, default: str, parse: Parse, help: str, none: str = "none") -> None:
  """Defines a flag that holds an axis of the grid."""
  define_list(name, default, parse, f"{help} A comma list is an axis of the sweep.", none)


def define_list(name: str, default: str, parse: Parse, help: str, none: str = "none") -> None:
  """Defines a flag that holds a comma list of different values."""
  _define(name, default, several(name, parse), help, none)


def define_several(name: str, parse: Parse, help: str) -> None:
  """Defines a flag that may be given several times; it holds a list, None where it was not."""
  flags.DEFINE_multi(_Parser(parse), _Serializer("none"), name, None, help)
  flags.FLAGS[name].help = help  # absl adds to it in words of its own


def several(name: str, parse: Parse) -> Callable[..., tuple[Any, ...]]:
  """A comma list of different values; `(text, whole)`, where text is only a part of what came."""

  def parse_all(text: str, whole: str | None = None) -> tuple[Any, ...]:
    whole = text if whole is None else whole
    items = [item.strip() for item in text.split(",")]
    if "" in items:
      raise ValueError(f"{name} must be a comma list without empty entries, got '{whole}'.")
    values = [parse(item) for item in items]
    # Runs compute in float32, where 0.1 and 0.1000000001 are the same.
    same = [np.float32(v) if isinstance(v, float) else v for v in values]
    same = [str(v) if isinstance(v, bool) else v for v in same]  # true is not 1
    for i, value in enumerate(same):
      if value in same[:i]:
        raise ValueError(f"{name} must not hold a value twice, got {items[i]} in '{whole}'.")
    return tuple(values)

  return parse_all


def define_sizes(name: str, help: str) -> None:
  """Defines a flag that holds a comma list of widths, or none of them."""

  def parse(text: str) -> tuple[int, ...]:
    if text in ("", "none"):
      return ()
    return tuple(integer(name)(item.strip()) for item in text.split(","))

  _define(name, "none", parse, f"{help}, a comma list, or none.", "none")


def _or(none: str | None) -> str:
  return "" if none is None else f", or '{none}'"


class _Parser(flags.ArgumentParser):
  """absl asks for a class."""

  def __init__(self, parse: Parse) -> None:
    self._parse = parse

  def parse(self, argument: Any) -> Any:
    return self._parse(str(argument))

  def flag_type(self) -> str:
    return "string"


class _Serializer(flags.ArgumentSerializer):
  """How a default is shown in the help text."""

  def __init__(self, none: str) -> None:
    self._none = none

  def serialize(self, value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return ",".join(self._none if v is None else str(v) for v in values)


def _define(name: str, default: str, parse: Parse, help: str, none: str) -> None:
  flags.DEFINE(_Parser(parse), name, default, help, serializer=_Serializer(none))
