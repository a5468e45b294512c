"""The grid of a sweep: its axes, and the runs into which they expand."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.sweep.config.runs import Run
from rnn_jax.cells import cell_options

# The grid is refused above this number of combinations, far more than anyone trains.
_MOST_COMBINATIONS = 10**6
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
  `clip_by` is ignored without clipping, several forget biases are ignored with cell options that
  replace them, and of several recurrent kernels with a gain of 0 only the first is trained.

  Args:
    axes: {axis: its values}, for every axis in `AXES`.
    options: {cell: {option: values}}, with the options in alphabetical order; None for no options.
  Raises:
    ValueError: if there are more than a million combinations.
  """
  sizes = [math.prod(map(len, own.values())) for own in (options or {}).values()]
  combinations = math.prod(len(axes[name]) for name in AXES) * max(sizes, default=1)
  if combinations > _MOST_COMBINATIONS:
    raise ValueError(
      f"A sweep must have at most {_MOST_COMBINATIONS} combinations of values, got {combinations}."
    )
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
      given = dict(zip(own, chosen, strict=True))
      if "recurrent_kernel" in own and np.float32(run.recurrent_gain) == 0:
        given["recurrent_kernel"] = own["recurrent_kernel"][0]
      # A single forget bias is kept, because it is in the ids of runs that were recorded before.
      ignored = len(axes["forget_bias"]) > 1 and _replace_forget_bias(given)
      bias = None if ignored else run.forget_bias
      runs.append(dataclasses.replace(run, options=tuple(given.items()), forget_bias=bias))
  return list(dict.fromkeys(runs))


def _replace_forget_bias(options: Mapping[str, object]) -> bool:
  """Returns whether a cell with these options ignores its option `forget_bias`."""
  return options.get("chrono") is not None or options.get("forget_gate") is False
