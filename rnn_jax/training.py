"""Training: state, optimiser, one update, and streaming truncated backpropagation through time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import checks
from rnn_jax.gradient_flow import omega
from rnn_jax.losses import masked_mean
from rnn_jax.modules import DeepRNN
from rnn_jax.probes import tree_norm
from rnn_jax.tasks import Batch
from rnn_jax.types import Array, Carry

Loss = Callable[[Array, Array], Array]
Penalty = Callable[[Any, Batch], Array]

OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
  "adam": optax.adam,
  "rmsprop": optax.rmsprop,
  "sgd": optax.sgd,
}


@flax.struct.dataclass
class TrainState:
  """All that an update changes.

  Attributes:
    step: int32, updates done.
    params: of the model.
    opt_state: of the optimiser.
  """

  step: Array
  params: Any
  opt_state: Any


class Metrics(NamedTuple):
  """What one update measured, before it changed the params.

  Attributes:
    loss: scalar, mean over the steps that count.
    grad_norm: scalar, global norm of the gradient before clipping.
    norms: for each layer, in the structure of its carry: ‖dL/dh_t‖ [T, B], of each example's own
      loss (B times that of the mean), so that they do not depend on the batch size.
  """

  loss: Array
  grad_norm: Array
  norms: tuple[Carry, ...]


def make_optimizer(
  name: str, learning_rate: Any, clip_norm: Any = None
) -> optax.GradientTransformation:
  """Clipping by the global norm, then an optimiser of optax with its own defaults.

  Args:
    name: `adam`, `rmsprop` or `sgd`.
    learning_rate: a number, a schedule, or a traced scalar.
    clip_norm: largest global norm that passes unscaled; None, or inf, for no clipping.
  Returns:
    The transformation.
  Raises:
    ValueError: an unknown name, or a number out of range.
  """
  optimizer = OPTIMIZERS[checks.choice("optimizer", name, OPTIMIZERS)]
  if not callable(learning_rate):
    checks.number("learning_rate", learning_rate, above=0)
  if clip_norm is None:
    return optimizer(learning_rate)
  if isinstance(clip_norm, jax.core.Tracer) or not np.isposinf(clip_norm):
    checks.number("clip_norm", clip_norm, above=0)
  return optax.chain(_clip_by_global_norm(clip_norm), optimizer(learning_rate))


def _clip_by_global_norm(clip_norm: Any) -> optax.GradientTransformation:
  """optax's clipping, made right for clip_norm = inf and for norms beyond 1.8e19.

  There the square in optax's norm overflows: it would turn the update into NaN, or into zero.
  """

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, optax.OptState]:
    del params
    # A power of two changes no digit.
    scale = jnp.where(tree_norm(updates) > 1e18, 2.0**-70, 1.0)
    # The barrier keeps XLA from squaring both factors of a constant.
    small = jax.lax.optimization_barrier(jax.tree.map(lambda g: g * scale.astype(g.dtype), updates))
    clipped, state = optax.clip_by_global_norm(clip_norm * scale).update(small, state)

    def restore(g: Array, c: Array) -> Array:
      return jnp.where(jnp.isinf(clip_norm), g, c / scale.astype(c.dtype))

    return jax.tree.map(restore, updates, clipped), state

  return optax.GradientTransformation(optax.init_empty_state, update)


def init_state(
  model: DeepRNN, optimizer: optax.GradientTransformation, key: Array, xs: Array
) -> TrainState:
  """Fresh params, drawn from `key` for inputs like `xs`, and the optimiser's first state."""
  params = model.init(key, xs)["params"]
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def update(
  model: DeepRNN,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  state: TrainState,
  batch: Batch,
  carries: Sequence[Carry] | None = None,
  *,
  dropout_key: Array | None = None,
  penalty: Penalty | None = None,
  psum: Callable[[Any], Any] = lambda tree: tree,
  **time: Any,
) -> tuple[TrainState, tuple[Carry, ...], Metrics]:
  """One optimiser step on the mean loss of a batch, with every gradient norm on the way.

    L = Σ mask · loss / Σ mask,  params ← params + optimizer(d(L + penalty)/dparams)

  Args:
    model: the network.
    optimizer: from `make_optimizer`, or any optax transformation.
    loss: `(outputs [T, B, O], targets) -> [T, B]`.
    state: before.
    batch: what to learn from.
    carries: initial carry of each layer; zeros if None. No gradient flows into them.
    dropout_key: draws dropout; None for no dropout.
    penalty: `(params, batch) -> scalar`, a mean over the examples, such as `omega_penalty`; None
      for none. Of the metrics, grad_norm alone counts it.
    psum: where `batch` is one device's share of a larger one, the sum of a pytree over the devices
      that share it, equally: `rnn_jax.parallel.psum`. State, loss and grad_norm are then those of
      the whole batch, on every device; carries and norms are those of the device's own examples.
    **time: truncation, lengths, resets, remat, unroll, as `unroll` takes them.
  Returns:
    (state after, final carries, metrics of the params before).
  """
  batch_size, count = psum(batch.mask.shape[1]), psum(jnp.sum(batch.mask))
  num_parts = psum(1)
  rngs = None if dropout_key is None else {"dropout": dropout_key}

  def objective(params: Any, probes: Any) -> tuple[Array, tuple[Array, tuple[Carry, ...]]]:
    network: Callable[..., Any] = model.apply
    final, outputs = network(
      {"params": params},
      batch.xs,
      carries,
      probes=probes,
      deterministic=dropout_key is None,
      rngs=rngs,
      **time,
    )
    value = masked_mean(loss(outputs, batch.targets), batch.mask, count)
    total = value if penalty is None else value + penalty(params, batch) / num_parts
    return total, (value, final)

  probes = model.probes(*batch.mask.shape)
  gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
  (_, (value, final)), (grads, norms) = gradient(state.params, probes)
  # Gradients are summed, not the loss before: its derivative would be counted once a device.
  value, grads = psum((value, grads))
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  norms = jax.tree.map(lambda norm: norm * batch_size, norms)
  metrics = Metrics(value, tree_norm(grads), norms)
  return TrainState(state.step + 1, params, opt_state), final, metrics


def omega_penalty(model: DeepRNN, loss: Loss, weight: Any) -> Penalty:
  """weight · Σ_layers Ω, for `update(..., penalty=)`: asks that gradient norms be kept in time.

  Ω is that of the whole batch without dropout, truncation and initial carries, under its mean loss;
  `rnn_jax.gradient_flow.omega` says what it is and how it is differentiated.

  Args:
    model: the network.
    loss: `(outputs [T, B, O], targets) -> [T, B]`.
    weight: of Ω beside the loss, at least 0.
  Returns:
    `(params, batch) -> scalar`.
  Raises:
    TypeError, ValueError: a weight that is no number of at least 0.
  References:
    Pascanu et al., 2013, https://arxiv.org/abs/1211.5063
  """
  checks.number("weight", weight, minimum=0)

  def penalty(params: Any, batch: Batch) -> Array:
    variables = {"params": params}
    encode: Callable[..., Any] = functools.partial(model.apply, method=DeepRNN.encode)
    readout: Callable[..., Any] = functools.partial(model.apply, method=DeepRNN.readout)

    def mean_loss(ys: Array) -> Array:
      return masked_mean(loss(readout(variables, ys), batch.targets), batch.mask)

    xs = encode(variables, batch.xs)
    layers = omega(model.cells, model.cell_params(variables), xs, mean_loss)
    return weight * jnp.sum(jnp.stack(layers))

  return penalty


def train_windows(
  model: DeepRNN,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  state: TrainState,
  stream: Batch,
  window: int,
  carries: Sequence[Carry] | None = None,
  *,
  resets: Array | None = None,
) -> tuple[TrainState, tuple[Carry, ...], Metrics]:
  """Streaming truncated backpropagation through time: one update a window, the carry handed on.

  The gradient stays inside a window of k steps, the carry does not: it enters the next window as a
  constant, so memory is O(k) however long the stream. (`unroll(truncation=k)` cuts the gradient
  inside one sequence, under a single update.)

  Args:
    model: the network.
    optimizer: from `make_optimizer`, or any optax transformation.
    loss: `(outputs [k, B, O], targets) -> [k, B]`.
    state: before.
    stream: [N, B, ...]: B contiguous lanes, as `rnn_jax.text.lanes` makes them. The last N mod k
      steps are left out.
    window: k, from 1 to N.
    carries: of each layer, where the stream goes on from an earlier one; zeros if None.
    resets: [N, B] bool; where true a new document starts, and the carry is reset to zeros.
  Returns:
    (state after N // k updates, carries at the end of the last window, metrics [N // k, ...]).
  Raises:
    TypeError, ValueError: the window is no integer, below 1 or longer than the stream; or resets
      have another shape.
  References:
    Williams and Peng, 1990, https://doi.org/10.1162/neco.1990.2.4.490
  """
  num_steps, batch_size = stream.mask.shape
  checks.integer("window", window)
  if window > num_steps:
    raise ValueError(f"window must be at most the stream's {num_steps} steps, got {window}.")
  if resets is not None and jnp.shape(resets) != (num_steps, batch_size):
    raise ValueError(
      f"resets must be [N, B] = ({num_steps}, {batch_size}), got {jnp.shape(resets)}."
    )
  whole = num_steps // window * window
  windows = jax.tree.map(lambda a: a[:whole].reshape(-1, window, *a.shape[1:]), (stream, resets))
  start = model.initial_carries(batch_size) if carries is None else tuple(carries)

  def body(old: tuple[TrainState, Any], now: tuple[Batch, Array | None]) -> tuple[Any, Metrics]:
    state, carries = old
    batch, resets = now
    state, carries, metrics = update(model, optimizer, loss, state, batch, carries, resets=resets)
    return (state, carries), metrics

  # Not time: a window is unrolled by the model, this goes from one update to the next.
  (state, final), metrics = jax.lax.scan(body, (state, start), windows)
  return state, final, metrics
