"""Many runs at once: the only place that uses pmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax


def map_runs(function: Callable[..., Any], devices: Sequence[Any] | None = None) -> Any:
  """Maps independent runs over devices, one run a device, without any exchange between them.

    (run, state, data) ↦ (state, records)      run, state, state', records: [devices, ...]

  Args:
    function: `(run, state, data) -> (state, records)`, for a single run, pure.
    devices: where; all local devices by default.
  Returns:
    The pmapped function. `run` and `state` have a leading axis, one entry a device; `data` is the
    same for all. The old state's memory is reused, so it must not be read again.
  """
  # No collective is inside, so that calls in a row cannot deadlock on virtual CPU devices.
  return jax.pmap(function, in_axes=(0, 0, None), devices=devices, donate_argnums=1)
