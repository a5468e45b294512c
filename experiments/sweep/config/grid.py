"""The grid of a sweep: its axes, and their expansion to runs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.sweep.config.runs import Run
from rnn_jax.cells import cell_options

AXES = (
  "cell",
  "depth",
  "truncation",
  "seed",
  "learning_rate",
  "clip_norm",
  "clip_by",
  "recurrent_gain",
  "forget_bias",
)


def expand(
  axes: Mapping[str, Sequence[Any]],
  options: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
) -> list[Run]:
  """Returns all combinations of the axes, the last one fastest, and of each cell's own options.

  An axis that does not apply to a cell, such as the forget bias to an Elman cell, is not expanded
  for it. Neither is `clip_by` for runs without clipping. Such runs would be identical.

  Args:
    axes: values of each of `AXES`.
    options: cell -> option -> values, the options in alphabetical order; None for no options.
  """
  runs = []
  for values in itertools.product(*(axes[name] for name in AXES)):
    point = dict(zip(AXES, values, strict=True))
    for name in {"recurrent_gain", "forget_bias"}.difference(cell_options(point["cell"])):
      point[name] = None
    run = Run(**point)
    if run.clip_norm is None:
      run = dataclasses.replace(run, clip_by="global_norm")
    own = (options or {}).get(run.cell, {})
    for chosen in itertools.product(*own.values()):
      runs.append(dataclasses.replace(run, options=tuple(zip(own, chosen, strict=True))))
  return list(dict.fromkeys(runs))
