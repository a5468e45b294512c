"""What a sweep can measure beside the norms of every training step, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.gradient_flow import lag_profile
from rnn_jax.modules import DeepRNN
from rnn_jax.tasks import Batch, Task
from rnn_jax.types import Array, Carry, Cell, Params

Variables = dict[str, Array]


class Moment(NamedTuple):
  """A network in training, before the update of one step.

  Attributes:
    model: the network.
    params: its params.
    task: what it learns.
    batch: the step's, of which a device may have a share.
    mean: `[..., examples] -> [...]`, over the whole batch.
  """

  model: DeepRNN
  params: Any
  task: Task
  batch: Batch
  mean: Callable[[Array], Array]

  def apply(self, *args: Any, method: str) -> Any:
    """One of the model's methods, with its params."""
    return self.model.apply({"params": self.params}, *args, method=method)

  @property
  def network(self) -> tuple[Sequence[Cell], Sequence[Params], Array]:
    """(cells, their params, what the first of them reads)."""
    params = self.model.cell_params({"params": self.params})
    return self.model.cells, params, self.apply(self.batch.xs, method="encode")

  def loss(self, ys: Array, targets: Array) -> Array:
    """The task's loss of the top cell's outputs ys."""
    return self.task.loss(self.apply(ys, method="readout"), targets)


class Measure(NamedTuple):
  """One measure.

  Attributes:
    dims: of each of its variables, beside run and step.
    note: what it is, for a reader of the records.
    compute: its variables, one number for the whole batch in each place.
  """

  dims: tuple[str, ...]
  note: str
  compute: Callable[[Moment], Variables]


def by_leaf(name: str, layers: Sequence[Carry]) -> Variables:
  """[layer, ...] for each leaf of the carry: `name` for the hidden state, `name_cell` and so on."""
  named = [layer._asdict() if hasattr(layer, "_asdict") else {"hidden": layer} for layer in layers]
  return {
    name if leaf == "hidden" else f"{name}_{leaf}": jnp.stack([layer[leaf] for layer in named])
    for leaf in named[0]
  }


def _lag(moment: Moment) -> Variables:
  last_loss = functools.partial(moment.loss, targets=moment.batch.targets[-1])
  profile = lag_profile(*moment.network, last_loss)
  return by_leaf("log10_lag_norm", jax.tree.map(moment.mean, profile))


MEASURES: Mapping[str, Measure] = {
  "lag": Measure(
    ("layer", "lag"), "dL_T/dh_(T-k) of the loss at the last step alone, without truncation", _lag
  ),
}


def coordinates(sizes: Mapping[Any, int]) -> dict[str, np.ndarray]:
  """Values along the dimensions of norms and measures, by the sizes of those that are there."""
  first = {"layer": 1, "time": 0, "lag": 0}
  return {
    dim: np.arange(start, start + sizes[dim], dtype=np.int32)
    for dim, start in first.items()
    if dim in sizes
  }
