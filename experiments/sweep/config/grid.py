"""The design of a sweep: its axes, and the runs into which they expand."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.networks.cell_options import options_text
from experiments.sweep.config.runs import ADDED, Run
from rnn_jax.cells import cell_options

# A design is refused above this number of combinations, far more than anyone trains.
_MOST_COMBINATIONS = 10**6
AXES = (
  "cell",
  "depth",
  "hidden_size",
  "layer_norm",
  "residual",
  "dropout",
  "zoneout",
  "task",
  "sequence_length",
  "batch_size",
  "steps",
  "optimizer",
  "dtype",
  "loss_scale",
  "truncation",
  "gradient",
  "seed",
  "learning_rate",
  "schedule",
  "warmup",
  "momentum",
  "weight_decay",
  "clip_norm",
  "clip_by",
  "omega_penalty",
  "spectral_penalty",
  "flossing",
  "flossing_exponents",
  "flossing_steps",
  "initialization",
  "recurrent_gain",
  "forget_bias",
)
DESIGNS = ("grid", "one_at_a_time")

Axes = Mapping[str, Sequence[Any]]
CellOptions = Mapping[str, Mapping[str, Sequence[Any]]]


class Expansion(NamedTuple):
  """The runs of a sweep, and the settings without effect that reduced their number.

  Attributes:
    runs: the distinct runs.
    no_effect: one sentence for each setting that has several values, and networks or runs on which
      it has no effect.
  """

  runs: list[Run]
  no_effect: list[str]


def expand(
  axes: Axes,
  options: CellOptions | None = None,
  design: str = "grid",
  crossed: Sequence[str] = ("seed",),
) -> Expansion:
  """Returns the runs of a design.

  The design `grid` has a run for every combination of the axes' values with the values of the
  cell's options; the last axis varies fastest. The design `one_at_a_time` has the base, which is
  the first value of every axis and option, and a run for each other value, with the base's values
  of all other axes; each of these is repeated for every combination of the `crossed` axes.

  A setting that has no effect on a run is replaced by its neutral value, such as None, and runs
  that become equal are one run. These settings are: an axis that the cell has no option for, such
  as the forget bias of an Elman cell; the forget bias with cell options that replace it; the
  recurrent kernel, with a gain of 0; `clip_by` without clipping; `layer_norm`, `residual` and
  `dropout` with one layer; a truncation of at least the sequence length, or with another
  gradient estimator than `bptt`; `momentum` with `adam`; `flossing_exponents` without flossing; the
  recurrent gain or the recurrent kernel where `initialization` chooses it; `loss_scale` in float32,
  where gradients that training can use need no scale.

  Args:
    axes: {axis: its values}, for every axis in `AXES`; axes that older versions lack may be
      missing, and then have their default.
    options: {cell: {option: values}}, with the options in alphabetical order; None for no options.
    design: a member of `DESIGNS`.
    crossed: the axes that the design `one_at_a_time` does not vary alone.
  Raises:
    ValueError: if there are more than a million combinations, or if an option of a cell that is not
      the base has several values in the design `one_at_a_time`.
  """
  options = options or {}
  axes = complete(axes)
  points = _grid(axes, options) if design == "grid" else _one_at_a_time(axes, options, crossed)
  found: dict[Run, None] = {}
  no_effect: dict[tuple[str, str], None] = {}
  for run in points:
    effective, reasons = _effective(run, options)
    found[effective] = None
    no_effect.update(dict.fromkeys(reasons))
  several = {name for name in AXES if len(axes[name]) > 1}
  texts: dict[str, list[str]] = {}
  for name, reason in no_effect:
    if name in several:
      texts.setdefault(name, []).append(reason)
  return Expansion(
    [*found], [f"{name} has no effect {'; '.join(reasons)}" for name, reasons in texts.items()]
  )


def complete(axes: Axes) -> dict[str, Sequence[Any]]:
  """Returns the axes; those that older versions lack have their default where they are missing."""
  return {**{name: (default,) for name, default in ADDED.items()}, **axes}


def without_defaults(axes: Axes) -> dict[str, list[Any]]:
  """Returns the axes without those that older versions lack and that have only their default."""
  return {
    name: list(values)
    for name, values in axes.items()
    if name not in ADDED or list(values) != [ADDED[name]]
  }


def _check_count(count: int) -> None:
  if count > _MOST_COMBINATIONS:
    raise ValueError(
      f"A sweep must have at most {_MOST_COMBINATIONS} combinations of values, got {count}."
    )


def _grid(axes: Axes, options: CellOptions) -> Iterator[Run]:
  sizes = [math.prod(map(len, own.values())) for own in options.values()]
  _check_count(math.prod(len(axes[name]) for name in AXES) * max(sizes, default=1))
  for values in itertools.product(*(axes[name] for name in AXES)):
    point = dict(zip(AXES, values, strict=True))
    own = options.get(point["cell"], {})
    for chosen in itertools.product(*own.values()):
      yield Run(**point, options=tuple(zip(own, chosen, strict=True)))


def _one_at_a_time(axes: Axes, options: CellOptions, crossed: Sequence[str]) -> Iterator[Run]:
  base = {name: axes[name][0] for name in AXES}
  every = [axes[name] for name in crossed]
  _check_count(sum(len(axes[name]) for name in AXES) * math.prod(map(len, every)))

  def first(cell: str) -> dict[str, Any]:
    return {name: values[0] for name, values in options.get(cell, {}).items()}

  for cell, own in options.items():
    several = [name for name, values in own.items() if len(values) > 1]
    if cell != base["cell"] and several:
      raise ValueError(
        f"--cell_option={several[0]} of {cell} must have one value with --design=one_at_a_time, "
        f"which varies options of the base cell alone, {base['cell']}, got {len(own[several[0]])}."
      )
  changes: Iterable[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    *(({name: value}, {}) for name in AXES if name not in crossed for value in axes[name][1:]),
    *(
      ({}, {name: value})
      for name, values in options.get(base["cell"], {}).items()
      for value in values[1:]
    ),
  ]
  for axis, option in changes:
    point = {**base, **axis}
    given = {**first(point["cell"]), **option}
    for values in itertools.product(*every):
      own = dict(zip(crossed, values, strict=True))
      yield Run(**{**point, **own}, options=tuple(given.items()))


def _effective(run: Run, options: CellOptions) -> tuple[Run, list[tuple[str, str]]]:
  """Returns the run without the settings that have no effect on it, and (setting, why) of each."""
  given = dict(run.options)
  cell = f"on {run.cell}"
  neutral: dict[str, tuple[Any, str]] = {}
  for name in ("recurrent_gain", "forget_bias"):
    if name not in cell_options(run.cell):
      neutral[name] = (None, cell)
  if "forget_bias" not in neutral and _replace_forget_bias(given):
    neutral["forget_bias"] = (None, f"{cell} with {options_text(run.options)}")
  if run.initialization == "critical" and "recurrent_gain" not in neutral:
    neutral["recurrent_gain"] = (None, "with initialization=critical")
  if run.optimizer == "adam":
    neutral["momentum"] = (0.0, "with adam")
  if not run.flossing and not run.flossing_steps:
    neutral["flossing_exponents"] = (ADDED["flossing_exponents"], "without flossing")
  if run.clip_norm is None:
    neutral["clip_by"] = ("global_norm", "without clipping")
  if run.dtype == "float32":
    neutral["loss_scale"] = (None, "in float32")
  if run.depth == 1:
    for name, off in (("layer_norm", False), ("residual", False), ("dropout", 0.0)):
      neutral[name] = (off, "at depth 1")
  if run.gradient != "bptt":
    neutral["truncation"] = (None, f"with gradient={run.gradient}, which replaces it")
  elif run.truncation is not None and run.truncation >= run.sequence_length:
    neutral["truncation"] = (
      None,
      f"from sequence_length={run.sequence_length} on, which is full BPTT",
    )
  no_gain = run.recurrent_gain is not None and np.float32(run.recurrent_gain) == 0
  if "recurrent_kernel" in given and (no_gain or run.initialization in ("unitary", "lsuv")):
    given["recurrent_kernel"] = options[run.cell]["recurrent_kernel"][0]
  changed: dict[str, Any] = {name: value for name, (value, _) in neutral.items()}
  reasons = [(n, why) for n, (value, why) in neutral.items() if getattr(run, n) != value]
  return dataclasses.replace(run, **changed, options=tuple(given.items())), reasons


def _replace_forget_bias(options: Mapping[str, object]) -> bool:
  """Returns whether a cell with these options ignores its option `forget_bias`."""
  return options.get("chrono") is not None or options.get("forget_gate") is False
