"""Penalties that keep gradients from vanishing or exploding, for `rnn_jax.training.update`.

A penalty is a function `(params, batch) -> scalar`, which is added to the training loss. Each is a
mean over the examples, so a batch may be shared by several devices. To add several penalties, pass
their sum: `lambda params, batch: first(params, batch) + second(params, batch)`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from rnn_jax import checks
from rnn_jax.gradient_flow import flossing, omega
from rnn_jax.losses import masked_mean
from rnn_jax.modules import MeasuredModel
from rnn_jax.precision import at_least_float32
from rnn_jax.tasks import Batch
from rnn_jax.training import Loss, Penalty, check_model
from rnn_jax.types import Params, floats_of, with_floats

# The power iteration: with these numbers, the spectral radius of a Gaussian matrix of 16 to 512
# rows is correct to 0.003.
_STARTS, _SKIPPED, _COUNTED = 8, 100, 100


def omega_penalty(model: MeasuredModel, loss: Loss, weight: ArrayLike) -> Penalty:
  """Returns weight · Σ_layers Ω as a `penalty` for `update`, to keep gradients from vanishing.

  Ω penalizes changes of the gradient's norm from step to step; `rnn_jax.gradient_flow.omega`
  defines it and its gradient. It is computed for the batch's mean loss, without dropout and
  truncation, and from carries of zeros.

  Args:
    model: the network, such as `DeepRNN`.
    loss: `(outputs [T, B, O], targets) -> [T, B]`.
    weight: factor of Ω in the objective, at least 0.
  Returns:
    A function `(params, batch) -> scalar`.
  Raises:
    TypeError, ValueError: if the weight is not a number of at least 0, or if the network is pooled,
      since a pooled loss belongs to no single step. The returned function raises a ValueError if a
      batch has lengths, since Ω needs every step of every sequence.
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


def flossing_penalty(model: MeasuredModel, weight: ArrayLike, num_exponents: int = 1) -> Penalty:
  """Returns weight · Σ_layers Σ_{i ≤ m} λ_i² as a `penalty` for `update`: gradient flossing.

  It pushes the m leading Lyapunov exponents λ_i of every layer toward 0, where gradients neither
  vanish nor explode; `rnn_jax.gradient_flow.flossing` defines it, and says what it costs. It is
  computed from carries of zeros, without dropout and truncation. On a CPU with several devices, see
  `rnn_jax.gradient_flow.lyapunov_spectrum` about deadlocks. To floss before training, see
  `minimize`.

  Args:
    model: the network, such as `DeepRNN`.
    weight: factor in the objective, at least 0.
    num_exponents: m, from 1 to the size of the smallest joint carry.
  Returns:
    A function `(params, batch) -> scalar`, which reads only the batch's inputs.
  Raises:
    TypeError, ValueError: if an argument is out of range. The returned function raises a ValueError
      if a batch has lengths, since it needs every step of every sequence.
  References:
    Engelken, 2023, https://arxiv.org/abs/2312.17306
  """
  checks.number("weight", weight, minimum=0)
  checks.integer("num_exponents", num_exponents)
  check_model(model, MeasuredModel, "the methods trunk and readout")

  def penalty(params: Params, batch: Batch) -> Float[Array, ""]:
    if batch.lengths is not None:
      raise ValueError("batch must have no lengths: flossing needs every step of every sequence.")
    layers = flossing(*model.trunk({"params": params}, batch.xs), num_exponents=num_exponents)
    return jnp.sum(jnp.stack(layers)) * weight

  return penalty


def minimize(
  penalty: Penalty,
  optimizer: optax.GradientTransformation,
  params: Params,
  batch_at: Callable[[Int[Array, ""]], Batch],
  num_steps: ArrayLike,
) -> Params:
  """Returns the params after steps on the penalty alone, such as flossing before training.

  Args:
    penalty: `(params, batch) -> scalar`, such as `flossing_penalty(model, 1.0)`.
    optimizer: from `rnn_jax.optimizers.make_optimizer`, or any optax transformation. Its state
      begins anew and is discarded.
    params: the model's params. Integer params stay as they are.
    batch_at: returns the batch of a step, given the step's index.
    num_steps: number of steps, at least 0; may be traced.
  Raises:
    TypeError, ValueError: if an argument has the wrong type, or if `num_steps` is below 0.
  """
  checks.function("penalty", penalty)
  checks.function("batch_at", batch_at)
  checks.instance("optimizer", optimizer, optax.GradientTransformation, "make_optimizer")
  checks.number("num_steps", num_steps, minimum=0)

  def value(floats: Params, batch: Batch) -> Array:
    return penalty(with_floats(floats, params), batch)

  def advance(
    i: Int[Array, ""], state: tuple[Params, optax.OptState]
  ) -> tuple[Params, optax.OptState]:
    floats, opt_state = state
    grads = jax.grad(value)(floats, batch_at(i))
    updates, opt_state = optimizer.update(grads, opt_state, floats)
    return optax.apply_updates(floats, updates), opt_state

  floats = floats_of(params)
  floats, _ = jax.lax.fori_loop(0, num_steps, advance, (floats, optimizer.init(floats)))
  return with_floats(floats, params)


def spectral_radius(kernel: Float[Array, "H H"]) -> Float[Array, ""]:
  """Returns the spectral radius ρ of a square matrix W, by a power iteration.

    ρ = lim ‖v Wᵏ‖^(1/k)        (Gelfand, for almost every v)

  The growth of ln ‖v Wᵏ‖ is averaged over steps 101 to 200 and over 8 random v, the same in every
  call. The average exists also where the largest eigenvalues are a complex pair, and its derivative
  also where two eigenvalues cross, unlike that of an eigendecomposition. For Gaussian matrices the
  error is at most 0.003; for strongly non-normal matrices it may be larger. If W¹⁰¹ = 0, the
  result is about 10⁻¹⁵, with derivative 0.

  Cost: 1600 H² multiplications.

  Args:
    kernel: W [H, H].
  Raises:
    TypeError, ValueError: if W is not a square matrix of floats.
  """
  kernel = at_least_float32(checks.array("kernel", kernel, "floats"))
  if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
    raise ValueError(f"kernel must be [H, H], got {list(kernel.shape)}.")

  def normalized(v: Array) -> tuple[Array, Array]:
    # The small number keeps quotient and derivative finite where v is zero.
    norm = jnp.sqrt(jnp.sum(v**2, axis=1) + 1e-30)
    return v / norm[:, None], jnp.log(norm)

  def multiply(v: Array, _: None) -> tuple[Array, Array]:
    return normalized(v @ kernel)

  start = jax.random.normal(jax.random.key(0), (_STARTS, kernel.shape[0]), kernel.dtype)
  # This scan runs over powers of the kernel, not over time.
  _, logs = jax.lax.scan(multiply, normalized(start)[0], None, length=_SKIPPED + _COUNTED)
  return jnp.exp(jnp.mean(logs[_SKIPPED:]))


def spectral_penalty(model: MeasuredModel, weight: ArrayLike) -> Penalty:
  """Returns weight · Σ (ρ(W_h) − 1)² as a `penalty` for `update`.

  ρ is the spectral radius; see `spectral_radius`. The sum is over all layers, and over all gates g
  of a fused kernel [H, G·H], whose blocks W_g are taken alone.

  The gradient through k steps of a linear layer scales as ρᵏ for large k: it vanishes for ρ < 1 and
  explodes for ρ > 1. The largest singular value σ₁, which spectral norm regularization penalizes
  (Yoshida and Miyato, 2017), is only an upper bound: with σ₁ = 1 the gradient of a nilpotent
  kernel is zero after H steps. In a gated cell, and away from the zero state, the kernel is only
  one factor of the step Jacobian, so ρ = 1 is not its edge of stability (see
  `rnn_jax.network_init.critical_gain`); `flossing_penalty` controls the dynamics themselves.

  Args:
    model: the network, such as `DeepRNN`, of cells with a plain recurrent kernel
      (`Cell.recurrent_kernel`).
    weight: factor in the objective, at least 0.
  Returns:
    A function `(params, batch) -> scalar`, which reads only the shape of the batch's inputs.
  Raises:
    TypeError, ValueError: if the weight is not a number of at least 0. The returned function raises
      a ValueError if a cell has no plain recurrent kernel.
  References:
    Pascanu et al., 2013, section 2.1, https://arxiv.org/abs/1211.5063
    Yoshida and Miyato, 2017, https://arxiv.org/abs/1705.10941
  """
  checks.number("weight", weight, minimum=0)
  check_model(model, MeasuredModel, "the methods trunk and readout")

  def penalty(params: Params, batch: Batch) -> Float[Array, ""]:
    cells, layers, _ = model.trunk({"params": params}, batch.xs)
    radii = []
    for i, (cell, own) in enumerate(zip(cells, layers, strict=True)):
      if cell.recurrent_kernel is None:
        raise ValueError(
          f"model must have cells with a plain recurrent kernel, got none in cell {i}."
        )
      kernel = own[cell.recurrent_kernel]
      size = kernel.shape[0]
      blocks = jnp.moveaxis(kernel.reshape(size, -1, size), 1, 0)
      radii.append(jax.vmap(spectral_radius)(blocks))
    return jnp.sum((jnp.concatenate(radii) - 1) ** 2) * weight

  return penalty
