"""Types of a network's inputs, and protocols that any Flax module can fit, so that it can train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Integer, Key, PyTree

from rnn_jax.types import AnyArray, Carry, Cell, Params

Lengths = Integer[AnyArray, " B"]


@runtime_checkable
class Model(Protocol):
  """A network that `rnn_jax.training.update` can train.

  `init` and `apply` are those of any `flax.linen.Module`. Under `apply`, the network is called as
  `model(xs, probes=probes, key=key, deterministic=deterministic, lengths=lengths)`, without
  `lengths` if the batch has none, and returns (final carries, outputs [T, B, O]).
  """

  def init(self, key: Key[Array, ""], xs: PyTree, /) -> Mapping[str, PyTree]:
    """Returns fresh variables, for inputs like xs."""

  def apply(self, variables: Mapping[str, PyTree], /, *args: Any, **kwargs: Any) -> Any:
    """Calls the network, or its method named `method`, with the given variables."""

  def probes(self, xs: PyTree, /) -> PyTree:
    """Returns gradient probes for inputs like xs; see `rnn_jax.gradient_probe`."""


# A type checker finds every attribute in a Flax module, because `nn.Module` defines `__getattr__`.
# So what distinguishes the protocols below is the signature of `__call__`, which has no fallback.


@runtime_checkable
class CausalModel(Model, Protocol):
  """A network whose output at step t depends on the steps up to t alone.

  So the gradient can be cut between two steps. A `BidirectionalRNN` does not fit: its `__call__`
  has no `truncation`.
  """

  def __call__(self, xs: Any, *, truncation: Any = ...) -> Any:
    """Runs the network; `truncation` as `rnn_jax.unroll` takes it."""


@runtime_checkable
class StreamingModel(CausalModel, Protocol):
  """A network for `rnn_jax.windows.train_windows`: one call's final carries start the next call."""

  def __call__(
    self, xs: Any, carries: Any = ..., *, truncation: Any = ..., resets: Any = ...
  ) -> Any:
    """Runs the network from the given carries; other arguments as `rnn_jax.unroll` takes them."""

  def initial_carries(self, batch_size: int, /) -> Sequence[Carry]:
    """Returns the carries before the first step."""


@runtime_checkable
class MeasuredModel(Protocol):
  """A network whose recurrent layers can be measured: for a `tolerance` and `omega_penalty`."""

  def apply(self, variables: Mapping[str, PyTree], /, *args: Any, **kwargs: Any) -> Any:
    """Calls the network's method named `method`, with the given variables."""

  def trunk(
    self, variables: Mapping[str, PyTree], xs: PyTree, /
  ) -> tuple[Sequence[Cell], Sequence[Params], Array]:
    """Returns the recurrent layers: (cells, their params, inputs of the first one)."""

  def readout(self, ys: Array, /) -> Array:
    """Returns the network's outputs, from those of the top recurrent layer."""
