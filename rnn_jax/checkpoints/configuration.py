"""Configurations as JSON data, and the first difference of two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rnn_jax import checks


def difference(
  found: Mapping[str, object], wanted: Mapping[str, object], *, older: bool = False
) -> str | None:
  """Returns the first difference of two configurations as text, or None if they are equal.

  `{"layers": {"hidden_size": 32}}` against 64 gives `layers.hidden_size is 32, not 64`. Values are
  equal if they are the same JSON text: NaN equals NaN, and 1 differs from both 1.0 and True.

  Args:
    found: what is on disk.
    wanted: what it must be.
    older: `found` may be of an older version: an entry that it lacks counts as None, and an entry
      that `wanted` lacks is ignored.
  Raises:
    TypeError: one of them is not JSON data.
  """
  return _difference(as_json(found), as_json(wanted), "", older)


def as_json(configuration: Mapping[str, object]) -> dict[str, object]:
  """Returns the configuration as JSON reads it back: tuples become lists, keys become strings.

  Raises:
    TypeError: it is not a mapping, or not JSON data.
  """
  checks.instance("configuration", configuration, Mapping)
  try:
    return json.loads(json.dumps(dict(configuration)))
  except (TypeError, ValueError) as error:
    raise TypeError(f"configuration must be JSON data, got {error}.") from None


def canonical(data: object) -> bytes:
  """Returns JSON data as text that is equal if and only if the data is."""
  return json.dumps(data, sort_keys=True).encode()


def _difference(found: object, wanted: object, name: str, older: bool) -> str | None:
  if not (isinstance(found, dict) and isinstance(wanted, dict)):
    if canonical(found) == canonical(wanted):
      return None
    return f"{name} is {found!r:.80}, not {wanted!r:.80}"
  if older:
    found = {key: found.get(key) for key in wanted}
  for key in dict.fromkeys([*wanted, *found]):
    part = f"{name}.{key}" if name else key
    if not (key in found and key in wanted):
      have, want = (f"{tree[key]!r:.80}" if key in tree else "absent" for tree in (found, wanted))
      return f"{part} is {have}, not {want}"
    inner = _difference(found[key], wanted[key], part, older)
    if inner is not None:
      return inner
  return None
