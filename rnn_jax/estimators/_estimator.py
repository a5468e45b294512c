"""The type `Estimator`, and what backward and forward estimators share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from rnn_jax import checks
from rnn_jax.time_loop import check_params
from rnn_jax.types import Carry, Cell, Params, Sequences, floats_of, with_floats

ScalarLoss = Callable[[Array], Float[Array, ""]]


@runtime_checkable
class UnrollFn(Protocol):
  """The type of `Estimator.unroll`, `(cell, params, xs, carry=None, *, estimator_key, …)`."""

  def __call__(
    self,
    cell: Cell,
    params: Params,
    xs: Sequences,
    carry: Carry | None = None,
    *,
    estimator_key: Key[Array, ""] | None,
    **time: Any,
  ) -> tuple[Carry, PyTree[Array]]: ...


@runtime_checkable
class SharesFn(Protocol):
  """The type of `Estimator.shares`, `(cell, params, xs, y_bars, key, *, num_lags=1) -> grads`."""

  def __call__(
    self,
    cell: Cell,
    params: Params,
    xs: Sequences,
    y_bars: PyTree[Array],
    key: Key[Array, ""],
    *,
    num_lags: int = 1,
  ) -> Params: ...


class Online(NamedTuple):
  """The form of a forward estimator that runs one step at a time, for training on a stream.

  Attributes:
    init: `(cell, params, xs) -> memory`, before the first step of the stream xs [N, B, ...]; leaves
      [B, ...].
    step: `(cell, params, carry, memory, x, key) -> (carry', memory', y, gradient)`, one step for
      all examples. The function `gradient` maps dL/dy [B, ...] to the estimate of the gradient of
      the params, summed over the examples.
  """

  init: Callable[[Cell, Params, Array], PyTree]
  step: Callable[..., tuple[Carry, PyTree, PyTree, Callable[[PyTree], Params]]]


class Estimator(NamedTuple):
  """An estimator of the gradient of a loss through time, exact or approximate.

    value, grads = estimator(cell, params, xs, loss, key)

  Attributes:
    unroll: `rnn_jax.unroll` with another derivative: `(cell, params, xs, carry=None, *,
      estimator_key, **time) -> (final carry, ys)`. Its values are those of `unroll`; its
      reverse-mode derivative with respect to the params is the estimate.
    shares: `(cell, params, xs, y_bars, key, *, num_lags=1) -> grads`: the estimate for given
      cotangents dL/dy_t [T, B, ...], split by lag. The leaves of grads have a first axis of K =
      `num_lags` lags. Entry k < K − 1 is the share of lag k: the effect that the params used at
      step s − k have on the loss at step s, for all s. The last entry holds all lags from K − 1 on.
      The sum over lags is the derivative of `unroll`.
    random: whether the estimate depends on the key.
    forward: whether it runs forward in time. Such an estimator has no dL/dh_t, so it can
      neither clip nor truncate it.
    online: the estimator one step at a time, for `rnn_jax.online.train_online`; None if it needs a
      whole sequence.
  """

  unroll: UnrollFn
  shares: SharesFn
  random: bool
  forward: bool = False
  online: Online | None = None

  def __call__(
    self,
    cell: Cell,
    params: Params,
    xs: Sequences,
    loss: ScalarLoss,
    key: Key[Array, ""],
  ) -> tuple[Float[Array, ""], Params]:
    """Returns (loss, estimate of dL/dparams, with None in place of integer params).

    Args:
      cell: the cell. For a deep network pass `rnn_jax.cells.stack(cells)`; see
        `rnn_jax.estimators`.
      params: its params.
      xs: the inputs: [T, B, D], or integer tokens [T, B].
      loss: `ys -> scalar`, a function of the outputs ys [T, B, H]. It is differentiated exactly.
      key: random key. Estimators that are not random ignore it.
    Raises:
      TypeError, ValueError: if an argument does not fit the cell, or the estimator does not support
        the cell.
    """
    checks.instance("cell", cell, Cell)
    checks.function("loss", loss)
    checks.key("key", key)

    def value(floats: Params) -> Array:
      _, ys = self.unroll(cell, with_floats(floats, params), xs, estimator_key=key)
      return loss(ys)

    return jax.value_and_grad(value)(floats_of(params))


def shift_lags(shares: PyTree[Array]) -> PyTree[Array]:
  """Returns shares [K, ...] one step later: each moves from lag k to lag k + 1, and lag 0 is zero.

  The last entry also keeps its own, since it holds all lags from K − 1 on; with K = 1 it is all.
  """

  def leaf(a: Array) -> Array:
    moved = jnp.concatenate([jnp.zeros_like(a[:1]), a])
    return jnp.concatenate([moved[:-2], moved[-2:-1] + moved[-1:]])

  return jax.tree.map(leaf, shares)


def checked(cell: Cell, params: Params, xs: Sequences) -> Array:
  """Returns xs as an array; raises unless it and the params fit the cell."""
  xs = checks.array("xs", xs, "floats", "integers")
  check_params("params", cell, params, xs)
  return xs


def check_key(key: Key[Array, ""] | None, random: bool) -> Key[Array, ""]:
  """Returns the key, or any key if none is needed; raises if a random estimator has none."""
  if key is None:
    if random:
      raise ValueError(
        "estimator_key must be a random key for an estimator that is random, got None."
      )
    return jax.random.key(0)
  checks.key("estimator_key", key)
  return key
