"""F10. The atlas: reach of the gradient in every cell, and what the cells learn.

All networks have about the same number of params, and each cell has its best learning rate on
each task. The measure of reach is the number of decades (powers of ten) by which the norm of the
gradient decreases from lag 0 to lag LAG. It is read in the upper of two layers, where the gradient
is that of the output times the step Jacobians of the cell alone.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib.figure
import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.gridspec import GridSpec
from matplotlib.image import AxesImage

from experiments.plotting import style
from experiments.reproduce.figure import Check, Figure, Outcome, absolute, at_least, at_most
from experiments.reproduce.training import sweep
from experiments.sweep.figures.panels import run_columns

# The tasks, and their names in the table and the picture.
TASKS = {
  "copy_memory": "copy",
  "adding": "adding",
  "associative_recall": "recall",
  "parity": "parity",
}
WHEN = ("before", "after")
SEEDS = (0, 1, 2, 3, 4)
SELECT_SEED = 100  # of the runs by which the learning rates are chosen
LAG = 35  # the decades lost are counted from lag 0 to this lag
# Decades lost: at most KEPT if the gradient is kept, at least LOST if it is lost. An earlier
# version of the figure had the same rates per step, 2 and 4 decades at lag 90.
KEPT, LOST = 0.8, 1.6
LEARNED = 0.5  # a cell has learned a task if its mean held-out loss is below this share of baseline
DARKEST = -8.0  # lower end of the color scale, in decades relative to lag 0
HEIGHT = 10.5  # of the picture, in inches

# The cells that are expected to keep the gradient at initialization, and those expected to lose it,
# each with a reason, mostly from the cell's paper.
KEEPS = {
  "irnn": "the identity passes every active unit's gradient through (Le et al., 2015)",
  "indrnn low=0.99": "u near 1, as the paper initializes it for long memories (Li et al., 2018)",
  "antisymmetric": "eigenvalues within O(ε) of 1 (Chang et al., 2019)",
  "exprnn": "an orthogonal kernel and modReLU (Lezcano-Casado and Martínez-Rubio, 2019)",
  "scornn": "an orthogonal kernel and modReLU (Helfrich et al., 2018)",
  "urnn": "a unitary kernel and modReLU (Arjovsky et al., 2016)",
  "cornn": "oscillators with a small time step (Rusch and Mishra, 2021)",
  "unicornn": "undamped oscillators with a small time step (Rusch and Mishra, 2021)",
  "nbrc": "bistable units, which never forget (Vecoven et al., 2021)",
  "clockwork": "slow modules keep their state between updates (Koutník et al., 2014)",
  "slstm forget_biases=linear": "forget biases from 3 to 6 (Beck et al., 2024)",
  "mlstm": "four heads with forget biases from 3 to 6 (Beck et al., 2024)",
  "delta_net negative_eigenvalues=false": "eigenvalues 1 except along the key (Yang et al., 2024)",
  "lru": "|λ| up to 1 (Orvieto et al., 2023)",
  "s4d": "time steps from 0.001 to 0.1 (Gu et al., 2022)",
  "s5": "time steps from 0.001 to 0.1 (Smith et al., 2023)",
  "s6": "time steps from 0.001 to 0.1 (Gu and Dao, 2023)",
  "rg_lru": "base radius 0.9 to 0.999 (De et al., 2024)",
  "lstm chrono=40": "forget gates for memories up to 40 steps (Tallec and Ollivier, 2018)",
  "gru chrono=40": "update gates for the same memories (Tallec and Ollivier, 2018)",
}
LOSES = {
  "elman": "tanh'(a) < 1 at every step (Pascanu et al., 2013)",
  "gru chrono=none": "z = ½ at b = 0 (Tallec and Ollivier, 2018)",
  "lstm chrono=none": "f = σ(1) = 0.73 (Tallec and Ollivier, 2018)",
  "ugrnn": "f = σ(1) = 0.73 (Collins et al., 2017)",
  "minimalrnn": "u = ½ at b = 0 (Chen et al., 2018)",
  "star": "f = σ(1) = 0.73 (Turkoglu et al., 2021)",
  "mut1": "z = ½ at b = 0 (Jozefowicz et al., 2015)",
  "mut2": "z = ½ at b = 0 (Jozefowicz et al., 2015)",
  "mut3": "z = ½ at b = 0 (Jozefowicz et al., 2015)",
  "mingru": "1 − z = ½ at b = 0",
  "minlstm": "f / (f + i) = 0.59 at b_f = 1",
  "qrnn": "f = ½ at b = 0 (Bradbury et al., 2017)",
  "sru": "f = ½ at b = 0 (Lei et al., 2018)",
}


class Profiles(NamedTuple):
  """The results on one task, each cell at its best learning rate; cells are named with options.

  Attributes:
    norms: for each cell, its log₁₀ lag profiles before and after training, relative to lag 0,
      averaged over seeds; if the carry has several leaves, of the largest of their norms at each
      lag. A seed is left out if its norm at lag 0 is 0; NaN if all are.
    broken: for each cell, the number of its norms that are inf or NaN.
    loss: for each cell, its mean held-out loss over seeds, as a share of the baseline; inf if a run
      diverged.
    standard_error: for each cell, that of this mean; NaN if a run diverged.
    rate: for each cell, its learning rate.
  """

  norms: dict[str, Float[np.ndarray, "2 lags"]]
  broken: dict[str, int]
  loss: dict[str, float]
  standard_error: dict[str, float]
  rate: dict[str, float]

  def lost(self, cell: str) -> Float[np.ndarray, " when"]:
    """Returns the decrease of the log₁₀ norm from lag 0 to lag LAG, before and after training."""
    return -self.norms[cell][:, LAG]

  def learned(self, cell: str) -> bool:
    """Returns whether the cell has learned the task."""
    return self.loss[cell] < LEARNED


def profiles(gradients: xr.Dataset, metrics: xr.Dataset) -> dict[str, Profiles]:
  """Returns the results on each task, from the records of a sweep."""
  ends = gradients.isel(step=[0, -1], layer=-1)
  # If the carry has several leaves, the largest norm shows how far the gradient reaches.
  states = [v for name, v in ends.items() if str(name).startswith("log10_lag_norm")]
  leaves = [v.transpose("run", "step", "lag").values.astype(float) for v in states]
  values = functools.reduce(np.fmax, leaves)
  share = metrics["held_out_loss"].isel(update=-1).values / metrics["baseline"].values
  share = np.where(np.isnan(share), np.inf, share)
  columns = run_columns(gradients)
  names = _short_names(columns["cell"])
  runs: dict[tuple[str, str], list[int]] = {}
  for i, (task, cell) in enumerate(zip(columns["task"], columns["cell"], strict=True)):
    runs.setdefault((task, names[cell]), []).append(i)
  found = {short: Profiles({}, {}, {}, {}, {}) for short in TASKS.values()}
  for (task, cell), indices in runs.items():
    norms, broken, loss, standard_error, rate = found[TASKS[task]]
    with np.errstate(invalid="ignore"):  # −inf − (−inf), if the norm is 0 at lag 0
      relative = values[indices] - values[indices, :, :1]
    norms[cell] = _mean(relative)
    broken[cell] = int(np.sum(np.isnan(values[indices]) | np.isposinf(values[indices])))
    loss[cell] = float(share[indices].mean())
    finite = np.isfinite(loss[cell])
    standard_error[cell] = float(scipy.stats.sem(share[indices])) if finite else np.nan
    (rate[cell],) = {columns["learning_rate"][i] for i in indices}
  return found


def _mean(values: Float[np.ndarray, "n rows lags"]) -> Float[np.ndarray, "rows lags"]:
  """Returns the mean over the first axis of the numbers that are not NaN; NaN if there are none."""
  known = ~np.isnan(values)
  total, count = np.sum(values, axis=0, where=known), known.sum(axis=0)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _short_names(cells: Collection[str]) -> dict[str, str]:
  """Returns the names of cells without the options that all cells of the same kind share."""
  options = {cell: cell.partition(" ")[2].split(", ") for cell in cells}
  kinds = {cell: cell.partition(" ")[0] for cell in cells}
  shared = {
    kind: set.intersection(*(set(options[cell]) for cell in cells if kinds[cell] == kind))
    for kind in kinds.values()
  }
  return {
    cell: " ".join([kind, ", ".join(o for o in options[cell] if o not in shared[kind])]).strip()
    for cell, kind in kinds.items()
  }


def run() -> Outcome:
  """Trains every cell on each of TASKS, by a sweep with the flagfile `cells_decay.flags`.

  The sweep's folder, `results/cells_decay`, is kept, so that an interrupted sweep resumes.
  """
  gradients, metrics, earlier = sweep("cells_decay.flags", folder=Path("results", "cells_decay"))
  made = outcome(profiles(gradients, metrics))
  if not earlier:
    return made
  note = f"{earlier} runs were recorded by an earlier call, whose duration is not counted."
  return made._replace(notes=[*made.notes, note])


def outcome(found: Mapping[str, Profiles]) -> Outcome:
  """Returns the table, checks, picture and notes, given the results on each task."""
  first = next(iter(found.values()))
  before = {
    cell: [float(of_task.lost(cell)[0]) for of_task in found.values()] for cell in first.norms
  }
  cells = sorted(before, key=lambda cell: float(np.nanmax(before[cell])))
  table = []
  for cell in cells:
    row: dict[str, object] = {"cell": cell}
    for task, of_task in found.items():
      lost = of_task.lost(cell)
      row |= {f"{task}: decades lost, {when}": float(lost[i]) for i, when in enumerate(WHEN)}
      row[f"{task}: loss / baseline"] = of_task.loss[cell]
      row[f"{task}: standard error"] = of_task.standard_error[cell]
      row[f"{task}: learning rate"] = of_task.rate[cell]
    table.append(row)

  broken = sum(sum(of_task.broken.values()) for of_task in found.values())
  learned = {task: [c for c in cells if of_task.learned(c)] for task, of_task in found.items()}
  reach = [float(found["adding"].lost(cell)[1]) for cell in learned["adding"]]
  surprising = [c for c in learned["adding"] if np.min(before[c]) >= LOST]
  idle = [c for c in cells if np.max(before[c]) <= KEPT and c not in learned["adding"]]
  checks: list[Check] = [
    absolute("norms that are inf or NaN", broken, 0, 0),
    *(
      at_most(f"keeps: {cell}, decades lost before, maximum", float(np.max(before[cell])), KEPT)
      for cell in KEEPS
      if cell in before
    ),
    *(
      at_least(f"loses: {cell}, decades lost before, minimum", float(np.min(before[cell])), LOST)
      for cell in LOSES
      if cell in before
    ),
    at_least("cells that learned to add", len(learned["adding"]), 5),
    at_most(
      "after, cells that learned to add: decades lost, maximum",
      float(np.max(reach)) if reach else np.inf,
      KEPT,
    ),
    at_least("cells that lost the gradient before, and learned to add", len(surprising), 1),
    at_least("cells that kept the gradient before, and did not learn to add", len(idle), 1),
  ]
  notes = [
    f"Decades lost from lag 0 to lag {LAG}, by task ({', '.join(found)}). "
    + _sentence("Expected to keep the gradient at initialization", KEEPS, before),
    _sentence("Expected to lose it", LOSES, before),
    *(
      f"Learned {task} (mean held-out loss below {LEARNED:g} of the baseline): "
      + (", ".join(learned[task]) or "none")
      + "."
      for task in found
    ),
    f"Keeping the gradient and learning are not the same. Lost at least {LOST:g} decades before "
    f"training on every task, and learned to add: {', '.join(surprising) or 'none'}. Lost at most "
    f"{KEPT:g}, and did not: {', '.join(idle) or 'none'}.",
    "Spearman's rank correlation of the held-out loss with the decades lost, over all cells: "
    + "; ".join(
      f"{task} {_correlation(of_task, cells, 0):.2f} before training, "
      f"{_correlation(of_task, cells, 1):.2f} after"
      for task, of_task in found.items()
    )
    + ".",
    f"Losses and decades lost are means over {len(SEEDS)} seeds. A seed has no decades lost if its "
    "norm at lag 0 is 0, because an example is predicted exactly. The learning rate of each cell "
    f"and task is the one of four with the smallest held-out loss on another seed, {SELECT_SEED}.",
    *(
      _where_lost(cell, task, of_task)
      for cell in KEEPS
      for task, of_task in found.items()
      if cell in before and of_task.lost(cell)[0] > KEPT
    ),
  ]
  return Outcome(table, checks, functools.partial(draw, found=found, cells=cells), notes)


def draw(figure: matplotlib.figure.Figure, found: Mapping[str, Profiles], cells: list[str]) -> None:
  """Draws heat maps [cell, lag], the losses [cell, task], and the losses against the decades lost.

  The first heat map shows the lag profiles before training, averaged over tasks; the others show
  those after training on each task.
  """
  figure.set_size_inches(style.WIDTH, HEIGHT)
  grid = GridSpec(2, len(found) + 2, figure, height_ratios=(5.2, 1))
  maps = [figure.add_subplot(grid[0, i]) for i in range(len(found) + 2)]
  first = _mean(np.stack([_relative(of_task, cells, 0) for of_task in found.values()]))
  image = _heat_map(maps[0], first, "before\n")
  for axis, (task, of_task) in zip(maps[1:], found.items(), strict=False):
    _heat_map(axis, _relative(of_task, cells, 1), f"after\n{task}")
  maps[0].set_yticks(range(len(cells)), cells)
  losses = np.array([[of_task.loss[cell] for of_task in found.values()] for cell in cells])
  scale = LogNorm(0.01, 1)
  shares = maps[-1].imshow(losses, aspect="auto", norm=scale, cmap="magma", interpolation="none")
  maps[-1].set_title("loss /\nbaseline", fontsize=style.SMALL)
  maps[-1].set_xticks(range(len(found)), list(found), rotation=90)
  for axis in maps[1:]:
    axis.set_yticks([])
  bar = functools.partial(
    figure.colorbar, location="bottom", fraction=0.02, pad=0.01, extend="both"
  )
  bar(image, ax=maps[:-1], label="log₁₀ ‖dL_T/dh_(T−k)‖, relative to lag 0", aspect=40)
  bar(shares, ax=maps[-1:], aspect=8)
  below = grid[1, :].subgridspec(1, len(found)).subplots(sharey=True, squeeze=False)[0]
  for i, (task, of_task) in enumerate(found.items()):
    _scatter(below[i], of_task, cells, task, labeled=i == 0)


def _relative(of_task: Profiles, cells: list[str], when: int) -> Float[np.ndarray, "cells lags"]:
  """Returns the log₁₀ lag profiles of the cells; a zero, −inf, becomes a very low number."""
  return np.maximum(np.stack([of_task.norms[cell][when] for cell in cells]), 10 * DARKEST)


def _heat_map(axis: Axes, values: Float[np.ndarray, "cells lags"], title: str) -> AxesImage:
  axis.set_title(title, fontsize=style.SMALL)
  axis.set_xlabel("lag k")
  scale = Normalize(DARKEST, 1)
  return axis.imshow(values, aspect="auto", norm=scale, cmap="viridis", interpolation="none")


def _scatter(axis: Axes, of_task: Profiles, cells: list[str], task: str, labeled: bool) -> None:
  """Draws each cell's loss against the decades that it lost before and after training."""
  loss = np.clip([of_task.loss[cell] for cell in cells], 1e-4, 3)
  for when, (color, marker) in enumerate((("#D55E00", "o"), ("#0072B2", "x"))):
    lost = np.clip([of_task.lost(cell)[when] for cell in cells], -2, 15)
    axis.scatter(lost, loss, s=8, c=color, marker=marker, lw=0.8, label=WHEN[when])
  axis.axhline(LEARNED, color=style.GRAY, ls=":", lw=0.8)
  axis.axhline(1, color=style.GRAY, ls="--", lw=0.8)
  axis.set_yscale("log")
  axis.set_title(task, fontsize=style.SMALL)
  axis.set_xlabel("decades lost")
  if labeled:
    axis.set_ylabel("loss / baseline")
    axis.legend(fontsize=style.SMALL - 2, handletextpad=0.1, loc="lower right")


def _where_lost(cell: str, task: str, of_task: Profiles) -> str:
  """Returns a sentence on the decades lost in the first step back, and in all steps after it."""
  drop = -float(of_task.norms[cell][0, 1])
  rest = float(of_task.lost(cell)[0]) - drop
  return (
    f"{cell} loses {drop:.2f} decades in the first step back and {rest:.2f} in the {LAG - 1} steps "
    f"after it ({task})."
  )


def _correlation(of_task: Profiles, cells: list[str], when: int) -> float:
  lost = [float(of_task.lost(cell)[when]) for cell in cells]
  loss = [of_task.loss[cell] for cell in cells]
  # A gradient that is 0 at lag 0, after perfect learning, has lost no defined number of decades.
  return float(scipy.stats.spearmanr(lost, loss, nan_policy="omit").statistic)


def _sentence(expected: str, why: dict[str, str], before: dict[str, list[float]]) -> str:
  """Returns a sentence that lists the cells in `why`, with the decades lost and the reasons."""
  parts = [
    f"{cell} ({', '.join(f'{decades:.1f}' for decades in before[cell])}): {reason}"
    for cell, reason in why.items()
    if cell in before
  ]
  return f"{expected}: " + "; ".join(parts) + "."


figure = Figure(
  title="The atlas: reach of the gradient in every cell, and what the cells learn",
  setting="copy memory, adding problem, associative recall and parity, T = 40, two layers with "
  "7680 params, batch 16, Adam, clip norm 1, 500 updates, matrix memories with four heads; for "
  "each cell and task the best of the learning rates 0.001, 0.003, 0.01 and 0.03, by the held-out "
  "loss on another seed; experiments/flagfiles/cells_decay.flags",
  source="own measurement; expectations from the cells' papers",
  seconds=4500,
  run=run,
  seeds=SEEDS,
)
