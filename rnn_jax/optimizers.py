"""Optimizers that combine gradient clipping, optax and loss scaling; learning-rate schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from rnn_jax import checks, clipping, loss_scaling

OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
  "adam": optax.adam,
  "rmsprop": optax.rmsprop,
  "sgd": optax.sgd,
}

CLIP_BY = ("global_norm", "element", "carry", "adaptive")
# The ways to clip that are transformations of the whole gradient.
_CLIPS: Mapping[str, Callable[[ArrayLike], optax.GradientTransformation]] = {
  "global_norm": clipping.clip_by_global_norm,
  "element": optax.clip,
  "adaptive": clipping.clip_adaptively,
}

# Fraction of the learning rate that remains, by the fraction of the way from warm-up to the end.
_DECAYS: Mapping[str, optax.Schedule] = {
  "constant": optax.constant_schedule(1.0),
  "linear": optax.linear_schedule(1.0, 0.0, 1),
  "cosine": optax.cosine_decay_schedule(1.0, 1),
}
SCHEDULES = tuple(_DECAYS)


def make_optimizer(
  name: str,
  learning_rate: ArrayLike | optax.Schedule,
  clip_norm: ArrayLike | None = None,
  clip_by: str = "global_norm",
  *,
  momentum: ArrayLike | None = None,
  weight_decay: ArrayLike | None = None,
  loss_scale: ArrayLike | str | None = None,
) -> optax.GradientTransformation:
  """Returns gradient clipping followed by an optax optimizer with optax's default hyperparameters.

    global_norm: g ← g · min(1, c / ‖g‖)      element: g_i ← min(max(g_i, −c), c)
    adaptive: g_u ← g_u · min(1, c max(‖w_u‖, 10⁻³) / ‖g_u‖) for each unit u; see
      `rnn_jax.clipping.clip_adaptively`

    m ← μ m + d(g)      params ← params − learning_rate (m + ω params)

  d(g) is the optimizer's direction: g for `sgd`. Momentum accumulates directions, and weight decay
  is decoupled: ω params enters neither d nor m. It acts on all params, biases included.

  Args:
    name: `adam`, `rmsprop` or `sgd`.
    learning_rate: a number, a schedule such as `learning_rate_schedule` returns, or a traced
      scalar.
    clip_norm: c, the largest norm (or element, or share of a unit's norm) that passes unchanged;
      None or inf for no clipping.
    clip_by: `global_norm`, `element`, `adaptive` or `carry`. With `carry` this transformation does
      not clip. Pass `clip_carry=c` to `update` instead, which clips at every step of the backward
      pass.
    momentum: μ, from 0 to below 1; None for none, m = d(g). `adam` has its own.
    weight_decay: ω, at least 0; None for none.
    loss_scale: factor on the loss, for training in half precision: a number, or `dynamic`; None
      for no scaling. See `rnn_jax.loss_scaling.with_loss_scale`.
  Raises:
    TypeError, ValueError: if a name is unknown, if a number is out of range, or if `adam` is given
      a momentum.
  References:
    Pascanu, Mikolov and Bengio, 2013 (by global norm), https://arxiv.org/abs/1211.5063
    Graves, 2013 (by element, inside backpropagation through time),
      https://arxiv.org/abs/1308.0850
    Brock et al., 2021 (adaptive), https://arxiv.org/abs/2102.06171
    Loshchilov and Hutter, 2019 (decoupled weight decay), https://arxiv.org/abs/1711.05101
  """
  optimizer = OPTIMIZERS[checks.choice("optimizer", name, OPTIMIZERS)]
  checks.choice("clip_by", clip_by, CLIP_BY)
  if not callable(learning_rate):
    checks.number("learning_rate", learning_rate, above=0)
  if clip_norm is not None:
    clipping.check("clip_norm", clip_norm)
  if momentum is not None:
    checks.number("momentum", momentum, minimum=0, below=1)
    if name == "adam":
      raise ValueError(f"momentum must be None with adam, which has its own, got {momentum}.")
  if weight_decay is not None:
    checks.number("weight_decay", weight_decay, minimum=0)
  parts = []
  if clip_norm is not None and clip_by != "carry":
    parts.append(clipping.with_clip_state(_CLIPS[clip_by](clip_norm)))
  if momentum is None and weight_decay is None:
    parts.append(optimizer(learning_rate))
  else:
    parts.append(optimizer(1.0))  # gives −d(g)
    if momentum is not None:
      parts.append(optax.trace(momentum))
    if weight_decay is not None:
      parts.append(optax.add_decayed_weights(-1 * jnp.asarray(weight_decay)))
    parts.append(optax.scale_by_learning_rate(learning_rate, flip_sign=False))
  made = parts[0] if len(parts) == 1 else optax.chain(*parts)
  return made if loss_scale is None else loss_scaling.with_loss_scale(made, loss_scale)


def learning_rate_schedule(
  name: str, learning_rate: ArrayLike, num_steps: int, warmup: ArrayLike = 0
) -> optax.Schedule:
  """Returns the learning rate at each step, as an optax schedule.

    rate(t) = learning_rate · t / w                            t < w
    rate(t) = learning_rate · decay((t − w) / (num_steps − w))      t ≥ w

    constant: decay(p) = 1      linear: decay(p) = 1 − p      cosine: decay(p) = (1 + cos πp) / 2

  Args:
    name: `constant`, `linear` or `cosine`.
    learning_rate: the largest rate, reached at step w; may be traced.
    num_steps: the step, counted from 0, from which a decaying rate is 0.
    warmup: w, the steps over which the rate grows from 0; 0 for none; may be traced.
  Raises:
    TypeError, ValueError: if the name is unknown, if a number is out of range, or if w is not below
      `num_steps`.
  References:
    Loshchilov and Hutter, 2017 (cosine), https://arxiv.org/abs/1608.03983
  """
  decay = _DECAYS[checks.choice("schedule", name, SCHEDULES)]
  checks.number("learning_rate", learning_rate, above=0)
  checks.integer("num_steps", num_steps)
  checks.number("warmup", warmup, minimum=0, below=num_steps)

  def schedule(step: ArrayLike) -> Array:
    step, w = jnp.asarray(step), jnp.asarray(warmup)
    rising = step / jnp.maximum(w, 1)
    falling = decay((step - w) / (num_steps - w))
    return jnp.asarray(learning_rate) * jnp.where(step < w, rising, falling)

  return schedule
