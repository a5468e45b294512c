"""Protocols: what training needs of a network. Any Flax module that has these methods fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jaxtyping import Array, Key, PyTree

from rnn_jax.types import Carry, Cell, Params


class Model(Protocol):
  """What `rnn_jax.training.update` needs of a network.

  `init` and `apply` are those of any `flax.linen.Module`. Under `apply`, the network is called as
  `model(xs, probes=probes, key=key, deterministic=deterministic, lengths=lengths)`, with `lengths`
  left out where the batch has none, and returns (final carries, outputs [T, B, O]).
  """

  def init(self, key: Key[Array, ""], xs: PyTree, /) -> Mapping[str, PyTree]:
    """Returns fresh variables, for inputs like xs."""

  def apply(self, variables: Mapping[str, PyTree], /, *args: Any, **kwargs: Any) -> Any:
    """Calls the network, or its method named `method`, with the given variables."""

  def probes(self, xs: PyTree, /) -> PyTree:
    """Returns gradient probes for inputs like xs; see `rnn_jax.gradient_probe`."""


class CausalModel(Model, Protocol):
  """A network whose output at step t depends on the steps up to t alone.

  So the gradient can be cut between two steps. A `BidirectionalRNN` is not of this type: its
  `__call__` has no `truncation`.
  """

  def __call__(self, xs: Any, *, truncation: Any = ...) -> Any:
    """Runs the network; `truncation` as `rnn_jax.unroll` takes it."""


# Flax's modules have a `__getattr__`, so a type checker finds every attribute in them: the
# protocols differ in the signatures of `__call__`, where nothing is assumed.
class StreamingModel(CausalModel, Protocol):
  """What `rnn_jax.windows.train_windows` needs: the final carries of one call start the next."""

  def __call__(
    self, xs: Any, carries: Any = ..., *, truncation: Any = ..., resets: Any = ...
  ) -> Any:
    """Runs the network from the given carries; the rest as `rnn_jax.unroll` takes it."""

  def initial_carries(self, batch_size: int, /) -> Sequence[Carry]:
    """Returns the carries before the first step."""

  def trunk(
    self, variables: Mapping[str, PyTree], xs: PyTree, /
  ) -> tuple[Sequence[Cell], Sequence[Params], Array]:
    """Returns (cells, their params, what the first one reads), for a `tolerance` alone."""
