"""Saliency: how strongly the loss at one step depends on each input before it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.gradient_flow.reverse_sweep import forward_pass
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DeepRNN
from rnn_jax.probes import scaled_norm
from rnn_jax.time_loop import unroll
from rnn_jax.types import Array, Carry

# Of windows that are computed side by side: how many, and numbers that they read.
_MOST, _LARGEST = 64, 2**25


def saliency(model: DeepRNN, variables: Any, tokens: Array, reach: int) -> Array:
  """‖dL_t/dx_s‖ of a language model, for every step t and the `reach` inputs up to it.

    L_t = −ln p(x_{t+1} | x_0 … x_t)        saliency[t, k] = ‖dL_t/dx_s‖,  s = t − k

  x_s is what the first layer reads at step s: the embedded token, or its one-hot vector. Each L_t
  has a backward pass of its own, over the window of `reach` steps that ends at t and starts from
  the carry that the whole text before it leaves there. Nothing is approximated: a longer reach adds
  columns, and changes none.

  Cost: one forward pass over the text, and for each step a forward and a backward pass over its
  window.

  Args:
    model: reads tokens, from a carry of zeros; its outputs are logits of the next token.
    variables: of the model.
    tokens: x, [T + 1] integers, one text; the last is only predicted.
    reach: number of inputs that each loss is traced back to.
  Returns:
    [T, reach]; NaN where t − k is before the first step. Norms below 1e-38 are 0 in float32.
  Raises:
    TypeError, ValueError: a reach that is no integer of at least 1, tokens that are no integers
      [T + 1] with T at least 1, or a model that reads no tokens, is pooled or learned its carry.
  References:
    Simonyan et al., 2013 (of images), https://arxiv.org/abs/1312.6034
    Li et al., 2016 (of text), https://arxiv.org/abs/1506.01066
  """
  tokens, vocabulary_size = _check(model, tokens, reach)
  num_steps = len(tokens) - 1
  window = min(reach, num_steps)
  cells, params, xs = model.trunk(variables, tokens[:-1, None])
  if jnp.issubdtype(xs.dtype, jnp.integer):
    xs = jax.nn.one_hot(xs, vocabulary_size, dtype=float)
  layers, befores, ys = list(zip(cells, params, strict=True)), [], xs
  for (cell, cell_params), carry in zip(layers, model.initial_carries(1), strict=True):
    run = forward_pass(cell, cell_params, ys, carry)
    befores.append(run.before)
    ys = run.ys

  def loss(xs: Array, carries: list[Carry], last: Array, target: Array) -> Array:
    ys = xs
    for (cell, cell_params), carry in zip(layers, carries, strict=True):
      _, ys = unroll(cell, cell_params, ys, carry)
    logits: Any = model.apply(variables, ys[last][None], method="readout")
    return cross_entropy(logits[0, 0], target)

  def of_step(t: Array) -> Array:
    start = jnp.maximum(t - window + 1, 0)
    carries = jax.tree.map(lambda a: a[start], befores)
    read = jax.lax.dynamic_slice_in_dim(xs, start, window)
    x_bars = jax.grad(loss)(read, carries, t - start, tokens[t + 1])
    # Early windows all begin with the first step, and go on past t, which no gradient comes from.
    norms, places = scaled_norm(x_bars, axis=(1, 2)), t - start - jnp.arange(reach)
    return jnp.where(places >= 0, norms[places], jnp.full(reach, jnp.nan, norms.dtype))

  side_by_side = max(1, min(_MOST, _LARGEST // (window * xs.shape[-1])))
  return jax.lax.map(of_step, jnp.arange(num_steps), batch_size=side_by_side)


def _check(model: DeepRNN, tokens: Any, reach: Any) -> tuple[Array, int]:
  """The tokens, int32, and how many different ones there may be."""
  checks.integer("reach", reach)
  tokens = jnp.asarray(tokens)
  if not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise TypeError(f"tokens must be integers, got {tokens.dtype}.")
  if tokens.ndim != 1 or len(tokens) < 2:
    raise ValueError(f"tokens must be [T + 1] with T at least 1, got {list(tokens.shape)}.")
  if model.vocabulary_size is None or model.pooled:
    raise ValueError(
      "model must read tokens and predict at every step, got vocabulary_size "
      f"{model.vocabulary_size} and pooled {model.pooled}."
    )
  return tokens.astype(jnp.int32), model.vocabulary_size
