"""Deep recurrent networks: one direction in time, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.modules.network import Network
from rnn_jax.modules.recurrent import MERGES, Bidirectional, Recurrent
from rnn_jax.probes import gradient_probe
from rnn_jax.types import Array, Carry, Cell


class DeepRNN(Network):
  """A deep recurrent network: input encoding, a stack of recurrent layers, a readout.

  Pure: `variables = model.init(key, xs)`, `carries, ys = model.apply(variables, xs)`.

  Attributes:
    cells … pooled: see `Network`.
    learned_carry: each layer's initial carry is a param, the same for all sequences, zeros at
      first.
  """

  learned_carry: bool = False

  def setup(self) -> None:  # noqa: D102
    super().setup()
    self.layers = [Recurrent(cell, self.one_hot(i)) for i, cell in enumerate(self.cells)]
    if self.learned_carry:
      self.carry = [
        self.param(f"carry_{i}", lambda _, cell: cell.initial_carry(()), cell)
        for i, cell in enumerate(self.cells)
      ]

  def __call__(
    self,
    xs: Array,
    carries: Sequence[Carry] | None = None,
    *,
    probes: Sequence[Carry] | None = None,
    deterministic: bool = True,
    key: Array | None = None,
    lengths: Array | None = None,
    **time: Any,
  ) -> tuple[tuple[Carry, ...], Array]:
    """Runs the network over time.

    Args:
      xs: [T, B, D], or tokens [T, B].
      carries: initial carry of each layer; zeros, or the learned ones, if None.
      probes: a gradient probe for each layer, from `probes(xs)`.
      deterministic: no dropout. Otherwise apply needs `rngs={"dropout": key}`.
      key: for stochastic cells; each layer draws from a key of its own.
      lengths: [B], valid steps of each sequence; see `unroll`.
      **time: truncation, resets, reverse, remat and scan_unroll, as `unroll` takes them.
    Returns:
      (final carry of each layer, outputs [T, B, output_size], or [1, B, output_size] if pooled).
    """
    for name, value in (("carries", carries), ("probes", probes)):
      if value is not None and len(value) != len(self.cells):
        raise ValueError(
          f"{name} must have {len(self.cells)} entries, one a layer, got {len(value)}."
        )
    if carries is None and self.learned_carry:
      if time.get("resets") is not None:
        raise ValueError("resets must be None with learned_carry, since they reset to zeros.")
      carries = self.learned_carries(xs.shape[1])

    def run(i: int, ys: Array) -> tuple[Carry, Array]:
      return self.layers[i](
        ys,
        None if carries is None else carries[i],
        probe=None if probes is None else probes[i],
        key=_key_of(key, i),
        lengths=lengths,
        **time,
      )

    final, ys = self.through(run, xs, deterministic)
    return final, self.readout(ys, lengths)

  def learned_carries(self, batch_size: int) -> tuple[Carry, ...]:
    """The learned initial carry of each layer, for every sequence of a batch."""

    def everywhere(a: Array) -> Array:
      return jnp.broadcast_to(a, (batch_size, *a.shape))

    return tuple(jax.tree.map(everywhere, carry) for carry in self.carry)

  @nn.nowrap
  def probes(self, xs: Array) -> tuple[Carry, ...]:
    """A gradient probe for each layer, for sequences like xs; see `gradient_probe`."""
    return tuple(gradient_probe(cell, *xs.shape[:2]) for cell in self.cells)

  @nn.nowrap
  def cell_params(self, variables: Any) -> tuple[Any, ...]:
    """The params of each layer's cell, out of the model's variables."""
    return tuple(variables["params"][f"layers_{i}"]["cell"] for i in range(len(self.cells)))

  @nn.nowrap
  def trunk(self, variables: Any, xs: Array) -> tuple[Sequence[Cell], tuple[Any, ...], Array]:
    """The recurrent layers alone, as measures take them: cells, their params, what they read.

    Measures see all that the cells do: wrappers (`residual`, `layer_norm`) as in training,
    `zoneout` as in evaluation. They see no dropout, and begin with zeros, a learned carry or not.
    """
    encoded: Any = self.apply(variables, xs, method="encode")
    return self.cells, self.cell_params(variables), encoded

  @nn.nowrap
  def initial_carries(self, batch_size: int) -> tuple[Carry, ...]:
    """Zero carries for each layer.

    Raises:
      ValueError: with `learned_carry` they are params, and not known here.
    """
    if self.learned_carry:
      raise ValueError("learned_carry must be False where carries are handed on, got True.")
    return tuple(cell.initial_carry((batch_size,)) for cell in self.cells)


class BidirectionalRNN(Network):
  """A deep network of layers that read forward and backward; see `Bidirectional`.

  What it gives at a step depends on all steps of the sequence. So there is no carry to hand on, and
  no step in front of which the gradient could be cut: `__call__` takes neither `carries` nor
  `truncation` nor `resets`, and `train_windows` does not accept this network.

  Attributes:
    cells … pooled: see `Network`.
    merge: `concat` or `sum` of both directions.
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
    xs: Array,
    *,
    probes: Sequence[tuple[Carry, Carry]] | None = None,
    deterministic: bool = True,
    key: Array | None = None,
    lengths: Array | None = None,
    remat: str = "none",
  ) -> tuple[tuple[tuple[Carry, Carry], ...], Array]:
    """Runs the network over whole sequences; arguments as those of `DeepRNN`.

    Returns:
      ((forward, backward) final carry of each layer, outputs [T, B, output_size], or
      [1, B, output_size] if pooled).
    """
    if probes is not None and len(probes) != len(self.cells):
      raise ValueError(
        f"probes must have {len(self.cells)} entries, one a layer, got {len(probes)}."
      )

    def run(i: int, ys: Array) -> tuple[Any, Array]:
      return self.layers[i](
        ys,
        probe=None if probes is None else probes[i],
        key=_key_of(key, i),
        lengths=lengths,
        remat=remat,
      )

    final, ys = self.through(run, xs, deterministic)
    return final, self.readout(ys, lengths)

  @nn.nowrap
  def probes(self, xs: Array) -> tuple[tuple[Carry, Carry], ...]:
    """A gradient probe for each direction of each layer; see `gradient_probe`."""
    probes = (gradient_probe(cell, *xs.shape[:2]) for cell in self.cells)
    return tuple((probe, probe) for probe in probes)


def _key_of(key: Array | None, layer: int) -> Array | None:
  """A layer's own key."""
  return None if key is None else jax.random.fold_in(key, layer)
