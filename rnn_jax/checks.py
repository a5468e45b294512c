"""Checks of arguments. Their errors name the argument, the rule, the value and the choices."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

T = TypeVar("T")
Kind = Literal["floats", "complex numbers", "integers", "booleans"]

_KINDS: dict[str, type] = {
  "floats": np.floating,
  "complex numbers": np.complexfloating,
  "integers": np.integer,
  "booleans": np.bool_,
}


def choice(kind: str, value: object, choices: Iterable[str], hint: str = "") -> str:
  """Returns `value` if it is one of `choices`.

  Args:
    kind: what is being chosen, for the message.
    value: the given choice.
    choices: the names to choose from.
    hint: a sentence on how to get more choices, for the message.
  Raises:
    ValueError: if `value` is not one of `choices`. The message suggests the most similar choice.
  """
  choices = sorted(choices)
  if isinstance(value, str) and value in choices:
    return value
  text, names = f"{value!s:.60}", {name.lower(): name for name in choices}
  near = difflib.get_close_matches(text.lower(), names, n=1)
  guess = f"; did you mean '{names[near[0]]}'?" if near else "."
  message = f"Unknown {kind} '{text}'{guess} Choose one of: {', '.join(choices)}."
  raise ValueError(f"{message} {hint}".rstrip())


def instance(name: str, value: T, kind: type, hint: str = "") -> T:
  """Returns `value` if it is an instance of the class `kind`.

  Args:
    name: the argument's name.
    value: the argument.
    kind: the required class.
    hint: name of a function that returns a `kind`, such as `load_corpus`, for the message.
  Raises:
    TypeError: if `value` is not an instance of `kind`.
  """
  if not isinstance(value, kind):
    source, what = f", from {hint}" if hint else "", kind.__name__
    article = "an" if what[0] in "AEIOU" else "a"
    raise TypeError(f"{name} must be {article} {what}{source}, got {shapes(value):.200}.")
  return value


def path(name: str, value: object) -> Path:
  """Returns `value` as a Path if it is a str or a path.

  Raises:
    TypeError: if `value` is neither.
  """
  if not isinstance(value, str | os.PathLike):
    raise TypeError(f"{name} must be a path, got {shown(value)}.")
  return Path(value)


@contextlib.contextmanager
def readable_file(name: str, path: Path) -> Iterator[os.stat_result]:
  """Yields a file's status. The caller reads the file in the block.

  Raises:
    ValueError: if the file is missing or not a regular file, or if the block raises an OSError.
  """
  try:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
      raise ValueError(f"{name} must be a file, got the folder {path}.")
    if not stat.S_ISREG(status.st_mode):
      raise ValueError(f"{name} must be a file on disk, got {path}.")
    yield status
  except FileNotFoundError:
    raise ValueError(f"{name} must be a file that exists, got {path}.") from None
  except OSError as error:
    raise ValueError(f"{name} must be readable, got {path} ({error.strerror or error}).") from None


def function(name: str, value: object) -> None:
  """Checks that `value` is callable.

  Raises:
    TypeError: if `value` is not callable.
  """
  if not callable(value):
    raise TypeError(f"{name} must be a function, got {shown(value)}.")


def boolean(name: str, value: object) -> bool:
  """Returns `value` if it is True or False.

  Raises:
    TypeError: if `value` is neither.
  """
  if not isinstance(value, bool | np.bool_):
    raise TypeError(f"{name} must be True or False, got {shown(value)}.")
  return bool(value)


def integer(name: str, value: object, *, minimum: int = 1) -> int:
  """Returns `value` if it is an integer of at least `minimum`.

  Raises:
    TypeError: if `value` is not an integer. Booleans and floats such as 2.0 are not accepted.
    ValueError: if `value` is below the minimum.
  """
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(f"{name} must be an integer, got {shown(value)}.")
  if value < minimum:
    raise ValueError(f"{name} must be at least {minimum}, got {value}.")
  return int(value)


def number(
  name: str,
  value: T,
  *,
  above: float = -math.inf,
  minimum: float = -math.inf,
  maximum: float = math.inf,
  below: float = math.inf,
) -> T:
  """Returns `value` if it is a finite number in range.

  Only the shape and dtype of a traced value are known, so its range is not checked.

  Raises:
    TypeError: if `value` is not a real number.
    ValueError: if `value` is not finite, or out of range.
  """
  if isinstance(value, jax.core.Tracer):
    if value.ndim != 0 or not (_is_kind(value.dtype, "floats", "integers")):
      raise TypeError(f"{name} must be a real scalar, got {shown(value)}.")
    return value
  if isinstance(value, bool | np.bool_ | str | bytes | bytearray) or getattr(value, "ndim", 0) != 0:
    raise TypeError(f"{name} must be a number, got {shown(value)}.")
  try:
    # `value` may be any object. If it is not a number, `float` raises a TypeError, which is handled
    # below but unknown to mypy.
    plain = float(value)  # type: ignore[arg-type]
  except OverflowError:  # an integer larger than any float
    plain = math.inf
  except (TypeError, ValueError):
    raise TypeError(f"{name} must be a number, got {shown(value)}.") from None
  if not math.isfinite(plain):
    raise ValueError(f"{name} must be finite, got {value}.")
  if plain <= above:
    raise ValueError(f"{name} must be greater than {above:g}, got {value}.")
  if plain < minimum:
    raise ValueError(f"{name} must be at least {minimum:g}, got {value}.")
  if plain > maximum:
    raise ValueError(f"{name} must be at most {maximum:g}, got {value}.")
  if plain >= below:
    raise ValueError(f"{name} must be below {below:g}, got {value}.")
  return value


def array(name: str, value: Any, *kinds: Kind) -> Array:
  """Returns `value` as a JAX array if its entries are of one of the given kinds.

  Raises:
    TypeError: if the entries are of another kind, or if `value` cannot be converted to an array.
  """
  rule = f"{name} must be an array of {' or '.join(kinds)}"
  try:
    given = jnp.asarray(value)  # raises if `value` cannot be converted
  except (TypeError, ValueError, OverflowError):
    raise TypeError(f"{rule}, got {shapes(value):.200}.") from None
  if not _is_kind(given.dtype, *kinds):
    raise TypeError(f"{rule}, got {shown(given)}.")
  return given


def tokens(name: str, value: Any, size: int) -> None:
  """Checks that tokens are in a vocabulary of `size` tokens. A tracer's values are not checked.

  Raises:
    ValueError: if a token is below 0, or not below `size`.
  """
  if isinstance(value, jax.core.Tracer) or not getattr(value, "is_fully_addressable", True):
    return
  values = np.asarray(value)
  if values.size and (values.min() < 0 or values.max() >= size):
    raise ValueError(
      f"{name} must hold tokens from 0 to {size - 1}, got {values.min()} to {values.max()}."
    )


def key(name: str, value: object) -> None:
  """Checks that `value` is a random key, typed or raw.

  Raises:
    TypeError: if `value` is not a random key.
  """
  if isinstance(value, jax.Array | np.ndarray):
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ():
      return
    # The shape of a raw key depends on the default generator.
    raw = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    if value.dtype == raw.dtype and value.shape == raw.shape:
      return
  raise TypeError(f"{name} must be a random key, such as jax.random.key(0), got {shown(value)}.")


def float_dtype(name: str, value: Any) -> None:
  """Checks that `value` is a real floating-point dtype.

  Raises:
    TypeError: if `value` is not such a dtype.
  """
  try:
    found = _is_kind(jax.dtypes.canonicalize_dtype(value), "floats")
  except TypeError:
    found = False
  if not found:
    raise TypeError(f"{name} must be a float dtype, got {shown(value)}.")


def per_layer(name: str, value: object, num_layers: int) -> None:
  """Checks that `value` is a sequence with one entry per layer.

  Raises:
    TypeError: if `value` is not a sequence, or is a NamedTuple, i.e. the carry of a single layer.
    ValueError: if the number of entries is not `num_layers`.
  """
  if not isinstance(value, Sequence) or isinstance(value, str) or hasattr(value, "_fields"):
    raise TypeError(f"{name} must be a sequence, one entry a layer, got {type(value).__name__}.")
  if len(value) != num_layers:
    raise ValueError(f"{name} must have {num_layers} entries, one a layer, got {len(value)}.")


def like(name: str, wanted: PyTree, given: PyTree, *, any_precision: bool = False) -> None:
  """Checks that the pytree `given` has the structure, shapes and dtypes of `wanted`.

  Args:
    name: the argument's name.
    wanted: pytree of arrays or of `ShapeDtypeStruct`s.
    given: the argument.
    any_precision: whether the precision may differ, e.g. float16 where `wanted` has float32.
  Raises:
    ValueError: if `given` differs from `wanted`. The message names the first leaf that differs.
  """
  expected: object = jax.tree.structure(wanted)
  got: object = jax.tree.structure(given)
  if got != expected:
    found = shapes(given)
    found = found if len(found) <= 1000 else f"{found[:997]}..."
    raise ValueError(f"{name} must have the structure {shapes(wanted)}, got {found}.")
  pairs = zip(jax.tree.leaves_with_path(wanted), jax.tree.leaves(given), strict=True)
  for (path, want), have in pairs:
    if _is_like(want, have, any_precision):
      continue
    precise = shown(want)
    if any_precision:
      kind = next(kind for kind in _KINDS if _is_kind(want.dtype, kind))
      precise = f"{kind} {list(want.shape)}"
    raise ValueError(f"{name}{jax.tree_util.keystr(path)} must be {precise}, got {shown(have)}.")


def shown(value: object) -> str:
  """Returns a value as text for messages: dtype and shape of an array, else a shortened `repr`."""
  if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
    return f"{value.dtype}{list(value.shape)}"
  text = " ".join(repr(value).split())
  return text if len(text) <= 60 else f"{text[:57]}..."


def shapes(tree: PyTree) -> str:
  """Returns a pytree as text for messages, with each leaf formatted by `shown`."""
  return repr(jax.tree.map(lambda leaf: _Verbatim(shown(leaf)), tree))


class _Verbatim(str):
  """A string whose `repr` has no quotation marks."""

  def __repr__(self) -> str:
    return str(self)


def _is_like(want: Any, have: Any, any_precision: bool) -> bool:
  if not (hasattr(have, "dtype") or isinstance(have, int | float | complex)):
    return False
  try:
    dtype = jnp.result_type(have)
  except TypeError:  # the dtype of another library, such as torch
    return False
  if any_precision:
    same = any(_is_kind(want.dtype, kind) and _is_kind(dtype, kind) for kind in _KINDS)
  else:
    same = want.dtype == dtype
  return same and want.shape == jnp.shape(have)


def _is_kind(dtype: np.dtype, *kinds: str) -> bool:
  return any(jnp.issubdtype(dtype, _KINDS[kind]) for kind in kinds)
