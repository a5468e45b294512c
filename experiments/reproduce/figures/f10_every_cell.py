"""F10. Reach of the gradient in every cell, before and after training.

The measure of reach is the number of decades (powers of ten) by which the norm of the gradient
decreases from lag 0 to lag LAG.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import matplotlib.figure
import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage

from experiments.plotting import style
from experiments.reproduce.figure import Check, Figure, Outcome, absolute, at_least, at_most
from experiments.reproduce.training import sweep
from experiments.sweep.figures.panels import run_columns

TASKS = ("copy_memory", "adding")
WHEN = ("before", "after")
LAG = 90  # the decades lost are counted from lag 0 to this lag
TAIL = 100  # number of last updates whose mean loss is the final loss
KEPT, LOST = 2.0, 4.0  # decades lost: at most KEPT if the gradient is kept, at least LOST if not
DARKEST = -12.0  # lower end of the color scale, in decades relative to lag 0

# The cells that are expected to keep the gradient at initialization, and those expected to lose it,
# each with a reason, mostly from the cell's paper.
KEEPS = {
  "irnn": "the identity passes every active unit's gradient through (Le et al., 2015)",
  "indrnn low=0.99": "u near 1, as the paper initializes it for long memories (Li et al., 2018)",
  "antisymmetric": "eigenvalues within O(ε) of 1 (Chang et al., 2019)",
  "exprnn": "an orthogonal kernel and modReLU (Lezcano-Casado and Martínez-Rubio, 2019)",
  "cornn": "oscillators with a small time step (Rusch and Mishra, 2021)",
  "clockwork": "slow modules keep their state between updates (Koutník et al., 2014)",
  "slstm forget_biases=linear": "forget biases from 3 to 6 (Beck et al., 2024)",
  "lru": "|λ| up to 1 (Orvieto et al., 2023)",
  "rg_lru": "base radius 0.9 to 0.999 (De et al., 2024)",
  "lstm chrono=100": "forget gates for memories up to 100 steps (Tallec and Ollivier, 2018)",
  "gru chrono=100": "update gates for the same memories (Tallec and Ollivier, 2018)",
}
LOSES = {
  "elman": "tanh'(a) < 1 at every step (Pascanu et al., 2013)",
  "gru chrono=none": "z = ½ at b = 0 (Tallec and Ollivier, 2018)",
  "lstm chrono=none": "f = σ(1) = 0.73 (Tallec and Ollivier, 2018)",
  "minimalrnn": "u = ½ at b = 0 (Chen et al., 2018)",
  "mingru": "1 − z = ½ at b = 0",
  "minlstm": "f / (f + i) = 0.59 at b_f = 1",
}


class Profiles(NamedTuple):
  """The results on one task, averaged over seeds; cells are named with their options.

  Attributes:
    norms: for each cell, its log₁₀ lag profiles before and after training; if the carry has several
      leaves, the largest of their norms at each lag.
    loss: for each cell, the mean loss of the last TAIL updates.
    baseline: the task's baseline loss.
  """

  norms: dict[str, Float[np.ndarray, "2 lags"]]
  loss: dict[str, float]
  baseline: float

  def lost(self, cell: str) -> Float[np.ndarray, " when"]:
    """Returns the decrease of the log₁₀ norm from lag 0 to lag LAG, before and after training."""
    return self.norms[cell][:, 0] - self.norms[cell][:, LAG]


def profiles(gradients: xr.Dataset, metrics: xr.Dataset) -> Profiles:
  """Returns each cell's lag profiles and final loss, from the records of a sweep on one task."""
  ends = gradients.isel(step=[0, -1]).sel(layer=1)
  # If the carry has several leaves, the largest norm shows how far the gradient reaches.
  states = [v for name, v in ends.items() if str(name).startswith("log10_lag_norm")]
  leaves = [v.transpose("run", "step", "lag").values.astype(float) for v in states]
  values = functools.reduce(np.fmax, leaves)
  final = metrics["loss"].values[:, -TAIL:].mean(axis=1)
  cells = run_columns(gradients)["cell"]
  found = {cell: [i for i, c in enumerate(cells) if c == cell] for cell in cells}
  return Profiles(
    {cell: values[runs].mean(axis=0) for cell, runs in found.items()},
    {cell: float(final[runs].mean()) for cell, runs in found.items()},
    metrics.attrs["baseline"],
  )


def run() -> Outcome:
  """Trains every cell on each of TASKS, by sweeps with the flagfile `cells_decay.flags`."""
  found = {task: profiles(*sweep("cells_decay.flags", f"--task={task}")) for task in TASKS}
  return outcome(found)


def outcome(found: dict[str, Profiles]) -> Outcome:
  """Returns the table, checks, picture and notes, given the profiles on each task."""
  first = next(iter(found.values()))
  cells = sorted(first.norms, key=lambda cell: float(first.lost(cell)[0]))
  table = []
  for cell in cells:
    row: dict[str, object] = {"cell": cell}
    for task, of_task in found.items():
      lost = of_task.lost(cell)
      row |= {f"{task}: decades lost, {when}": float(lost[i]) for i, when in enumerate(WHEN)}
      row[f"{task}: loss / baseline"] = of_task.loss[cell] / of_task.baseline
    table.append(row)

  baseline = found["adding"].baseline
  broken = sum(
    int(np.isnan(norms).sum() + np.isposinf(norms).sum())
    for of_task in found.values()
    for norms in of_task.norms.values()
  )
  checks: list[Check] = [absolute("norms that are inf or NaN", broken, 0, 0)]
  before = {
    cell: [float(of_task.lost(cell)[0]) for of_task in found.values()] for cell in first.norms
  }
  checks += [
    at_most(f"keeps: {cell}, decades lost before, maximum", max(before[cell]), KEPT)
    for cell in KEEPS
    if cell in before
  ]
  checks += [
    at_least(f"loses: {cell}, decades lost before, minimum", min(before[cell]), LOST)
    for cell in LOSES
    if cell in before
  ]
  learned = [cell for cell in cells if _has_learned(found["adding"], cell)]
  most = max((float(found["adding"].lost(cell)[1]) for cell in learned), default=np.inf)
  checks += [
    at_least("cells that learned to add (loss below half the baseline)", len(learned), 5),
    at_most("after, cells that learned to add: decades lost, maximum", most, KEPT),
  ]
  notes = [
    f"Decades lost from lag 0 to lag {LAG}, by task ({', '.join(found)}). "
    + _sentence("Expected to keep the gradient at initialization", KEEPS, before),
    _sentence("Expected to lose it", LOSES, before),
    "Learned to add: " + (", ".join(learned) or "none") + ".",
  ]
  notes += [
    _where_lost(cell, task, of_task)
    for cell in KEEPS
    for task, of_task in found.items()
    if cell in before and of_task.lost(cell)[0] > KEPT
  ]
  if learned:
    best = min(learned, key=lambda cell: found["adding"].loss[cell])
    notes.append(
      f"The decades lost before training do not predict what can be learned: {best}, which lost "
      f"{float(found['adding'].lost(best)[0]):.1f} decades, reached the lowest loss, "
      f"{found['adding'].loss[best] / baseline:.2g} of the baseline."
    )

  return Outcome(table, checks, functools.partial(draw, found=found, cells=cells), notes)


def draw(figure: matplotlib.figure.Figure, found: Mapping[str, Profiles], cells: list[str]) -> None:
  """Draws heat maps [cell, lag] for each task, one before training and one after."""
  panels = figure.subplots(1, len(found) * len(WHEN), sharey=True)
  for i, (task, of_task) in enumerate(found.items()):
    for j, when in enumerate(WHEN):
      title = f"{task.split('_')[0]}, {when}"
      image = _heat_map(panels[i * len(WHEN) + j], of_task, cells, j, title)
  panels[0].set_yticks(range(len(cells)), cells, fontsize=style.SMALL)
  label = "log10 ‖dL_T/dh_(T−k)‖, relative to lag 0"
  figure.colorbar(image, ax=list(panels), label=label, extend="both")


def _has_learned(of_task: Profiles, cell: str) -> bool:
  return of_task.loss[cell] < of_task.baseline / 2


def _where_lost(cell: str, task: str, of_task: Profiles) -> str:
  """Returns a sentence on the decades lost in the first step back, and in all steps after it."""
  drop = float(of_task.norms[cell][0, 0] - of_task.norms[cell][0, 1])
  rest = float(of_task.lost(cell)[0]) - drop
  return (
    f"{cell} loses {drop:.1f} decades in the first step back, from h into its other "
    f"states, and {rest:.1f} in the {LAG - 1} steps after it ({task})."
  )


def _sentence(expected: str, why: dict[str, str], before: dict[str, list[float]]) -> str:
  """Returns a sentence that lists the cells in `why`, with the decades lost and the reasons."""
  parts = [
    f"{cell} ({', '.join(f'{decades:.1f}' for decades in before[cell])}): {reason}"
    for cell, reason in why.items()
    if cell in before
  ]
  return f"{expected}: " + "; ".join(parts) + "."


def _heat_map(axis: Axes, of_task: Profiles, cells: list[str], when: int, title: str) -> AxesImage:
  values = np.stack([of_task.norms[cell][when] - of_task.norms[cell][when, 0] for cell in cells])
  axis.set_title(title, fontsize=style.MEDIUM)
  axis.set_xlabel("lag k", fontsize=style.MEDIUM)
  axis.tick_params(labelsize=style.SMALL)
  # An exact zero, −inf, is replaced so that it gets the darkest color.
  shown = np.maximum(values, 10 * DARKEST)
  return axis.imshow(shown, aspect="auto", norm=Normalize(DARKEST, 1), cmap="viridis")


figure = Figure(
  title="Reach of the gradient in every cell, before and after training",
  setting="copy memory and adding problem, T = 100, one layer of 64 units, batch 32, "
  "Adam 0.002, clip norm 1, 1500 updates; experiments/flagfiles/cells_decay.flags",
  source="own measurement; expectations from the cells' papers",
  seconds=470,
  run=run,
  seeds=(0, 1),
)
