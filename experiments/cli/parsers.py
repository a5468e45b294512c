"""Parsers of flag values, and functions that define flags with such parsers.

A parser returns the value of a flag's text, or raises ValueError with a message for the user.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from absl import flags

from rnn_jax import checks

Parse = Callable[[str], Any]
_LONGEST_RANGE = 10**6


def choice(kind: str, choices: Collection[str], none: str | None = None, hint: str = "") -> Parse:
  """Returns a parser that accepts one of `choices`.

  Args:
    kind: the noun for a choice in errors.
    choices: the choices.
    none: a text that is parsed as None; None if there is no such text.
    hint: a sentence on how to get more choices, for errors.
  """

  def parse(text: str) -> str | None:
    # The table of choices may have grown since the flag was defined; see `cli.plugins`.
    chosen = checks.choice(kind, text, [*choices, *([] if none is None else [none])], hint)
    return None if chosen == none else chosen

  return parse


def subset(kind: str, choices: Collection[str], hint: str = "") -> Parse:
  """Returns a parser of a comma-separated list of `choices`; for `kind` and `hint` see `choice`.

  The parsed value is such a list without duplicates, in the order of `choices`. The texts `none`
  and '' are parsed as ''.
  """

  def parse(text: str) -> str:
    if text in ("", "none"):
      return ""
    names = [*choices, "none"]
    given = [checks.choice(kind, item.strip(), names, hint) for item in text.split(",")]
    if "none" in given:
      raise ValueError(f"{kind} must be none alone, or a list without it, got '{text}'.")
    return ",".join(name for name in choices if name in given)

  return parse


def integer(name: str, minimum: int = 1, none: str | None = None) -> Parse:
  """Returns a parser of integers from `minimum` to 2³¹ − 1.

  Args:
    name: the flag's name.
    minimum: the smallest integer allowed.
    none: a text that is parsed as None; None if there is no such text.
  """
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
  """Returns a parser of floats that are finite in float32.

  Args:
    name: the flag's name.
    rule: describes the numbers that `accept` accepts, for errors: `a finite number above 0`.
    accept: returns whether a number is allowed.
    none: a text that is parsed as None; None if there is no such text.
  """
  rule = f"{name} must be {rule} in float32" + _or(none)

  def parse(text: str) -> float | None:
    if none is not None and text == none:
      return None
    try:
      value = float(text)
    except ValueError:
      raise ValueError(f"{rule}, got '{text}'.") from None
    with np.errstate(over="ignore"):
      single = float(np.float32(value))  # sweeps compute in float32
    if not (math.isfinite(single) and accept(single)):
      raise ValueError(f"{rule}, got {text}.")
    return value

  return parse


def positive(name: str, none: str | None = None) -> Parse:
  """Returns a parser of finite numbers above 0; `name` and `none` are as in `number`."""
  return number(name, "a finite number above 0", lambda v: v > 0, none)


def address(name: str, *words: str, none: str | None = None) -> Parse:
  """Returns a parser of HOST:PORT or one of `words`; `name` and `none` are as in `number`."""
  accepted = words if none is None else (*words, none)
  rule = f"{name} must be HOST:PORT, or {' or '.join(accepted)}"

  def parse(text: str) -> str | None:
    if none is not None and text == none:
      return None
    host, _, port = text.rpartition(":")
    if text in words or (host and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
      return text
    raise ValueError(f"{rule}, got '{text}'.")

  return parse


def several(name: str, parse: Parse) -> Callable[..., tuple[Any, ...]]:
  """Returns a parser of a comma-separated list of distinct values, each parsed by `parse`.

  An item such as `0..9` stands for the integers from 0 to 9. The parser is called as
  `parser(text)`, or as `parser(text, whole)` if `text` is only a part of the user's text. Errors
  quote the user's whole text.
  """

  def parse_all(text: str, whole: str | None = None) -> tuple[Any, ...]:
    whole = text if whole is None else whole
    items = [item.strip() for item in text.split(",")]
    if "" in items:
      raise ValueError(f"{name} must be a comma list without empty entries, got '{whole}'.")
    items = [item for given in items for item in _integers(name, given)]
    values = [parse(item) for item in items]
    # Sweeps compute in float32, where 0.1 and 0.1000000001 are equal.
    same = [np.float32(v) if isinstance(v, float) else v for v in values]
    same = [str(v) if isinstance(v, bool) else v for v in same]  # in Python, True == 1
    seen = set()
    for item, value in zip(items, same, strict=True):
      if value in seen:
        raise ValueError(f"{name} must not hold a value twice, got {item} in '{whole}'.")
      seen.add(value)
    return tuple(values)

  return parse_all


def _integers(name: str, item: str) -> list[str]:
  """Returns the integers of a range such as `0..9` as texts; any other item alone."""
  match = re.fullmatch(r"(\d{1,10})\.\.(\d{1,10})", item)
  if match is None:
    return [item]
  first, last = map(int, match.groups())
  if not first <= last < first + _LONGEST_RANGE:
    raise ValueError(
      f"{name} must hold ranges FIRST..LAST with FIRST <= LAST and at most {_LONGEST_RANGE} "
      f"integers, got '{item}'."
    )
  return [str(value) for value in range(first, last + 1)]


def boolean(name: str) -> Parse:
  """Returns a parser of `true` and `false`."""
  words = {"true": True, "false": False}

  def parse(text: str) -> bool:
    if text.lower() not in words:
      raise ValueError(f"{name} must be true or false, got '{text}'.")
    return words[text.lower()]

  return parse


def lengths(name: str, none: str) -> Parse:
  """Returns a parser of a comma list of lengths, each an integer or a multiple of T, such as `2T`.

  The parsed value is the list as text; the text `none` is parsed as ''.
  """

  def parse(text: str) -> str:
    if text in ("", none):
      return ""
    items = [item.strip().upper() for item in text.split(",")]
    for item in items:
      if not re.fullmatch("[1-9][0-9]{0,8}T?|T", item):
        raise ValueError(
          f"{name} must be a comma list of integers from 1 and multiples of T, such as 2T, or "
          f"'{none}', got '{text}'."
        )
    return ",".join(items)

  return parse


def sizes(name: str) -> Parse:
  """Returns a parser of comma-separated sizes, which may repeat; `none` and '' give ()."""

  def parse(text: str) -> tuple[int, ...]:
    if text in ("", "none"):
      return ()
    return tuple(integer(name)(item.strip()) for item in text.split(","))

  return parse


def define(name: str, default: str | None, parse: Parse, help: str) -> None:
  """Defines a flag with a single value."""
  flags.DEFINE(_Parser(parse), name, default, help)
  if default is not None:
    # absl's help would not show a default that is parsed as None.
    flags.FLAGS[name].default_as_str = f"'{default}'"


def define_list(name: str, default: str | None, parse: Parse, help: str) -> None:
  """Defines a flag that holds a comma-separated list of distinct values."""
  define(name, default, several(name, parse), help)


def define_several(name: str, parse: Parse, help: str) -> None:
  """Defines a flag that may be given several times; its value is a list, or None if not given."""
  flags.DEFINE_multi(_Parser(parse), flags.ArgumentSerializer(), name, None, help)
  flags.FLAGS[name].help = help  # absl appended a sentence to the help


def _or(none: str | None) -> str:
  return "" if none is None else f", or '{none}'"


class _Parser(flags.ArgumentParser):
  """A parse function, wrapped in the class that absl requires."""

  def __init__(self, parse: Parse) -> None:
    self._parse = parse

  def parse(self, argument: Any) -> Any:
    return self._parse(str(argument))

  def flag_type(self) -> str:
    return "string"
