"""Training: the state, the optimizer, and one update.

`rnn_jax.windows` trains on a stream, window by window.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, PyTree

from rnn_jax import checks, clipping
from rnn_jax.gradient_flow import omega
from rnn_jax.losses import masked_mean
from rnn_jax.modules import CausalModel, MeasuredModel, Model
from rnn_jax.probes import tree_norm
from rnn_jax.tasks import Batch
from rnn_jax.types import AnyArray, Carry, Params

Loss = Callable[[Array, Array], Array]
Penalty = Callable[[Params, Batch], Array]
DeviceSum = Callable[[PyTree], PyTree]

OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
  "adam": optax.adam,
  "rmsprop": optax.rmsprop,
  "sgd": optax.sgd,
}

CLIP_BY = ("global_norm", "element", "carry")


@flax.struct.dataclass
class TrainState:
  """Everything that an update changes.

  Attributes:
    step: int32 scalar, number of updates so far.
    params: the model's.
    opt_state: the optimizer's.
  """

  # Not `Int[Array, ""]`: jax also builds states of shapes, and of arrays with a device axis.
  step: PyTree
  params: Params
  opt_state: optax.OptState


class Metrics(NamedTuple):
  """Measurements of one update, taken before it changes the params.

  Attributes:
    loss: scalar, the mean over the steps that the mask selects.
    grad_norm: scalar, global norm of the gradient before the optimizer's clipping. (With
      clip_carry, this gradient is already the result of that clipping.)
    clipped_norm: scalar, the norm after the optimizer's clipping; grad_norm if it has none.
    clipped: scalar, 1 if the optimizer's clipping changed the gradient, else 0; with clip_carry
      the share of all dL/dh_t, over layers, steps and examples, that were clipped.
    norms: ‖dL/dh_t‖ [T, B] in the structure of the model's probes, for each leaf of each layer's
      carry. The loss is each example's own (B times its share of the mean), so the norms do not
      depend on the batch size.
    truncation: int32 scalar, the k that `train_windows` chose; None elsewhere.
  """

  loss: Float[Array, ""]
  grad_norm: Float[Array, ""]
  clipped_norm: Float[Array, ""]
  clipped: Float[Array, ""]
  norms: Carry
  truncation: Int[Array, ""] | None = None


def make_optimizer(
  name: str,
  learning_rate: ArrayLike | optax.Schedule,
  clip_norm: ArrayLike | None = None,
  clip_by: str = "global_norm",
) -> optax.GradientTransformation:
  """Returns gradient clipping followed by an optax optimizer with its own defaults.

    global_norm: g ← g · min(1, c / ‖g‖)      element: g_i ← min(max(g_i, −c), c)

  Args:
    name: `adam`, `rmsprop` or `sgd`.
    learning_rate: a number, a schedule, or a traced scalar.
    clip_norm: c, the largest norm (or element) that passes unchanged; None or inf for no clipping.
    clip_by: `global_norm`, `element` or `carry`. With `carry` this transformation does not clip:
      `update(..., clip_carry=c)` does, at every step of the backward pass through time.
  Raises:
    TypeError, ValueError: an unknown name, or a number out of range.
  References:
    Pascanu, Mikolov and Bengio, 2013 (by global norm), https://arxiv.org/abs/1211.5063
    Graves, 2013 (by element, in the backward pass through time), https://arxiv.org/abs/1308.0850
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
  return optax.chain(clipping.with_clip_state(clip(clip_norm)), optimizer(learning_rate))


def init_state(
  model: Model, optimizer: optax.GradientTransformation, key: Key[Array, ""], xs: PyTree
) -> TrainState:
  """Returns fresh params, drawn from `key` for inputs like `xs`, and a fresh optimizer state.

  Raises:
    TypeError, ValueError: an argument of another type, or what the model refuses.
  """
  check_model(model, Model, "the methods init, apply and probes")
  checks.instance("optimizer", optimizer, optax.GradientTransformation, "make_optimizer")
  checks.key("key", key)
  params = model.init(key, xs)["params"]
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def on_one_device(tree: PyTree) -> PyTree:
  """Returns the tree itself: the sum over one device."""
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
  psum: DeviceSum = on_one_device,
  **time: Any,
) -> tuple[TrainState, Carry, Metrics]:
  """Performs one optimizer step on the mean loss of a batch, and measures every gradient norm.

    L = Σ mask · loss / Σ mask,  params ← params + optimizer(d(L + penalty)/dparams)

  Args:
    model: the network. A bidirectional one takes no carries, no truncation and no clip_carry.
    optimizer: from `make_optimizer`, or any optax transformation.
    loss: `(outputs [T, B, O], targets) -> [T, B]`.
    state: the state before the update.
    batch: the training examples; the model receives its lengths.
    carries: initial carry of each layer; the model's own if None. They are constants: no gradient
      flows into them.
    clip_carry: largest ‖dL/dh_t‖ that the backward pass sends to earlier steps, in every layer, for
      each example's own loss; like `norms`, it does not depend on the batch size. None or inf for
      no clipping. See `unroll`.
    key: draws dropout and the masks of stochastic cells; None for neither.
    penalty: `(params, batch) -> scalar`, a mean over the examples, such as `omega_penalty`; None
      for no penalty. It counts in grad_norm and clipped_norm, and in no other metric.
    psum: sums a pytree over the devices among which the batch is split equally, where `batch` is
      one device's share: `rnn_jax.parallel.psum`. State, loss, grad_norm and clipped_norm are then
      those of the whole batch, on every device; carries and norms those of the device's examples.
    **time: truncation, resets, remat and scan_unroll, as the model takes them.
  Returns:
    (state after the update, final carries, metrics of the params before).
  Raises:
    TypeError, ValueError: the mask or the losses are not [T, B], or what the model or `unroll`
      refuses.
  """
  check_training(model, optimizer, loss, state, key)
  checks.instance("batch", batch, Batch)
  check_mask(batch.mask)
  for name, function in (("psum", psum), ("penalty", penalty)):
    if function is not None:
      checks.function(name, function)
  batch_size, count = psum(batch.mask.shape[1]), psum(jnp.sum(batch.mask))
  num_parts = psum(1)
  if clip_carry is not None:
    clipping.check("clip_carry", clip_carry)
    # The mean loss holds 1/B of each example's own.
    time["clip_carry"] = clip_carry / batch_size
  if carries is not None:
    time["carries"] = carries

  def objective(params: Params, probes: Carry) -> tuple[Array, tuple[Array, Carry]]:
    final, losses = _forward(model, loss, params, batch, probes, key, time)
    value = masked_mean(losses, batch.mask, count)
    total = value if penalty is None else value + penalty(params, batch) / num_parts
    return total, (value, final)

  gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
  (_, (value, final)), (grads, norms) = gradient(state.params, model.probes(batch.xs))
  # Sum the gradients, not the loss before: its derivative would be counted once per device.
  value, grads = psum((value, grads))
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  norms = jax.tree.map(lambda norm: norm * batch_size, norms)
  grad_norm = tree_norm(grads)
  unclipped = clipping.ClipState(grad_norm, jnp.zeros_like(grad_norm))
  clipped_norm, clipped = optax.tree_utils.tree_get(opt_state, "ClipState", unclipped)
  if clip_carry is not None:
    acted = jnp.stack(clipping.was_clipped(norms, clip_carry))
    clipped = psum(jnp.mean(acted, dtype=grad_norm.dtype)) / num_parts
  metrics = Metrics(value, grad_norm, clipped_norm, clipped, norms)
  return TrainState(state.step + 1, params, opt_state), final, metrics


def _forward(
  model: Model,
  loss: Loss,
  params: Params,
  batch: Batch,
  probes: Carry,
  key: Array | None,
  options: Mapping[str, Any],
) -> tuple[Carry, Array]:
  """Returns (final carries, losses [T, B])."""
  dropout_key, cell_key = (None, None) if key is None else jax.random.split(key)
  final, outputs = model.apply(
    {"params": params},
    batch.xs,
    probes=probes,
    key=cell_key,
    deterministic=key is None,
    rngs=None if key is None else {"dropout": dropout_key},
    **({} if batch.lengths is None else {"lengths": batch.lengths}),
    **options,
  )
  return final, loss(outputs, batch.targets)


def check_model(model: object, protocol: type, methods: str) -> None:
  """Refuses a model that lacks methods of a protocol."""
  if not isinstance(model, protocol):
    raise TypeError(f"model must have {methods}, as DeepRNN has, got {type(model).__name__}.")


def check_training(
  model: object, optimizer: object, loss: object, state: object, key: object
) -> None:
  """Raises unless the arguments have the types that `update` and `train_windows` take."""
  check_model(model, Model, "the methods init, apply and probes")
  checks.instance("optimizer", optimizer, optax.GradientTransformation, "make_optimizer")
  checks.function("loss", loss)
  checks.instance("state", state, TrainState, "init_state")
  if key is not None:
    checks.key("key", key)


def check_mask(mask: AnyArray) -> None:
  """Refuses a batch's mask that is not [T, B] of bool."""
  if not isinstance(mask, AnyArray) or mask.ndim != 2 or mask.dtype != jnp.bool_:
    raise ValueError(f"batch.mask must be [T, B] of bool, got {checks.shown(mask)}.")


def omega_penalty(model: MeasuredModel, loss: Loss, weight: ArrayLike) -> Penalty:
  """Returns weight · Σ_layers Ω for `update(..., penalty=)`: it keeps gradient norms up in time.

  Ω is computed on the whole batch under its mean loss, without dropout, truncation and initial
  carries; `rnn_jax.gradient_flow.omega` defines it and says how it is differentiated.

  Args:
    model: the network, such as `DeepRNN`.
    loss: `(outputs [T, B, O], targets) -> [T, B]`.
    weight: factor of Ω in the objective, at least 0.
  Returns:
    `(params, batch) -> scalar`.
  Raises:
    TypeError, ValueError: the weight is not a number of at least 0; the network is pooled, or a
      batch has lengths, so that a step has no loss of its own in every sequence.
  References:
    Pascanu et al., 2013, https://arxiv.org/abs/1211.5063
  """
  checks.number("weight", weight, minimum=0)
  checks.function("loss", loss)
  check_model(model, MeasuredModel, "the methods trunk and readout")
  if getattr(model, "pooled", False):
    raise ValueError("model must not be pooled, since a pooled loss belongs to no step.")

  def penalty(params: Params, batch: Batch) -> Float[Array, ""]:
    if batch.lengths is not None:
      raise ValueError("batch must have no lengths: Ω needs every step of every sequence.")
    variables = {"params": params}
    readout = functools.partial(model.apply, variables, method="readout")

    def mean_loss(ys: Array) -> Array:
      return masked_mean(loss(readout(ys), batch.targets), batch.mask)

    return jnp.sum(jnp.stack(omega(*model.trunk(variables, batch.xs), mean_loss))) * weight

  return penalty
