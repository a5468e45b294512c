"""Training: the train state, the optimizer, and one update on a batch.

For training on a stream, window by window, see `rnn_jax.windows`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from rnn_jax import checks, clipping, loss_scaling, precision
from rnn_jax.losses import masked_mean
from rnn_jax.modules import CausalModel, Model
from rnn_jax.parallel import vary_alike
from rnn_jax.probes import tree_norm
from rnn_jax.tasks import Batch
from rnn_jax.types import AnyArray, Carry, Params, floats_of, with_floats

Loss = Callable[[Array, Array], Array]
Penalty = Callable[[Params, Batch], Array]
DeviceSum = Callable[[PyTree], PyTree]


@flax.struct.dataclass
class TrainState:
  """The values that an update changes.

  Attributes:
    step: int32 scalar, number of updates so far.
    params: the model's params.
    opt_state: the optimizer's state, for the params that are floats or complex numbers.
  """

  # The type is not `Int[Array, ""]`, since JAX also builds states that hold shapes, or arrays with
  # a leading axis of devices.
  step: PyTree
  params: Params
  opt_state: optax.OptState


class Metrics(NamedTuple):
  """Measurements of one update, taken before it changes the params.

  Attributes:
    loss: scalar, the mean over the steps that the mask selects.
    grad_norm: scalar, global norm of the gradient before the optimizer's clipping. (If clip_carry
      is set, this gradient comes from cotangents dL/dh_t that were clipped already.)
    clipped_norm: scalar, global norm after the optimizer's clipping; equals grad_norm if the
      optimizer does not clip.
    clipped: scalar, 1 if the optimizer's clipping changed the gradient, else 0. If clip_carry is
      set, the fraction of all dL/dh_t, over layers, steps and examples, that were clipped.
    norms: ‖dL/dh_t‖ [T, B] in the structure of the model's probes, for each leaf of each layer's
      carry. L is each example's own loss (B times its share of the mean), so the norms do not
      depend on the batch size.
    truncation: int32 scalar, the truncation that `train_windows` chose; None for other updates.
    loss_scale: scalar, the factor on the loss in this update; None without loss scaling. All other
      metrics are those of the loss itself.
    skipped: scalar, whether the update was skipped because the gradient of the scaled loss
      overflowed; None without loss scaling. A skipped update clips nothing: clipped_norm is
      grad_norm, and clipped is 0 unless clip_carry is set.
  """

  loss: Float[Array, ""]
  grad_norm: Float[Array, ""]
  clipped_norm: Float[Array, ""]
  clipped: Float[Array, ""]
  norms: Carry
  truncation: Int[Array, ""] | None = None
  loss_scale: Float[Array, ""] | None = None
  skipped: Bool[Array, ""] | None = None


def init_state(
  model: Model, optimizer: optax.GradientTransformation, key: Key[Array, ""], xs: PyTree
) -> TrainState:
  """Returns the initial train state, with params drawn from `key` for inputs like `xs`.

  Raises:
    TypeError, ValueError: if an argument has the wrong type, or if the model does not accept xs.
  """
  check_model(model, Model, "the methods init, apply and probes")
  checks.instance("optimizer", optimizer, optax.GradientTransformation, "make_optimizer")
  checks.key("key", key)
  params = model.init(key, xs)["params"]
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(floats_of(params)))


def on_one_device(tree: PyTree) -> PyTree:
  """Returns the tree unchanged, i.e. its sum over one device; the default `psum` of `update`."""
  return tree


@overload
def update(
  model: CausalModel,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  state: TrainState,
  batch: Batch,
  carries: Sequence[Carry] | None = None,
  *,
  clip_carry: ArrayLike | None = None,
  key: Key[Array, ""] | None = None,
  penalty: Penalty | None = None,
  dtype: DTypeLike | None = None,
  psum: DeviceSum = ...,
  **time: Any,
) -> tuple[TrainState, Carry, Metrics]: ...


@overload
def update(
  model: Model,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  state: TrainState,
  batch: Batch,
  *,
  key: Key[Array, ""] | None = None,
  penalty: Penalty | None = None,
  dtype: DTypeLike | None = None,
  psum: DeviceSum = ...,
  remat: str = ...,
) -> tuple[TrainState, Carry, Metrics]: ...


def update(
  model: Model,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  state: TrainState,
  batch: Batch,
  carries: Sequence[Carry] | None = None,
  *,
  clip_carry: ArrayLike | None = None,
  key: Key[Array, ""] | None = None,
  penalty: Penalty | None = None,
  dtype: DTypeLike | None = None,
  psum: DeviceSum = on_one_device,
  **time: Any,
) -> tuple[TrainState, Carry, Metrics]:
  """Performs one optimizer step on a batch's mean loss, and measures ‖dL/dh_t‖ at every step.

    L = Σ mask · loss / Σ mask,  params ← params + optimizer(d(L + penalty)/dparams)

  Mixed precision: with a `dtype`, the network computes in this precision, forward and backward,
  on copies of params and inputs in it. Params, optimizer, the loss of the outputs, penalty and all
  norms stay in float32. Complex carries, such as that of `lru`, have no half precision and stay
  complex64. If the optimizer has a `loss_scale`, the loss is multiplied by it before it is
  differentiated, and the gradients and their norms are divided by it.

  Args:
    model: the network. A bidirectional network takes no carries, truncation or clip_carry.
    optimizer: from `rnn_jax.optimizers.make_optimizer`, or any optax transformation.
    loss: `(outputs [T, B, O], targets) -> [T, B]`.
    state: the state before the update.
    batch: the training examples; the model receives its lengths.
    carries: each layer's initial carry; if None, the model's own (zeros, or learned). No gradient
      flows into carries that are passed here.
    clip_carry: the largest ‖dL/dh_t‖ that each layer's backward pass sends to earlier steps; see
      `unroll`. L is each example's own loss, as in `norms`, so the same value suits any batch size.
      None or inf for no clipping.
    key: random key for dropout and for the masks of stochastic cells. If None, dropout is disabled
      and no masks are drawn.
    penalty: `(params, batch) -> scalar`, a mean over the examples, as in `rnn_jax.penalties`;
      None for none. Of the metrics, only grad_norm and clipped_norm include it.
    dtype: precision of the network, `float32`, `bfloat16` or `float16`; None for that of the params
      and inputs.
    psum: function that sums a pytree over devices. If `batch` is one device's equal part of a
      larger batch, pass `partial(rnn_jax.parallel.psum, count=...)`. State, loss, grad_norm and
      clipped_norm are then those of the larger batch, the same on every device; carries and norms
      are those of the device's own examples.
    **time: truncation, mask, resets, remat, scan_unroll, estimator and estimator_key, which are
      passed to the model. This mask skips steps of the model, whereas batch.mask selects the losses
      that count. With an `estimator` that has no dL/dh_t, because it runs forward in time, the
      norms are NaN.
  Returns:
    (state after the update, final carries, metrics for the params before the update).
  Raises:
    TypeError, ValueError: if the mask or the losses are not [T, B], or if the model or `unroll`
      does not accept an argument.
  References:
    Micikevicius et al., 2018 (mixed precision), https://arxiv.org/abs/1710.03740
  """
  check_training(model, optimizer, loss, state, key)
  checks.instance("batch", batch, Batch)
  check_mask(batch.mask)
  for name, function in (("psum", psum), ("penalty", penalty)):
    if function is not None:
      checks.function(name, function)
  if dtype is not None:
    dtype = precision.check_dtype("dtype", dtype)
  scaling = loss_scaling.state_of(state.opt_state)
  batch_size, count = psum(batch.mask.shape[1]), psum(jnp.sum(batch.mask))
  num_parts = psum(1)
  if clip_carry is not None:
    clipping.check("clip_carry", clip_carry)
    # In the batch's mean, each example's own loss has the factor 1/B, and so has its dL/dh_t.
    limit = clip_carry / batch_size
    time["clip_carry"] = limit if scaling is None else limit * scaling.scale
  if carries is not None:
    time["carries"] = carries

  def objective(floats: Params, probes: Carry) -> tuple[Array, tuple[Array, Carry]]:
    params = with_floats(floats, state.params)
    final, losses = _forward(model, loss, params, batch, probes, key, dtype, time)
    value = masked_mean(losses, batch.mask, count)
    total = value if penalty is None else value + penalty(params, batch) / num_parts
    total = total if scaling is None else loss_scaling.scaled(total, scaling.scale)
    return total, (value, final)

  gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
  # Without this cast, `jax.shard_map` would sum the gradients of params and probes over devices.
  floats, probes, batch = vary_alike((floats_of(state.params), model.probes(batch.xs), batch))
  (_, (value, final)), (grads, norms) = gradient(floats, probes)
  # Sum the gradients over devices here. If the loss were summed before it is differentiated, its
  # derivative would be counted once per device.
  value, grads = psum((value, grads))
  if scaling is not None:
    grads, norms = loss_scaling.unscaled((grads, norms), scaling.scale)
  # Integer params, such as a fixed permutation, are not trained.
  floats = floats_of(state.params)
  updates, opt_state = optimizer.update(grads, state.opt_state, floats)
  params = with_floats(optax.apply_updates(floats, updates), state.params)
  norms = jax.tree.map(lambda norm: norm * batch_size, norms)
  grad_norm = tree_norm(grads)
  unclipped = clipping.ClipState(grad_norm, jnp.zeros_like(grad_norm))
  clipped_norm, clipped = optax.tree_utils.tree_get(opt_state, "ClipState", unclipped)
  after = loss_scaling.state_of(opt_state)
  if after is not None:
    # Where the update was skipped, the clipping's state is that of an earlier update.
    clipped_norm = jnp.where(after.skipped, grad_norm, clipped_norm)
    clipped = jnp.where(after.skipped, jnp.zeros_like(clipped), clipped)
  if clip_carry is not None:
    acted = jnp.stack(clipping.was_clipped(norms, clip_carry))
    clipped = psum(jnp.mean(acted, dtype=grad_norm.dtype)) / num_parts
  metrics = Metrics(value, grad_norm, clipped_norm, clipped, norms)
  if scaling is not None and after is not None:
    metrics = metrics._replace(loss_scale=scaling.scale, skipped=after.skipped)
  return TrainState(state.step + 1, params, opt_state), final, metrics


def _forward(
  model: Model,
  loss: Loss,
  params: Params,
  batch: Batch,
  probes: Carry,
  key: Array | None,
  dtype: np.dtype | None,
  options: Mapping[str, Any],
) -> tuple[Carry, Array]:
  """Runs the model on a batch; returns (final carries, losses [T, B]).

  The model runs in `dtype`, if it is given; carries, losses and the probes' gradients do not.
  """
  xs = batch.xs
  if dtype is not None:
    params, xs = precision.cast((params, xs), dtype)
    probes = precision.cast(probes, np.float32)
    if "carries" in options:
      options = {**options, "carries": precision.cast(options["carries"], dtype)}
  dropout_key, cell_key = (None, None) if key is None else jax.random.split(key)
  final, outputs = model.apply(
    {"params": params},
    xs,
    probes=probes,
    key=cell_key,
    deterministic=key is None,
    rngs=None if key is None else {"dropout": dropout_key},
    **({} if batch.lengths is None else {"lengths": batch.lengths}),
    **options,
  )
  if dtype is not None:
    final, outputs = precision.at_least_float32((final, outputs))
  return final, loss(outputs, batch.targets)


def check_model(model: object, protocol: type, methods: str) -> None:
  """Raises if the model lacks a method of the protocol; `methods` lists them for the message."""
  if not isinstance(model, protocol):
    raise TypeError(f"model must have {methods}, as DeepRNN has, got {type(model).__name__}.")


def check_training(
  model: object, optimizer: object, loss: object, state: object, key: object
) -> None:
  """Raises unless the arguments have the types that `update` and `train_windows` require."""
  check_model(model, Model, "the methods init, apply and probes")
  checks.instance("optimizer", optimizer, optax.GradientTransformation, "make_optimizer")
  checks.function("loss", loss)
  checks.instance("state", state, TrainState, "init_state")
  if key is not None:
    checks.key("key", key)


def check_mask(mask: AnyArray) -> None:
  """Raises unless a batch's mask is a boolean array [T, B]."""
  if not isinstance(mask, AnyArray) or mask.ndim != 2 or mask.dtype != jnp.bool_:
    raise ValueError(f"batch.mask must be [T, B] of bool, got {checks.shown(mask)}.")
