"""Protocols that a user's own Flax module has to implement to be trained and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Integer, Key, PyTree

from rnn_jax.types import AnyArray, Carry, Cell, Params

Lengths = Integer[AnyArray, " B"]
Mask = Bool[AnyArray, "T B"]


@runtime_checkable
class Unroll(Protocol):
  """A gradient estimator, such as an `Estimator` of `rnn_jax.estimators`."""

  @property
  def unroll(self) -> Callable[..., tuple[Carry, PyTree]]:
    """Returns `rnn_jax.unroll` with another derivative, and an argument `estimator_key`."""


@runtime_checkable
class Model(Protocol):
  """A network that `rnn_jax.training.update` can train.

  Every `flax.linen.Module` has `init` and `apply`. Training uses `apply` to call the network as
  `model(xs, probes=probes, key=key, deterministic=deterministic, lengths=lengths)`, without
  `lengths` if the batch has none. The call has to return (final carries, outputs [T, B, O]).
  """

  def init(self, key: Key[Array, ""], xs: PyTree, /) -> Mapping[str, PyTree]:
    """Returns newly initialized variables for inputs like xs."""

  def apply(self, variables: Mapping[str, PyTree], /, *args: Any, **kwargs: Any) -> Any:
    """Calls the network, or the method that the argument `method` names, with given variables."""

  def probes(self, xs: PyTree, /) -> PyTree:
    """Returns gradient probes for inputs like xs; see `rnn_jax.gradient_probe`."""


# `nn.Module` defines `__getattr__`, so to a type checker every Flax module has every attribute. The
# protocols below can therefore be told apart only by `__call__`, for which `__getattr__` is not
# consulted.


@runtime_checkable
class CausalModel(Model, Protocol):
  """A network whose output at step t depends only on the steps up to t.

  Its gradient can therefore be cut between two steps. `BidirectionalRNN` is not such a network, and
  its `__call__` has no `truncation`.
  """

  def __call__(self, xs: Any, *, truncation: Any = ...) -> Any:
    """Runs the network; see `rnn_jax.unroll` for `truncation`."""


@runtime_checkable
class StreamingModel(CausalModel, Protocol):
  """A network that can start from the final carries of its previous call.

  `rnn_jax.windows.train_windows` requires such a network.
  """

  def __call__(
    self, xs: Any, carries: Any = ..., *, truncation: Any = ..., resets: Any = ...
  ) -> Any:
    """Runs the network from the given carries; see `rnn_jax.unroll` for the other arguments."""

  def initial_carries(self, batch_size: int, /) -> Sequence[Carry]:
    """Returns each layer's carry before the first step."""


@runtime_checkable
class MeasuredModel(Protocol):
  """A network whose gradient flow can be measured layer by layer.

  The penalties of `rnn_jax.penalties` require such a network, and so does
  `train_windows` if it is given a `tolerance`.
  """

  def apply(self, variables: Mapping[str, PyTree], /, *args: Any, **kwargs: Any) -> Any:
    """Calls the method that the argument `method` names, with the given variables."""

  def trunk(
    self, variables: Mapping[str, PyTree], xs: PyTree, /
  ) -> tuple[Sequence[Cell], Sequence[Params], Array]:
    """Returns the recurrent layers: (cells, each cell's params, inputs of the first cell)."""

  def readout(self, ys: Array, /) -> Array:
    """Returns the network's outputs, computed from the outputs ys of the top recurrent layer."""
