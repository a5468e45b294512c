"""Saliency: the gradient norm of each step's loss with respect to the inputs up to that step."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from rnn_jax import checks
from rnn_jax.gradient_flow.layer_sweep import forward_layers
from rnn_jax.losses import cross_entropy
from rnn_jax.modules import DeepRNN
from rnn_jax.precision import at_least_float32
from rnn_jax.probes import scaled_norm
from rnn_jax.time_loop import unroll
from rnn_jax.types import Carry

# Upper bounds on the number of windows, and of floats in their inputs, processed in parallel.
_MAX_WINDOWS, _MAX_NUMBERS = 64, 2**25


def saliency(
  model: DeepRNN, variables: PyTree, tokens: ArrayLike, *, reach: int
) -> Float[Array, "T reach"]:
  """Returns ‖dL_t/dx_s‖ of a language model, for each step t and the last `reach` inputs x_s.

    L_t = −ln p(x_{t+1} | x_0 … x_t)        saliency[t, k] = ‖dL_t/dx_s‖,  s = t − k

  x_s is the first layer's input at step s: the embedded token or, without an embedding, its one-hot
  vector. Each L_t has its own backward pass, over a window of `reach` steps that ends at t. The
  window starts from the carry after all of the text before it, so the result is exact: a larger
  `reach` adds columns to it but does not change the existing ones.

  Cost: one forward pass over the text; for each step a forward and a backward pass over its window.

  Args:
    model: a network that reads tokens, starts from a zero carry and predicts the next token's
      logits.
    variables: the model's variables.
    tokens: x, [T + 1] integers, one text; the last token is predicted but not read.
    reach: number of inputs up to and including step t with respect to which L_t is differentiated.
  Returns:
    [T, reach]; NaN where t − k is negative. Norms below 1e-38 are 0 in float32.
  Raises:
    TypeError, ValueError: if `reach` is not an integer of at least 1, if `tokens` is not an integer
      array [T + 1] with T at least 1, or if `model` does not read tokens, is pooled or has a
      learned carry.
  References:
    Simonyan et al., 2013 (for images), https://arxiv.org/abs/1312.6034
    Li et al., 2016 (for text), https://arxiv.org/abs/1506.01066
  """
  tokens, vocabulary_size = _check(model, tokens, reach)
  num_steps = len(tokens) - 1
  window = min(reach, num_steps)
  carries = model.initial_carries(1)
  variables = at_least_float32(variables)
  cells, params, xs = model.trunk(variables, tokens[:-1, None])
  if jnp.issubdtype(xs.dtype, jnp.integer):
    xs = jax.nn.one_hot(xs, vocabulary_size, dtype=float)
  passes = forward_layers(cells, params, xs, carries)
  befores = [layer.before for layer in passes]

  def loss(xs: Array, carries: Sequence[Carry], last: Array, target: Array) -> Array:
    ys = xs
    for cell, cell_params, carry in zip(cells, params, carries, strict=True):
      _, ys = unroll(cell, cell_params, ys, carry)
    logits = jnp.asarray(model.apply(variables, ys[last][None], method="readout"))
    return cross_entropy(logits[0, 0], target)

  def saliency_at(t: Int[Array, ""]) -> Float[Array, " reach"]:
    start = jnp.maximum(t - window + 1, 0)
    carries = jax.tree.map(lambda a: a[start], befores)
    read = jax.lax.dynamic_slice_in_dim(xs, start, window)
    x_bars = jax.grad(loss)(read, carries, t - start, tokens[t + 1])
    # The first windows start at step 0 and extend past t, where the gradient of L_t is zero.
    norms, steps = scaled_norm(x_bars, axis=(1, 2)), t - start - jnp.arange(reach)
    return jnp.where(steps >= 0, norms[steps], jnp.full(reach, jnp.nan, norms.dtype))

  in_parallel = max(1, min(_MAX_WINDOWS, _MAX_NUMBERS // (window * xs.shape[-1])))
  return jax.lax.map(saliency_at, jnp.arange(num_steps), batch_size=in_parallel)


def _check(model: DeepRNN, tokens: ArrayLike, reach: int) -> tuple[Int[Array, " N"], int]:
  """Checks the arguments of `saliency`; returns (tokens as int32, the model's vocabulary size)."""
  checks.instance("model", model, DeepRNN)
  checks.integer("reach", reach)
  tokens = checks.array("tokens", tokens, "integers")
  if tokens.ndim != 1 or len(tokens) < 2:
    raise ValueError(f"tokens must be [T + 1] with T at least 1, got {list(tokens.shape)}.")
  if model.vocabulary_size is None or model.output_size is None or model.pooled:
    raise ValueError(
      "model must read tokens and predict at every step, got vocabulary_size "
      f"{model.vocabulary_size}, output_size {model.output_size} and pooled {model.pooled}."
    )
  checks.tokens("tokens", tokens, model.vocabulary_size)
  return tokens.astype(jnp.int32), model.vocabulary_size
