"""Online training: on a stream, with an update of the params after every time step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key, PyTree

from rnn_jax import checks
from rnn_jax.cells import stack
from rnn_jax.estimators import Estimator
from rnn_jax.losses import masked_mean
from rnn_jax.modules import DeepRNN
from rnn_jax.parallel import vary_alike
from rnn_jax.probes import tree_norm
from rnn_jax.tasks import Batch
from rnn_jax.training import Loss, TrainState, check_mask, check_training
from rnn_jax.types import Carry, Params, floats_of, with_floats


class OnlineMetrics(NamedTuple):
  """Measurements of every update, taken before it changes the params.

  Attributes:
    loss: the mean loss of the step over the examples that the mask selects; 0 if it selects none.
    grad_norm: global norm of the estimated gradient before the optimizer's clipping.
  """

  loss: Float[Array, " N"]
  grad_norm: Float[Array, " N"]


class OnlineState(NamedTuple):
  """Carries and the estimator's memory, to pass from one call of `train_online` to the next.

  Attributes:
    carries: the carry of each layer, leaves [B, ...].
    memory: the estimator's memory for each example, leaves [B, ...].
  """

  carries: tuple[Carry, ...]
  memory: PyTree[Array]


def train_online(
  model: DeepRNN,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  state: TrainState,
  stream: Batch,
  estimator: Estimator,
  key: Key[Array, ""],
  continued: OnlineState | None = None,
  *,
  resets: Bool[Array, "N B"] | None = None,
) -> tuple[TrainState, OnlineState, OnlineMetrics]:
  """Trains on a stream: one update per time step, by a forward estimator.

    M_t = J_t M_{t−1} + I_t        g_t = δ_tᵀ M_t + ∂L_t/∂θ        θ ← θ + optimizer(g_t)

  Nothing of earlier steps is stored but the estimator's memory, M or an approximation of it. So the
  gradient of a step's loss reaches back to the start of the stream, or to the last reset. M is
  stale: it was accumulated with the params of earlier steps, so even an exact estimator is exact
  only in the limit of small updates.

  The layers are one cell, `stack(model.cells)`, so the estimator covers the paths between them. The
  readout is differentiated exactly. Stochastic cells run as in evaluation.

  Args:
    model: the network, without embedding, dropout, pooling and learned carries.
    optimizer: from `rnn_jax.optimizers.make_optimizer`, or any optax transformation.
    loss: `(outputs [1, B, O], targets) -> [1, B]`.
    state: the state before the first update.
    stream: leaves [N, B, ...]: B contiguous parts of the data, read in parallel.
    estimator: one that runs step by step: `rtrl`, `snap`, `rflo`, `uoro` or `kf_rtrl`.
    key: random key of the estimator. The key of each step depends on it and on `state.step`.
    continued: from an earlier call, if the stream continues its stream; zeros if None.
    resets: [N, B] bool; where True, a new document starts, and carry and memory are set to zeros.
  Returns:
    (state after N updates, `continued` of the next call, metrics of the N updates).
  Raises:
    TypeError, ValueError: if the estimator needs a whole sequence or does not support a cell, if
      the model has one of the parts that are excluded above, or if an array has the wrong shape.
  References:
    Williams and Zipser, 1989, https://doi.org/10.1162/neco.1989.1.2.270
    Marschall, Cho and Savin, 2020 (the estimators in one framework), https://arxiv.org/abs/1907.02649
  """
  check_training(model, optimizer, loss, state, key)
  checks.instance("estimator", estimator, Estimator, "a constructor of rnn_jax.estimators")
  if estimator.online is None:
    raise ValueError(
      "estimator must run forward in time, step by step, as rtrl, snap, rflo, uoro and kf_rtrl do, "
      "got one that needs the whole sequence."
    )
  _check_model(model)
  checks.instance("stream", stream, Batch)
  check_mask(stream.mask)
  num_steps, batch_size = stream.mask.shape
  if resets is not None:
    resets = checks.array("resets", resets, "booleans")
    if resets.shape != (num_steps, batch_size):
      raise ValueError(f"resets must be [N, B] = ({num_steps}, {batch_size}), got {resets.shape}.")
  for leaf in jax.tree.leaves((stream.xs, stream.targets)):
    if np.shape(leaf)[:1] != (num_steps,):
      raise ValueError(
        f"stream must have leaves [N, B, ...] with N = {num_steps}, got {checks.shown(leaf)}."
      )
  cell = model.cells[0] if len(model.cells) == 1 else stack(model.cells)
  online = estimator.online

  def of_cell(params: Params) -> Params:
    own = model.cell_params({"params": params})
    return own[0] if len(own) == 1 else own

  start = continued
  if start is None:
    carries = model.initial_carries(batch_size)
    start = OnlineState(carries, online.init(cell, of_cell(state.params), stream.xs))

  def body(
    old: tuple[TrainState, OnlineState], now: tuple[Batch, Array | None]
  ) -> tuple[tuple[TrainState, OnlineState], OnlineMetrics]:
    (state, (carries, memory)), (batch, reset) = old, now
    if reset is not None:
      carries, memory = jax.tree.map(
        lambda a: jnp.where(jnp.expand_dims(reset, range(1, a.ndim)), jnp.zeros_like(a), a),
        (carries, memory),
      )
    carry = carries[0] if len(carries) == 1 else carries
    step_key = jax.random.fold_in(key, state.step)
    carry, memory, y, gradient = online.step(
      cell, of_cell(state.params), carry, memory, batch.xs, step_key
    )

    def objective(floats: Params, y: Array) -> Array:
      variables = {"params": with_floats(floats, state.params)}
      outputs: Any = model.apply(variables, y[None], method="readout")
      return masked_mean(loss(outputs, batch.targets[None]), batch.mask[None])

    floats = floats_of(state.params)
    value, (grads, y_bar) = jax.value_and_grad(objective, argnums=(0, 1))(floats, y)
    own = gradient(y_bar)
    for i, of_layer in enumerate([own] if len(carries) == 1 else own):
      grads = {**grads, f"layers_{i}": {"cell": of_layer}}
    updates, opt_state = optimizer.update(grads, state.opt_state, floats)
    params = with_floats(optax.apply_updates(floats, updates), state.params)
    new = TrainState(state.step + 1, params, opt_state)
    carries = (carry,) if len(carries) == 1 else carry
    return (new, OnlineState(carries, memory)), OnlineMetrics(value, tree_norm(grads))

  # `unroll` cannot run this loop, since the params change after each step.
  state, start, stream, resets = vary_alike((state, start, stream, resets))
  (state, end), metrics = jax.lax.scan(body, (state, start), (stream, resets))
  return state, end, metrics


def _check_model(model: DeepRNN) -> None:
  """Raises if the network has a part through which the estimated gradient would not pass."""
  checks.instance("model", model, DeepRNN)
  for name, none in (
    ("embedding_size", None),
    ("dropout", 0),
    ("pooled", False),
    ("learned_carry", False),
  ):
    if getattr(model, name) != none:
      raise ValueError(
        f"model must have {name} {none} for online training, got {getattr(model, name)}."
      )
