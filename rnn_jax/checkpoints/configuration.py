"""Comparison of configurations: finds the first entry in which two of them differ."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rnn_jax import checks


def difference(
  found: Mapping[str, object], wanted: Mapping[str, object], *, older: bool = False
) -> str | None:
  """Returns the first difference between two configurations as text, or None if they are equal.

  For example, `{"layers": {"hidden_size": 32}}` differs from `{"layers": {"hidden_size": 64}}` by
  the text `layers.hidden_size is 32, not 64`. Two values are equal if their JSON texts are equal;
  thus NaN equals NaN, but 1 equals neither 1.0 nor True.

  Args:
    found: the configuration on disk.
    wanted: the configuration that it must equal.
    older: whether `found` may come from an older version of the program. If True, an entry that
      `found` lacks counts as None, and an entry that `wanted` lacks is ignored.
  Raises:
    TypeError: if one of the configurations is not JSON data.
  """
  return _difference(as_json(found), as_json(wanted), "", older)


def as_json(configuration: Mapping[str, object]) -> dict[str, object]:
  """Returns a configuration as it would be read back from JSON: tuples as lists, keys as strings.

  Raises:
    TypeError: if `configuration` is not a mapping, or not JSON data.
  """
  checks.instance("configuration", configuration, Mapping)
  try:
    return json.loads(json.dumps(dict(configuration)))
  except (TypeError, ValueError, RecursionError) as error:
    raise TypeError(f"configuration must be JSON data, got {error}.") from None


def canonical(data: object) -> bytes:
  """Returns JSON data as text, in a unique form: equal data give equal bytes."""
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
