"""Loss scaling, which keeps small half-precision gradients from underflowing to zero.

flax's `DynamicScale` differentiates the loss itself, averages over devices itself, and casts all
gradients to float32. Here the scale is a part of the optimizer's state instead, so train states,
checkpoints and `rnn_jax.training.update` need nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from rnn_jax import checks
from rnn_jax.types import AnyArray

DYNAMIC = "dynamic"
# The first scale and the number of steps are those of PyTorch and Flax.
_FIRST, _STEPS = 2.0**16, 2000
_LARGEST = 2.0**127  # the largest power of two in float32


class LossScaleState(NamedTuple):
  """The state of an optimizer with loss scaling.

  Attributes:
    scale: factor on the loss of the next update; float32.
    finite_steps: number of consecutive updates with a finite gradient since the scale last changed;
      with a fixed scale, the number of all updates.
    skipped: whether the last update was skipped, because its gradient overflowed.
    inner: the state of the optimizer itself.
  """

  scale: Float[Array, ""]
  finite_steps: Int[Array, ""]
  skipped: Bool[Array, ""]
  inner: optax.OptState


def check(name: str, scale: object) -> None:
  """Raises unless the scale is `dynamic`, or a number above 0."""
  if isinstance(scale, str):
    checks.choice(name, scale, (DYNAMIC,), "Or pass a number above 0.")
  else:
    checks.number(name, scale, above=0)


def with_loss_scale(
  optimizer: optax.GradientTransformation, loss_scale: ArrayLike | str
) -> optax.GradientTransformation:
  """Returns an optimizer for gradients of a scaled loss; `update` scales the loss by its state.

    loss ← S · loss,  g ← dloss/dparams / S

  With `dynamic`, S starts at 2^16. If an entry of g is not finite, the update is skipped: params
  and optimizer state stay, and S ← S/2. After 2000 consecutive finite updates, S ← 2 S. S does not
  fall below 1; at S = 1 no update is skipped, since the scale cannot have caused the overflow. A
  fixed S skips no update.

  The optimizer receives g, which `rnn_jax.training.update` has divided by S. So clipping and
  moment estimates are those of a loss without scaling. The returned `init` raises a ValueError if a
  param is float16.

  Args:
    optimizer: the optimizer.
    loss_scale: S, a number above 0 or a traced scalar; or `dynamic`. Powers of two cause no
      rounding errors.
  Raises:
    TypeError, ValueError: if `optimizer` is not an optax transformation, or if `loss_scale` is
      neither `dynamic` nor a finite number above 0.
  References:
    Micikevicius et al., 2018, https://arxiv.org/abs/1710.03740
  """
  checks.instance("optimizer", optimizer, optax.GradientTransformation, "make_optimizer")
  check("loss_scale", loss_scale)
  is_dynamic = isinstance(loss_scale, str)

  def init(params: optax.Params) -> LossScaleState:
    if any(jnp.result_type(leaf) == jnp.float16 for leaf in jax.tree.leaves(params)):
      raise ValueError(
        "params must not be float16 with loss scaling, because their scaled gradients overflow. "
        "Keep float32 params, and pass dtype='float16' to rnn_jax.training.update."
      )
    first = jnp.asarray(_FIRST if is_dynamic else loss_scale, jnp.float32)
    no = jnp.zeros((), bool)
    return LossScaleState(first, jnp.zeros((), jnp.int32), no, optimizer.init(params))

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, LossScaleState]:
    assert isinstance(state, LossScaleState)
    new, inner = optimizer.update(updates, state.inner, params)
    if not is_dynamic:
      return new, state._replace(finite_steps=state.finite_steps + 1, inner=inner)
    finite = _all_finite(updates)
    skipped = ~finite & (state.scale > 1)
    new = _select(skipped, jax.tree.map(jnp.zeros_like, new), new)
    inner = _select(skipped, state.inner, inner)
    steps = jnp.where(finite, state.finite_steps + 1, 0)
    grows = steps == _STEPS
    scale = jnp.where(grows, jnp.minimum(2 * state.scale, _LARGEST), state.scale)
    scale = jnp.where(skipped, jnp.maximum(state.scale / 2, 1), scale)
    return new, LossScaleState(scale, jnp.where(grows, 0, steps), skipped, inner)

  return optax.GradientTransformation(init, update)


def state_of(opt_state: optax.OptState) -> LossScaleState | None:
  """Returns the `LossScaleState` in an optimizer's state; None if it does not scale the loss."""
  return optax.tree_utils.tree_get(opt_state, LossScaleState.__name__, None)


def scaled(loss: Float[Array, ""], scale: Float[AnyArray, ""]) -> Float[Array, ""]:
  """Returns the loss times the scale."""
  return loss * jnp.asarray(scale, loss.dtype)


def unscaled(tree: PyTree[Array], scale: Float[AnyArray, ""]) -> PyTree[Array]:
  """Returns gradients of a scaled loss, or their norms, divided by the scale."""
  return jax.tree.map(lambda a: a / jnp.asarray(scale, a.dtype), tree)


def _all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _select(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
