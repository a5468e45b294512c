"""Streaming truncated backpropagation through time: training on a stream, window by window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Int, Key

from rnn_jax import checks
from rnn_jax.gradient_flow import choose_truncation, lag_profile
from rnn_jax.modules import MeasuredModel, StreamingModel
from rnn_jax.parallel import vary_alike
from rnn_jax.tasks import Batch
from rnn_jax.training import (
  DeviceSum,
  Loss,
  Metrics,
  TrainState,
  check_mask,
  check_training,
  on_one_device,
  update,
)
from rnn_jax.types import AnyArray, Carry, Params


def train_windows(
  model: StreamingModel,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  state: TrainState,
  stream: Batch,
  window: int,
  carries: Sequence[Carry] | None = None,
  *,
  resets: Bool[AnyArray, "N B"] | None = None,
  clip_carry: ArrayLike | None = None,
  tolerance: float | Array | None = None,
  adapt_every: int = 1,
  key: Key[Array, ""] | None = None,
  dtype: DTypeLike | None = None,
  psum: DeviceSum = on_one_device,
) -> tuple[TrainState, tuple[Carry, ...], Metrics]:
  """Trains on consecutive windows of a stream: one update per window, with the carry passed on.

  The gradient stays inside a window of W steps, because the carry enters the next window as a
  constant. So memory is O(W), regardless of the stream's length. (`unroll(truncation=k)` instead
  cuts the gradient inside one sequence, for which there is a single update.)

  With a tolerance, the gradient is also cut inside the window, if its measured decay allows it.
  `lag_profile` measures the gradient norm at every lag, for the loss at a window's last step (from
  a carry of zeros, without resets). From this profile `choose_truncation` finds k, which is passed
  to `unroll(truncation=k)`. One compiled program serves every k. The gradient is cut before steps
  k, 2k, … of a window. So the gradient of the loss at the last step before a cut covers k steps,
  but that of the loss at the first step after a cut covers only this step. The tolerance therefore
  holds only for losses at the last step before a cut. (The start of a window limits the gradient in
  the same way.)

  Args:
    model: the network, such as `DeepRNN`. With a tolerance it must have the methods `trunk` and
      `readout`.
    optimizer: from `rnn_jax.optimizers.make_optimizer`, or any optax transformation.
    loss: `(outputs [W, B, O], targets) -> [W, B]`.
    state: the state before the first update.
    stream: leaves [N, B, ...]: B contiguous parts of the data, read in parallel, such as the lanes
      of `rnn_jax.text.lanes`. The last N mod W steps are left out.
    window: W, from 1 to N.
    carries: each layer's initial carry, if the stream continues an earlier one; zeros if None.
    resets: [N, B] bool; where True, a new document starts and the carry is reset to zeros.
    clip_carry: see `update`.
    tolerance: the largest acceptable ratio of the gradient that truncation cuts off to the gradient
      that it keeps, above 0 and below 1; None for no truncation inside the window. A number, or a
      traced scalar.
    adapt_every: number of windows after which the decay is measured again and k chosen anew.
    key: random key for dropout and for the masks of stochastic cells, which are drawn anew in each
      window. If None, dropout is disabled and no masks are drawn.
    dtype, psum: see `update`.
  Returns:
    (state after N // W updates, carries at the end of the last window, metrics [N // W, ...], with
    each window's truncation if a tolerance was given).
  Raises:
    TypeError, ValueError: if the window is not an integer from 1 to N, if the resets are not
      [N, B], if the tolerance is out of range or is given for windows of a single step, or if the
      model has no `initial_carries`.
  References:
    Williams and Peng, 1990, https://doi.org/10.1162/neco.1990.2.4.490
    Aicher, Foti and Fox, 2019 (with a tolerance), https://arxiv.org/abs/1905.07473
  """
  check_training(model, optimizer, loss, state, key)
  checks.instance("stream", stream, Batch)
  check_mask(stream.mask)
  num_steps, batch_size = stream.mask.shape
  checks.integer("window", window)
  if window > num_steps:
    raise ValueError(f"window must be at most the stream's {num_steps} steps, got {window}.")
  if resets is not None:
    resets = checks.array("resets", resets, "booleans")
    if resets.shape != (num_steps, batch_size):
      raise ValueError(f"resets must be [N, B] = ({num_steps}, {batch_size}), got {resets.shape}.")
  checks.integer("adapt_every", adapt_every)
  choose = None if tolerance is None else _chooser(model, loss, window, tolerance)
  if not isinstance(model, StreamingModel):
    raise TypeError(
      f"model must have a method 'initial_carries', as DeepRNN has, got {type(model).__name__}."
    )
  if carries is not None:
    checks.instance("carries", carries, Sequence)
  for leaf in jax.tree.leaves((stream.xs, stream.targets)):
    if np.shape(leaf)[:1] != (num_steps,):
      raise ValueError(
        f"stream must have leaves [N, B, ...] with N = {num_steps}, got {checks.shown(leaf)}."
      )
  whole = num_steps // window * window
  windows = jax.tree.map(lambda a: a[:whole].reshape(-1, window, *a.shape[1:]), (stream, resets))
  start = model.initial_carries(batch_size) if carries is None else carries

  def body(
    old: tuple[TrainState, tuple[Carry, ...], Array], now: tuple[Array, tuple[Batch, Array | None]]
  ) -> tuple[tuple[TrainState, tuple[Carry, ...], Array], Metrics]:
    state, carries, k = old
    number, (batch, resets) = now
    time: dict[str, Any] = {"resets": resets, "clip_carry": clip_carry}
    time |= {"dtype": dtype, "psum": psum}
    if key is not None:
      time["key"] = jax.random.fold_in(key, state.step)
    if choose is not None:
      k = jax.lax.cond(number % adapt_every == 0, lambda: choose(state.params, batch), lambda: k)
      time["truncation"] = k
    state, carries, metrics = update(model, optimizer, loss, state, batch, carries, **time)
    return (state, carries, k), metrics._replace(truncation=time.get("truncation"))

  # `unroll` cannot run this loop, since each of its steps is a whole window, followed by an update.
  numbers = jnp.arange(whole // window, dtype=jnp.int32)
  start, k, windows = vary_alike((tuple(start), jnp.asarray(window, jnp.int32), windows))
  (state, final, _), metrics = jax.lax.scan(body, (state, start, k), (numbers, windows))
  return state, final, metrics


def _chooser(
  model: StreamingModel, loss: Loss, window: int, tolerance: float | Array
) -> Callable[[Params, Batch], Int[Array, ""]]:
  """Returns a function `(params, batch) -> truncation` for `train_windows`.

  It chooses the truncation from the lag profile of the loss at the last step of the batch, which is
  one window.
  """
  if window < 2:
    raise ValueError(f"window must be at least 2 where a tolerance is given, got {window}.")
  if not isinstance(model, MeasuredModel):
    raise TypeError(
      "model must have the methods 'trunk' and 'readout' where a tolerance is given, as DeepRNN "
      f"has, got {type(model).__name__}."
    )

  def choose(params: Params, batch: Batch) -> Int[Array, ""]:
    variables = {"params": params}

    def last_loss(y: Array) -> Array:
      outputs = model.apply(variables, y[None], method="readout")
      values = loss(outputs, batch.targets[-1:])[0]
      return jnp.where(batch.mask[-1], values, jnp.zeros_like(values))

    return choose_truncation(lag_profile(*model.trunk(variables, batch.xs), last_loss), tolerance)

  return choose
