"""Errors that name the argument, the rule, what came, and the choices."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
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


def choice(kind: str, value: object, choices: Iterable[str]) -> str:
  """Returns `value` if it is one of `choices`.

  Raises:
    ValueError: it is not; the message suggests the nearest choice.
  """
  choices = sorted(choices)
  if isinstance(value, str) and value in choices:
    return value
  near = difflib.get_close_matches(str(value), choices, n=1)
  hint = f"; did you mean '{near[0]}'?" if near else "."
  raise ValueError(f"Unknown {kind} '{value}'{hint} Choose one of: {', '.join(choices)}.")


def instance(name: str, value: T, kind: type, hint: str = "") -> T:
  """Returns `value` if it is a `kind`.

  Args:
    name: of the argument.
    value: the argument.
    kind: its class.
    hint: where a `kind` comes from, such as `load_corpus`.
  Raises:
    TypeError: it is not.
  """
  if not isinstance(value, kind):
    source = f", from {hint}" if hint else ""
    raise TypeError(f"{name} must be a {kind.__name__}{source}, got {shapes(value):.200}.")
  return value


def function(name: str, value: object) -> None:
  """Checks that `value` can be called.

  Raises:
    TypeError: it cannot.
  """
  if not callable(value):
    raise TypeError(f"{name} must be a function, got {shown(value)}.")


def boolean(name: str, value: object) -> bool:
  """Returns `value` if it is True or False.

  Raises:
    TypeError: it is neither.
  """
  if not isinstance(value, bool | np.bool_):
    raise TypeError(f"{name} must be True or False, got {shown(value)}.")
  return bool(value)


def integer(name: str, value: object, *, minimum: int = 1) -> int:
  """Returns `value` if it is an integer of at least `minimum`.

  Raises:
    TypeError: it is not an integer; booleans and floats such as 2.0 are refused.
    ValueError: it is below the minimum.
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

  Of a traced value only shape and dtype are known, so its range goes unchecked.

  Raises:
    TypeError: it is not a real number.
    ValueError: it is not finite, or out of range.
  """
  if isinstance(value, jax.core.Tracer):
    if value.ndim != 0 or not (_is_kind(value.dtype, "floats", "integers")):
      raise TypeError(f"{name} must be a real scalar, got {shown(value)}.")
    return value
  if isinstance(value, bool | np.bool_ | str | bytes | bytearray) or getattr(value, "ndim", 0) != 0:
    raise TypeError(f"{name} must be a number, got {shown(value)}.")
  try:
    # `value` may be any object: `float` raises a TypeError where it is no number, which mypy cannot
    # know.
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
  """Returns `value` as a JAX array, if its entries are of one of `kinds`.

  Raises:
    TypeError: they are not, or it is no array of numbers.
  """
  rule = f"{name} must be an array of {' or '.join(kinds)}"
  try:
    given = jnp.asarray(value)  # raises if it cannot be an array
  except (TypeError, ValueError, OverflowError):
    raise TypeError(f"{rule}, got {shapes(value):.200}.") from None
  if not _is_kind(given.dtype, *kinds):
    raise TypeError(f"{rule}, got {shown(given)}.")
  return given


def key(name: str, value: object) -> None:
  """Checks that `value` is a random key.

  Raises:
    TypeError: it is not.
  """
  if isinstance(value, jax.Array | np.ndarray):
    new_style = jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ()
    # How long a raw key is depends on the generator; jax.random checks that.
    if new_style or (value.dtype == jnp.uint32 and value.ndim == 1):
      return
  raise TypeError(f"{name} must be a random key, such as jax.random.key(0), got {shown(value)}.")


def float_dtype(name: str, value: Any) -> None:
  """Checks that `value` is the dtype of floats.

  Raises:
    TypeError: it is not.
  """
  try:
    found = _is_kind(jax.dtypes.canonicalize_dtype(value), "floats")
  except TypeError:
    found = False
  if not found:
    raise TypeError(f"{name} must be a float dtype, got {shown(value)}.")


def per_layer(name: str, value: object, num_layers: int) -> None:
  """Checks that `value` is a sequence with one entry a layer.

  Raises:
    TypeError: it is not a sequence; a carry, which is a NamedTuple, is the entry of one layer.
    ValueError: it has another length.
  """
  if not isinstance(value, Sequence) or isinstance(value, str) or hasattr(value, "_fields"):
    raise TypeError(f"{name} must be a sequence, one entry a layer, got {type(value).__name__}.")
  if len(value) != num_layers:
    raise ValueError(f"{name} must have {num_layers} entries, one a layer, got {len(value)}.")


def like(name: str, wanted: PyTree, given: PyTree, *, any_precision: bool = False) -> None:
  """Checks that the pytree `given` has the structure, shapes and dtypes of `wanted`.

  Args:
    name: of the argument.
    wanted: arrays or shapes.
    given: the argument.
    any_precision: allows float16 where float32 is wanted, and so on.
  Raises:
    ValueError: it differs; names the first leaf that does.
  """
  expected: object = jax.tree.structure(wanted)
  got: object = jax.tree.structure(given)
  if got != expected:
    raise ValueError(f"{name} must have the structure {shapes(wanted)}, got {shapes(given)}.")
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
  """Returns what error messages show of a value: an array's dtype and shape, else its `repr`."""
  if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
    return f"{value.dtype}{list(value.shape)}"
  text = " ".join(repr(value).split())
  return text if len(text) <= 60 else f"{text[:57]}..."


def shapes(tree: PyTree) -> str:
  """Returns a pytree as text, with `shown` for its leaves."""
  return repr(jax.tree.map(lambda leaf: _Verbatim(shown(leaf)), tree))


class _Verbatim(str):
  """Text whose `repr` has no quotation marks."""

  def __repr__(self) -> str:
    return str(self)


def _is_like(want: Any, have: Any, any_precision: bool) -> bool:
  if not (hasattr(have, "dtype") or isinstance(have, int | float | complex)):
    return False
  dtype = jnp.result_type(have)
  if any_precision:
    same = any(_is_kind(want.dtype, kind) and _is_kind(dtype, kind) for kind in _KINDS)
  else:
    same = want.dtype == dtype
  return same and want.shape == jnp.shape(have)


def _is_kind(dtype: np.dtype, *kinds: str) -> bool:
  return any(jnp.issubdtype(dtype, _KINDS[kind]) for kind in kinds)
