"""The grid of a sweep: its axes, and the runs into which they expand."""

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
  """Returns a run for every combination of the axes' values with the values of the cell's options.

  The last axis varies fastest. Combinations that would train identical runs yield one run: an axis
  that does not apply to a cell, such as the forget bias to an Elman cell, is ignored for that cell,
  and `clip_by` is ignored without clipping.

  Args:
    axes: {axis: its values}, for every axis in `AXES`.
    options: {cell: {option: values}}, with the options in alphabetical order; None for no options.
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
