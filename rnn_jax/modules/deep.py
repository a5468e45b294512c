"""Deep recurrent networks that run in one direction of time, or in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from rnn_jax import checks
from rnn_jax.modules.model import Lengths, Mask, Unroll
from rnn_jax.modules.network import Network
from rnn_jax.modules.recurrent import MERGES, Bidirectional, Recurrent
from rnn_jax.probes import gradient_probe
from rnn_jax.types import Carry, Cell, Params, Sequences


class DeepRNN(Network):
  """A deep recurrent network: input encoding, a stack of recurrent layers, a readout.

  Like every Flax module it is called through two pure functions: `variables = model.init(key, xs)`
  and `carries, ys = model.apply(variables, xs)`.

  Attributes:
    cells … pooled: see `Network`.
    learned_carry: whether each layer's initial carry is a param, which is shared by all sequences
      and initialized to zeros.
  """

  learned_carry: bool = False

  def setup(self) -> None:  # noqa: D102
    super().setup()
    checks.boolean("learned_carry", self.learned_carry)
    self.layers = [Recurrent(cell, self.one_hot(i)) for i, cell in enumerate(self.cells)]
    if self.learned_carry:
      self.carry = [
        self.param(f"carry_{i}", lambda _, cell: cell.initial_carry(()), cell)
        for i, cell in enumerate(self.cells)
      ]

  def __call__(
    self,
    xs: Sequences,
    carries: Sequence[Carry] | None = None,
    *,
    probes: Sequence[Carry] | None = None,
    deterministic: bool = True,
    key: Key[Array, ""] | None = None,
    lengths: Lengths | None = None,
    mask: Mask | None = None,
    estimator: Unroll | None = None,
    estimator_key: Key[Array, ""] | None = None,
    **time: Any,
  ) -> tuple[tuple[Carry, ...], Float[Array, "steps B O"]]:
    """Runs the network over time.

    Args:
      xs: the inputs, vectors [T, B, D] or integer tokens [T, B].
      carries: each layer's initial carry. If None, zeros, or the learned carries.
      probes: a gradient probe for each layer, from `probes(xs)`.
      deterministic: whether dropout is disabled. If False, `apply` needs `rngs={"dropout": key}`.
      key: random key for stochastic cells. Each layer gets its own key, derived from this one.
      lengths: [B], number of valid steps of each sequence; see `unroll`.
      mask: where False, every layer skips the step; see `unroll`.
      estimator: the gradient estimator of each layer's params, from a constructor of
        `rnn_jax.estimators`; None for backpropagation through time. Outputs do not depend on it.
      estimator_key: random key for an estimator that draws numbers. Each layer gets its own key,
        derived from this one.
      **time: other arguments of `unroll`, such as truncation, resets, reverse, remat, clip_carry
        and scan_unroll.
    Returns:
      (final carry of each layer, outputs [T, B, output_size], or [1, B, output_size] if pooled).
    """
    if carries is not None:
      checks.per_layer("carries", carries, len(self.cells))
    if probes is not None:
      checks.per_layer("probes", probes, len(self.cells))
    if carries is None and self.learned_carry:
      if time.get("resets") is not None:
        raise ValueError("resets must be None with learned_carry, since they reset to zeros.")
      carries = self.learned_carries(xs.shape[1])

    def run(i: int, ys: Array) -> tuple[Carry, Array]:
      return self.layers[i](
        ys,
        None if carries is None else carries[i],
        probe=None if probes is None else probes[i],
        key=_layer_key(key, i),
        lengths=lengths,
        mask=mask,
        estimator=estimator,
        estimator_key=_layer_key(estimator_key, i),
        **time,
      )

    final, ys = self.through(run, xs, deterministic)
    return final, self.readout(ys, lengths, mask)

  def learned_carries(self, batch_size: int) -> tuple[Carry, ...]:
    """Returns the learned initial carry of each layer, repeated for every sequence of a batch."""

    def repeat(a: Array) -> Array:
      return jnp.broadcast_to(a, (batch_size, *a.shape))

    return tuple(jax.tree.map(repeat, carry) for carry in self.carry)

  @nn.nowrap
  def probes(self, xs: Sequences) -> tuple[Carry, ...]:
    """Returns a gradient probe for each layer, for sequences like xs; see `gradient_probe`."""
    return tuple(gradient_probe(cell, *_time_and_batch(xs)) for cell in self.cells)

  @nn.nowrap
  def cell_params(self, variables: Mapping[str, PyTree]) -> tuple[Params, ...]:
    """Returns the params of each layer's cell, taken from the model's variables."""
    try:
      return tuple(variables["params"][f"layers_{i}"]["cell"] for i in range(len(self.cells)))
    except (KeyError, TypeError):
      raise ValueError(
        "variables must be those of this network, {'params': {'layers_0': {'cell': …}, …}}, got "
        f"{checks.shown(variables)}."
      ) from None

  @nn.nowrap
  def trunk(
    self, variables: Mapping[str, PyTree], xs: Sequences
  ) -> tuple[Sequence[Cell], tuple[Params, ...], Array]:
    """Returns (cells, each cell's params, inputs of the first cell).

    Pass them to a measure of `rnn_jax.gradient_flow`. The measure then includes the cells' wrappers
    (`residual` and `layer_norm` as in training, `zoneout` as in evaluation) but not dropout. Its
    initial carry is zeros, even if the network has a learned carry.
    """
    params = self.cell_params(variables)
    encoded: Any = self.apply(variables, xs, method="encode")
    return self.cells, params, encoded

  @nn.nowrap
  def initial_carries(self, batch_size: int) -> tuple[Carry, ...]:
    """Returns each layer's initial carry, filled with zeros.

    Raises:
      TypeError, ValueError: if the batch size is not an integer of at least 1, or if the network
        has learned carries, since those are params, which this method does not receive.
    """
    if self.learned_carry:
      raise ValueError(
        "learned_carry must be False where carries are passed from call to call, got True."
      )
    checks.integer("batch_size", batch_size)
    return tuple(cell.initial_carry((batch_size,)) for cell in self.cells)


class BidirectionalRNN(Network):
  """A deep network whose layers run both forward and backward in time; see `Bidirectional`.

  The output at a step depends on all steps of the sequence. So the network has no carry to pass to
  the next call, and no step at which the gradient could be cut. Therefore `__call__` takes no
  `carries`, `truncation` or `resets`, and `train_windows` does not accept this network.

  Attributes:
    cells … pooled: see `Network`.
    merge: how a layer merges the outputs of its two directions, `concat` or `sum`.
  """

  merge: str = "concat"

  def setup(self) -> None:  # noqa: D102
    super().setup()
    checks.choice("merge", self.merge, MERGES)
    self.layers = [
      Bidirectional(cell, self.merge, self.one_hot(i)) for i, cell in enumerate(self.cells)
    ]

  def __call__(
    self,
    xs: Sequences,
    *,
    probes: Sequence[tuple[Carry, Carry]] | None = None,
    deterministic: bool = True,
    key: Key[Array, ""] | None = None,
    lengths: Lengths | None = None,
    mask: Mask | None = None,
    remat: str = "none",
  ) -> tuple[tuple[tuple[Carry, Carry], ...], Float[Array, "steps B O"]]:
    """Runs the network over whole sequences; see `DeepRNN` for the arguments.

    Returns:
      (for each layer a pair of final carries, forward and backward; outputs [T, B, output_size], or
      [1, B, output_size] if pooled).
    """
    if probes is not None:
      checks.per_layer("probes", probes, len(self.cells))

    def run(i: int, ys: Array) -> tuple[tuple[Carry, Carry], Array]:
      return self.layers[i](
        ys,
        probe=None if probes is None else probes[i],
        key=_layer_key(key, i),
        lengths=lengths,
        mask=mask,
        remat=remat,
      )

    final, ys = self.through(run, xs, deterministic)
    return final, self.readout(ys, lengths, mask)

  @nn.nowrap
  def probes(self, xs: Sequences) -> tuple[tuple[Carry, Carry], ...]:
    """Returns a gradient probe for each direction of each layer; see `gradient_probe`."""
    probes = (gradient_probe(cell, *_time_and_batch(xs)) for cell in self.cells)
    return tuple((probe, probe) for probe in probes)


def _time_and_batch(xs: Sequences) -> tuple[int, int]:
  """Returns (T, B) of the network's inputs xs."""
  shape = np.shape(xs)
  if len(shape) < 2:
    raise ValueError(f"xs must be [T, B, D], or integer tokens [T, B], got {list(shape)}.")
  return shape[0], shape[1]


def _layer_key(key: Key[Array, ""] | None, layer: int) -> Key[Array, ""] | None:
  """Returns the layer's own key, derived from the network's; None if the network has no key."""
  if key is None:
    return None
  checks.key("key", key)
  return jax.random.fold_in(key, layer)
