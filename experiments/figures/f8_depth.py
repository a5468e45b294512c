"""F8. The gradient over depth and time, before and after training."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
from matplotlib.colors import Normalize

from experiments import plot_style
from experiments.figures.figure import Check, Figure, Outcome, absolute, at_least
from experiments.figures.training import sweep

TAIL = 100  # updates whose mean loss counts as the loss at the end
WHEN = ("before", "after")
LEAST_DECADES = 1.0


def run(*flags: str) -> Outcome:
  """Trains networks of 1 to 4 layers, by the sweep `depth.flags`.

  Args:
    *flags: of the sweep, that take the place of the file's.
  """
  gradients, metrics = sweep("depth.flags", *flags)
  ends = gradients["log10_grad_norm"].isel(step=[0, -1])
  norms: np.ndarray = ends.transpose("run", "step", "layer", "time").values.astype(float)
  final = metrics["loss"].values[:, -TAIL:].mean(axis=1)
  baseline = metrics.attrs["baseline"]
  kinds = list(dict.fromkeys(zip(gradients["cell"].values, gradients["depth"].values, strict=True)))
  # {cell, depth: [step, layer, time]}, mean over seeds of log10 norms
  maps: dict[tuple[str, int], np.ndarray] = {}
  losses: dict[tuple[str, int], float] = {}
  for cell, depth in kinds:
    found = ((gradients["cell"] == cell) & (gradients["depth"] == depth)).values
    maps[str(cell), int(depth)] = norms[found][:, :, :depth].mean(axis=0)
    losses[str(cell), int(depth)] = float(final[found].mean())

  lost = {kind: values[..., -1] - values[..., 0] for kind, values in maps.items()}
  table = [
    {
      "cell": cell,
      "layers": depth,
      "layer": layer + 1,
      "log10 at the last step, before": float(values[0, layer, -1]),
      "decades lost, before": float(lost[cell, depth][0, layer]),
      "log10 at the last step, after": float(values[1, layer, -1]),
      "decades lost, after": float(lost[cell, depth][1, layer]),
      "loss": losses[cell, depth],
    }
    for (cell, depth), values in maps.items()
    for layer in range(depth)
  ]
  unknown = sum(int((~np.isfinite(values)).sum()) for values in maps.values())
  checks: list[Check] = [
    absolute("norms that are zero, inf or NaN", unknown, 0, 0),
    at_least(
      "decades lost over time before training, least of all layers",
      min(values[0].min() for values in lost.values()),
      LEAST_DECADES,
    ),
  ]
  # Where a network has learned what lies far back, its gradient must have come to reach there.
  for kind, values in lost.items():
    if losses[kind] < baseline / 2:
      checks.append(
        at_least(
          f"{kind[0]}, {kind[1]} layers, which has learned: decades lost before − after, mean",
          (values[0] - values[1]).mean(),
          0.0,
        )
      )
  notes = [
    f"Loss at the end, baseline {baseline:.3f}: "
    + ", ".join(f"{cell} × {depth} {loss:.3f}" for (cell, depth), loss in losses.items())
    + ".",
  ]

  def draw(figure: matplotlib.figure.Figure) -> None:
    cells = list(dict.fromkeys(cell for cell, _ in maps))
    depths = sorted({depth for _, depth in maps})
    finite = np.concatenate([v[np.isfinite(v)] for v in maps.values()])
    scale = Normalize(max(finite.min(initial=0), finite.max(initial=0) - 12), finite.max(initial=0))
    axes = figure.subplots(
      len(depths),
      2 * len(cells),
      sharex=True,
      squeeze=False,
      gridspec_kw={"height_ratios": depths},
    )
    for (cell, depth), values in maps.items():
      for step, when in enumerate(WHEN):
        axis = axes[depths.index(depth), 2 * cells.index(cell) + step]
        length = values.shape[-1]
        image = axis.imshow(
          values[step],
          aspect="auto",
          origin="lower",
          norm=scale,
          cmap="viridis",
          extent=(-0.5, length - 0.5, 0.5, depth + 0.5),
        )
        axis.set_yticks(range(1, depth + 1))
        axis.tick_params(labelsize=plot_style.SMALL)
        if depth == depths[0]:
          axis.set_title(f"{cell}, {when}", fontsize=plot_style.MEDIUM)
        if depth == depths[-1]:
          axis.set_xlabel("step t", fontsize=plot_style.MEDIUM)
    figure.supylabel("layer", fontsize=plot_style.MEDIUM)
    figure.colorbar(image, ax=axes, label="log10 ‖dL/dh_t‖", extend="min")

  return Outcome(table, checks, draw, notes)


figure = Figure(
  title="Gradient over depth and time, before and after training",
  setting="adding problem, T = 50, 1 to 4 layers of 64, batch 32, Adam 0.002, clip norm 1, 1000 "
  "updates; hidden state; experiments/flagfiles/depth.flags",
  source="own measurement; the adding problem is of Hochreiter and Schmidhuber, 1997, "
  "https://doi.org/10.1162/neco.1997.9.8.1735",
  seconds=120,
  run=run,
  seeds=(0, 1),
)
