"""Training: state, optimiser, one update, and streaming truncated backpropagation through time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rnn_jax import checks, clipping
from rnn_jax.gradient_flow import choose_truncation, lag_profile, omega
from rnn_jax.losses import masked_mean
from rnn_jax.modules import BidirectionalRNN, ConditionedDecoder, DeepRNN, EncoderDecoder
from rnn_jax.probes import tree_norm
from rnn_jax.tasks import Batch
from rnn_jax.types import Array, Carry

Model = DeepRNN | BidirectionalRNN | ConditionedDecoder | EncoderDecoder
Loss = Callable[[Array, Array], Array]
Penalty = Callable[[Any, Batch], Array]

OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
  "adam": optax.adam,
  "rmsprop": optax.rmsprop,
  "sgd": optax.sgd,
}

CLIP_BY = ("global_norm", "element", "carry")


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
    grad_norm: scalar, global norm of the gradient before the optimiser's clipping. (Where the carry
      is clipped, that has happened on the way to this gradient.)
    clipped_norm: scalar, the same after the optimiser's clipping; grad_norm where it has none.
    clipped: scalar, 1 where the optimiser's clipping changed the gradient, else 0; with clip_carry
      the share of all dL/dh_t, over layers, steps and examples, that were clipped.
    norms: in the structure of the model's probes, so for each layer in that of its carry:
      ‖dL/dh_t‖ [T, B], of each example's own loss (B times that of the mean), so that they do not
      depend on the batch size.
    truncation: int32 scalar, k where `train_windows` chose it; None elsewhere.
  """

  loss: Array
  grad_norm: Array
  clipped_norm: Array
  clipped: Array
  norms: tuple[Carry, ...]
  truncation: Array | None = None


def make_optimizer(
  name: str, learning_rate: Any, clip_norm: Any = None, clip_by: str = "global_norm"
) -> optax.GradientTransformation:
  """Clipping of the gradient, then an optimiser of optax with its own defaults.

    global_norm: g ← g · min(1, c / ‖g‖)      element: g_i ← min(max(g_i, −c), c)

  Args:
    name: `adam`, `rmsprop` or `sgd`.
    learning_rate: a number, a schedule, or a traced scalar.
    clip_norm: c, what passes unchanged; None, or inf, for no clipping.
    clip_by: `global_norm` or `element`; or `carry`, where nothing is clipped here, since
      `update(..., clip_carry=c)` does it at every step of the way back through time.
  Returns:
    The transformation.
  Raises:
    ValueError: an unknown name, or a number out of range.
  References:
    Pascanu, Mikolov and Bengio, 2013, https://arxiv.org/abs/1211.5063; and on the way back through
    time, by elements, Graves, 2013, https://arxiv.org/abs/1308.0850
  """
  optimizer = OPTIMIZERS[checks.choice("optimizer", name, OPTIMIZERS)]
  checks.choice("clip_by", clip_by, CLIP_BY)
  if not callable(learning_rate):
    checks.number("learning_rate", learning_rate, above=0)
  if clip_norm is not None:
    clipping.check("clip_norm", clip_norm)
  if clip_norm is None or clip_by == "carry":
    return optimizer(learning_rate)
  clip = clipping.clip_by_global_norm if clip_by == "global_norm" else optax.clip
  return optax.chain(clipping.noted(clip(clip_norm)), optimizer(learning_rate))


def init_state(
  model: Model, optimizer: optax.GradientTransformation, key: Array, xs: Any
) -> TrainState:
  """Fresh params, drawn from `key` for inputs like `xs`, and the optimiser's first state."""
  params = model.init(key, xs)["params"]
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


@overload
def update(
  model: BidirectionalRNN,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  state: TrainState,
  batch: Batch,
  *,
  key: Array | None = None,
  psum: Callable[[Any], Any] = ...,
  remat: str = ...,
) -> tuple[TrainState, Any, Metrics]: ...


@overload
def update(
  model: DeepRNN | ConditionedDecoder | EncoderDecoder,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  state: TrainState,
  batch: Batch,
  carries: Sequence[Carry] | None = None,
  *,
  clip_carry: Any = None,
  key: Array | None = None,
  penalty: Penalty | None = None,
  psum: Callable[[Any], Any] = ...,
  **time: Any,
) -> tuple[TrainState, Any, Metrics]: ...


def update(
  model: Model,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  state: TrainState,
  batch: Batch,
  carries: Sequence[Carry] | None = None,
  *,
  clip_carry: Any = None,
  key: Array | None = None,
  penalty: Penalty | None = None,
  psum: Callable[[Any], Any] = lambda tree: tree,
  **time: Any,
) -> tuple[TrainState, Any, Metrics]:
  """One optimiser step on the mean loss of a batch, with every gradient norm on the way.

    L = Σ mask · loss / Σ mask,  params ← params + optimizer(d(L + penalty)/dparams)

  Args:
    model: the network. A bidirectional one takes no carries, no truncation and no clip_carry.
    optimizer: from `make_optimizer`, or any optax transformation.
    loss: `(outputs [T, B, O], targets) -> [T, B]`.
    state: before.
    batch: what to learn from; its lengths are those of the time loop.
    carries: initial carry of each layer; the model's own if None. No gradient flows into them.
    clip_carry: largest ‖dL/dh_t‖ that goes on to earlier steps, in every layer, for each example's
      own loss, as `norms` are; the number means the same for any batch size. None, or inf, for no
      clipping. See `unroll`.
    key: draws dropout and the masks of stochastic cells; None for neither.
    penalty: `(params, batch) -> scalar`, a mean over the examples, such as `omega_penalty`; None
      for none. Of the metrics, grad_norm and clipped_norm alone count it.
    psum: where `batch` is one device's share of a larger one, the sum of a pytree over the devices
      that share it, equally: `rnn_jax.parallel.psum`. State, loss and grad_norm are then those of
      the whole batch, on every device; carries and norms are those of the device's own examples.
    **time: truncation, resets, remat, scan_unroll, as the model takes them.
  Returns:
    (state after, final carries, metrics of the params before).
  """
  batch_size, count = psum(batch.mask.shape[1]), psum(jnp.sum(batch.mask))
  num_parts = psum(1)
  dropout_key, cell_key = (None, None) if key is None else jax.random.split(key)
  if clip_carry is not None:
    clipping.check("clip_carry", clip_carry)
    # Of the mean loss, an example has a share.
    time["clip_carry"] = clip_carry / batch_size
  if batch.lengths is not None:
    time["lengths"] = batch.lengths
  if carries is not None:
    time["carries"] = carries

  def objective(params: Any, probes: Any) -> tuple[Array, tuple[Array, Any]]:
    network: Callable[..., Any] = model.apply
    final, outputs = network(
      {"params": params},
      batch.xs,
      probes=probes,
      key=cell_key,
      deterministic=key is None,
      rngs=None if key is None else {"dropout": dropout_key},
      **time,
    )
    value = masked_mean(loss(outputs, batch.targets), batch.mask, count)
    total = value if penalty is None else value + penalty(params, batch) / num_parts
    return total, (value, final)

  probes = model.probes(batch.xs)
  gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
  (_, (value, final)), (grads, norms) = gradient(state.params, probes)
  # Gradients are summed, not the loss before: its derivative would be counted once a device.
  value, grads = psum((value, grads))
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  norms = jax.tree.map(lambda norm: norm * batch_size, norms)
  grad_norm = tree_norm(grads)
  nothing = clipping.ClipState(grad_norm, jnp.zeros_like(grad_norm))
  clipped_norm, clipped = optax.tree_utils.tree_get(opt_state, "ClipState", nothing)
  if clip_carry is not None:
    acted = jnp.stack(clipping.was_clipped(norms, clip_carry))
    clipped = psum(jnp.mean(acted, dtype=grad_norm.dtype)) / num_parts
  metrics = Metrics(value, grad_norm, clipped_norm, clipped, norms)
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
    TypeError, ValueError: a weight that is no number of at least 0; a pooled network, or a batch
      with lengths, whose losses do not belong to steps that all have.
  References:
    Pascanu et al., 2013, https://arxiv.org/abs/1211.5063
  """
  checks.number("weight", weight, minimum=0)
  if model.pooled:
    raise ValueError("model must not be pooled, since a pooled loss belongs to no step.")

  def penalty(params: Any, batch: Batch) -> Array:
    if batch.lengths is not None:
      raise ValueError("batch must have no lengths: Ω is of sequences with all their steps.")
    variables = {"params": params}
    apply: Callable[..., Any] = functools.partial(model.apply, variables)

    def mean_loss(ys: Array) -> Array:
      return masked_mean(loss(apply(ys, method="readout"), batch.targets), batch.mask)

    return weight * jnp.sum(jnp.stack(omega(*model.trunk(variables, batch.xs), mean_loss)))

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
  clip_carry: Any = None,
  tolerance: Any = None,
  adapt_every: int = 1,
  key: Array | None = None,
  psum: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[TrainState, tuple[Carry, ...], Metrics]:
  """Streaming truncated backpropagation through time: one update a window, the carry handed on.

  The gradient stays inside a window of k steps, the carry does not: it enters the next window as a
  constant, so memory is O(k) however long the stream. (`unroll(truncation=k)` cuts the gradient
  inside one sequence, under a single update.)

  With a tolerance the gradient is cut earlier than the window does it, where its measured decay
  allows: `choose_truncation` finds k from the lag profile of the loss at a window's last step (from
  a carry of zeros, without resets), `unroll(truncation=k)` cuts. One program serves every k. Since
  that cuts in front of the steps k, 2k, … of a window, k is the reach of the loss at the step
  before a cut, and the loss after it reaches back less: the tolerance holds for the best placed
  losses, as it does for the window itself.

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
    clip_carry: as `update` takes it.
    tolerance: largest share of what is kept that may be cut off, above 0 and below 1; None for the
      whole window. A number, or a traced scalar.
    adapt_every: windows from one measurement of the decay to the next.
    key: draws dropout, and the masks of stochastic cells, anew in each window; None for neither.
    psum: as `update` takes it.
  Returns:
    (state after N // k updates, carries at the end of the last window, metrics [N // k, ...], with
    each window's truncation where a tolerance was given).
  Raises:
    TypeError, ValueError: the window is no integer, below 1 or longer than the stream; resets have
      another shape; a tolerance out of range, or with a window of one step.
  References:
    Williams and Peng, 1990, https://doi.org/10.1162/neco.1990.2.4.490; with a tolerance, Aicher,
    Foti and Fox, 2019, https://arxiv.org/abs/1905.07473
  """
  num_steps, batch_size = stream.mask.shape
  checks.integer("window", window)
  if window > num_steps:
    raise ValueError(f"window must be at most the stream's {num_steps} steps, got {window}.")
  if resets is not None and jnp.shape(resets) != (num_steps, batch_size):
    raise ValueError(
      f"resets must be [N, B] = ({num_steps}, {batch_size}), got {jnp.shape(resets)}."
    )
  checks.integer("adapt_every", adapt_every)
  if tolerance is not None and window < 2:
    raise ValueError(f"window must be at least 2 where a tolerance is given, got {window}.")
  whole = num_steps // window * window
  windows = jax.tree.map(lambda a: a[:whole].reshape(-1, window, *a.shape[1:]), (stream, resets))
  start = model.initial_carries(batch_size) if carries is None else tuple(carries)

  def chosen(state: TrainState, batch: Batch) -> Array:
    return choose_truncation(_last_lags(model, loss, state.params, batch), tolerance)

  def body(old: tuple[TrainState, Any, Array], now: Any) -> tuple[Any, Metrics]:
    state, carries, k = old
    number, (batch, resets) = now
    time: dict[str, Any] = {"resets": resets, "clip_carry": clip_carry, "psum": psum}
    if key is not None:
      time["key"] = jax.random.fold_in(key, state.step)
    if tolerance is not None:
      measure = number % adapt_every == 0
      k = jax.lax.cond(measure, lambda: chosen(state, batch), lambda: k)
      time["truncation"] = k
    state, carries, metrics = update(model, optimizer, loss, state, batch, carries, **time)
    return (state, carries, k), metrics._replace(truncation=time.get("truncation"))

  # Not time: a window is unrolled by the model, this goes from one update to the next.
  numbers = jnp.arange(whole // window, dtype=jnp.int32)
  first = (state, start, jnp.asarray(window, jnp.int32))
  (state, final, _), metrics = jax.lax.scan(body, first, (numbers, windows))
  return state, final, metrics


def _last_lags(model: DeepRNN, loss: Loss, params: Any, batch: Batch) -> tuple[Carry, ...]:
  """The lag profile of the loss at the last step, for each layer, [lag, B]."""
  variables = {"params": params}
  apply: Callable[..., Any] = functools.partial(model.apply, variables)

  def last_loss(y: Array) -> Array:
    values = loss(apply(y[None], method="readout"), batch.targets[-1:])[0]
    return jnp.where(batch.mask[-1], values, jnp.zeros_like(values))

  return lag_profile(*model.trunk(variables, batch.xs), last_loss)
