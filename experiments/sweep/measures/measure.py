"""The types `Moment`, what a measure is computed from, and `Measure`."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.estimators import Estimator
from rnn_jax.losses import masked_mean
from rnn_jax.modules import DeepRNN
from rnn_jax.precision import at_least_float32, cast
from rnn_jax.tasks import Batch, Task
from rnn_jax.types import Array, Carry, Cell, Params

Variables = dict[str, Array]


class Moment(NamedTuple):
  """What measures are computed from: a run at one optimization step, before the update.

  Attributes:
    model: the network.
    params: the network's params.
    task: the task.
    batch: the whole batch of the step.
    share: the examples of the batch that this device processes; all of them unless several devices
      share the batch.
    estimator: the gradient estimator.
    mean: maps values [..., examples], for the examples in `share`, to their mean [...] over the
      whole batch.
    dtype: the run's precision.
    loss_scale: factor on the loss in the step's update.
  """

  model: DeepRNN
  params: Params
  task: Task
  batch: Batch
  share: Batch
  estimator: Estimator
  mean: Callable[[Array], Array]
  dtype: str = "float32"
  loss_scale: Array | float = 1.0

  def network(self, batch: Batch) -> tuple[Sequence[Cell], Sequence[Params], Array]:
    """Returns (the cell of each layer, each cell's params, the first cell's inputs xs)."""
    return self.model.trunk({"params": self.params}, batch.xs)

  def loss(self, ys: Array, targets: Array) -> Array:
    """Returns the task's loss [...] at each time step, given the top cell's outputs [..., H].

    The readout is computed in the precision of ys.
    """
    params = cast(self.params, ys.dtype)
    outputs: Any = self.model.apply({"params": params}, ys, method="readout")
    return self.task.loss(at_least_float32(outputs), targets)

  def mean_loss(self, ys: Array) -> Array:
    """Returns the batch's training loss, a scalar, given the top cell's outputs [T, B, H]."""
    return masked_mean(self.loss(ys, self.batch.targets), self.batch.mask)


class Measure(NamedTuple):
  """A measure of gradient flow, which records one or more variables of a run.

  Attributes:
    note: description that is stored in the records; editing it changes the bytes of the records.
    summary: description for the table of measures.
    cost: cost of computing the measure, for the table of measures.
    dims: dimensions of the measure's variables, in addition to run and step; () for numbers. A
      variable may have only the first of them.
    labels: {variable: label in figures}. The variables of carry leaves other than the hidden state,
      such as `…_cell`, have no label and are not drawn.
    compute: maps a `Moment` to the values of the variables, averaged over the batch.
    bounds: (lower bound, upper bound) of the values; None for unbounded values.
    needs: what a cell must have for this measure, as text; empty if the measure fits every cell.
    fits: returns whether a cell has what the measure needs.
    quantities: {variable: (what it is, unit)}, for readers of the records. The unit of a number is
      "1".
  """

  note: str
  summary: str
  cost: str
  dims: tuple[str, ...]
  labels: Mapping[str, str]
  compute: Callable[[Moment], Variables]
  bounds: tuple[float, float] | None = None
  needs: str = ""
  fits: Callable[[Cell], bool] = lambda cell: True
  quantities: Mapping[str, tuple[str, str]] = types.MappingProxyType({})

  def of(self, moment: Moment) -> Variables:
    """Returns the measure's variables; an empty dict if the cell lacks what the measure needs."""
    return self.compute(moment) if self.fits(moment.model.cells[0]) else {}


def by_leaf(name: str, layers: Sequence[Carry]) -> Variables:
  """Returns a variable [layer, ...] for each leaf of the carry, stacked over layers.

  The variable of the first leaf, the hidden state, is called `name`. The variable of any other leaf
  is called `name` plus the leaf's path in the carry, such as `name_cell` or `name_earlier_0`.

  Args:
    name: name of the variable of the hidden state.
    layers: for each layer, a pytree of values with the structure of the layer's carry.
  """
  paths = [path for path, _ in jax.tree.leaves_with_path(layers[0])]
  others = [jax.tree_util.keystr(path, simple=True, separator="_") for path in paths[1:]]
  leaves = zip(*map(jax.tree.leaves, layers), strict=True)
  names = [name, *(f"{name}_{other}" for other in others)]
  return dict(zip(names, map(jnp.stack, leaves), strict=True))
