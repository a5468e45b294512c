"""Bias and variance of an estimator of the gradient, against backpropagation through time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from rnn_jax import checks
from rnn_jax.estimators._estimator import Estimator, ScalarLoss
from rnn_jax.estimators.bptt import bptt
from rnn_jax.gradient_flow.layer_sweep import check_layers, check_loss
from rnn_jax.precision import at_least_float32
from rnn_jax.probes import scaled_norm, tree_norm
from rnn_jax.time_loop import check_params
from rnn_jax.types import Cell, Params, Sequences, floats_of, with_floats

Scalar = Float[Array, ""]


class Comparison(NamedTuple):
  """Estimates ĝ of a gradient g, for n keys; NaN or inf where g is zero.

  Attributes:
    cosine: mean over keys of ⟨ĝ, g⟩ / (‖ĝ‖ ‖g‖).
    relative_error: √(mean ‖ĝ − g‖²) / ‖g‖.
    bias: ‖mean ĝ − g‖ / ‖g‖. For an unbiased estimator it is about standard_deviation / √n.
    standard_deviation: √(variance of ĝ, summed over its entries) / ‖g‖; 0 for one that is not
      random, NaN for a random one with a single key.
  """

  cosine: Array
  relative_error: Array
  bias: Array
  standard_deviation: Array


class LagShares(NamedTuple):
  """Shares ĝ_k of the lags k in a layer's estimate, compared with the true shares g_k.

  Attributes:
    log10_norm: log₁₀ ‖g_k‖, [K].
    kept: ⟨mean ĝ_k, g_k⟩ / ‖g_k‖², [K]: 1 if the estimator has the whole share, 0 if it has lost
      it; NaN where g_k is zero.
    standard_deviation: √(variance of ĝ_k, summed over its entries) / ‖g_k‖, [K].
  """

  log10_norm: Float[Array, " K"]
  kept: Float[Array, " K"]
  standard_deviation: Float[Array, " K"]


class EstimatorBias(NamedTuple):
  """A comparison of an estimator's gradients with those of backpropagation through time.

  Attributes:
    total: a Comparison of the params of all cells as one vector.
    layers: for each layer, a Comparison of its params alone.
    leaves: for each layer, a pytree like its params with a Comparison in place of each leaf.
    lags: for each layer, its LagShares.
  """

  total: Comparison
  layers: tuple[Comparison, ...]
  leaves: tuple[PyTree[Comparison], ...]
  lags: tuple[LagShares, ...]


def estimator_bias(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  loss: ScalarLoss,
  *,
  estimator: Estimator,
  key: Key[Array, ""],
  num_keys: int = 1,
  num_lags: int = 16,
) -> EstimatorBias:
  """Compares an estimator's gradients with full backpropagation through time, on the same batch.

  The gradient is that of the params of all cells, with the estimator's `unroll` in each layer. Its
  shares of lags are compared for each layer by itself: g = Σ_k g_k, where g_k is the effect that
  the layer's params at step s − k have, through the layer's own carries, on its output at step s.
  For this, the errors that reach the layer's outputs from above are those of backpropagation
  through time. For the lags of a deep network as a whole, pass it as one cell, `[stack(cells)]`
  with `[params]`.

  Cost: a gradient and its shares for each key, one key after another; memory for K·P numbers per
  layer. The memory of a forward estimator grows with K, too.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    loss: `ys -> scalar`, a function of the top cell's outputs [T, B, H].
    estimator: the estimator, from a constructor of `rnn_jax.estimators`.
    key: random key, from which those of the estimates are drawn.
    num_keys: n, the number of estimates. One is enough for an estimator that is not random.
    num_lags: K, the number of shares. Entry k < K − 1 is lag k; the last holds all lags from K − 1.
  Returns:
    An EstimatorBias.
  Raises:
    TypeError, ValueError: if the estimator does not support a cell, if `num_keys` or `num_lags` is
      not an integer of at least 1, or if the arguments do not fit the layers.
  """
  check_layers(cells, params=params)
  checks.instance("estimator", estimator, Estimator, "a constructor of rnn_jax.estimators")
  checks.key("key", key)
  checks.integer("num_keys", num_keys)
  checks.integer("num_lags", num_lags)
  xs = checks.array("xs", xs, "floats", "integers")
  params, xs = at_least_float32((tuple(params), xs))

  def outputs(
    rule: Estimator, params: Sequence[Params], slots: Sequence[Array] | None, key: Array
  ) -> tuple[Array, ...]:
    ys, found = xs, []
    for i, (cell, own) in enumerate(zip(cells, params, strict=True)):
      check_params(f"params[{i}]", cell, own, ys)
      _, ys = rule.unroll(cell, own, ys, estimator_key=jax.random.fold_in(key, i))
      ys = ys if slots is None else ys + slots[i]
      found.append(ys)
    return tuple(found)

  ys = jax.eval_shape(lambda: outputs(bptt(), params, None, key))
  check_loss(loss, ys[-1])
  floats = floats_of(params)

  def gradient(rule: Estimator, key: Array) -> tuple[Params, ...]:
    def value(floats: tuple[Params, ...]) -> Scalar:
      return loss(outputs(rule, with_floats(floats, params), None, key)[-1])

    return jax.grad(value)(floats)

  slots = [jnp.zeros(y.shape, y.dtype) for y in ys]
  y_bars = jax.grad(lambda slots: loss(outputs(bptt(), params, slots, key)[-1]))(slots)
  inputs = (xs, *outputs(bptt(), params, None, key)[:-1])

  def shares(rule: Estimator, key: Array) -> tuple[Float[Array, "K P"], ...]:
    found = []
    for i, (cell, own, x, y_bar) in enumerate(zip(cells, params, inputs, y_bars, strict=True)):
      of_layer = rule.shares(cell, own, x, y_bar, jax.random.fold_in(key, i), num_lags=num_lags)
      found.append(jax.vmap(_vector)(of_layer))
    return tuple(found)

  exact = gradient(bptt(), key), shares(bptt(), key)
  # Norms may lie anywhere in the float range, so each leaf and share is compared in units of its
  # own.
  units = _units(exact[0]), tuple(_nonzero(scaled_norm(g, axis=1)) for g in exact[1])

  def scaled(found: tuple[PyTree, PyTree]) -> tuple[list[Array], tuple[Array, ...]]:
    leaves = jax.tree.leaves(found[0])
    return (
      [_vector(leaf) / unit for leaf, unit in zip(leaves, units[0], strict=True)],
      tuple(g / norm[:, None] for g, norm in zip(found[1], units[1], strict=True)),
    )

  g, g_lags = scaled(exact)
  scopes = _scopes(floats, units[0])
  g_norms = scopes @ _squares(g)

  def add(sums: PyTree, key: Array) -> tuple[PyTree, None]:
    own, own_lags = scaled((gradient(estimator, key), shares(estimator, key)))
    errors = [a - b for a, b in zip(own, g, strict=True)]
    lag_errors = [a - b for a, b in zip(own_lags, g_lags, strict=True)]
    products = scopes @ jnp.stack([jnp.sum(a * b) for a, b in zip(own, g, strict=True)])
    new = (
      products / jnp.sqrt(scopes @ _squares(own) * g_norms),
      scopes @ _squares(errors),
      errors,
      lag_errors,
      [jnp.sum(a**2, axis=1) for a in lag_errors],
    )
    return jax.tree.map(jnp.add, sums, new), None

  zeros = jnp.zeros(len(scopes), g_norms.dtype)
  by_lag = [jnp.zeros(num_lags, a.dtype) for a in g_lags]
  start = zeros, zeros, *jax.tree.map(jnp.zeros_like, (g, [*g_lags])), by_lag
  sums, _ = jax.lax.scan(add, start, jax.random.split(key, num_keys))
  cosine, square, errors, lag_errors, lag_square = jax.tree.map(lambda a: a / num_keys, sums)
  spread = _spread(num_keys, estimator.random)
  bias = scopes @ _squares(errors)
  compared = Comparison(
    cosine,
    jnp.sqrt(square / g_norms),
    jnp.sqrt(bias / g_norms),
    spread * jnp.sqrt(jnp.maximum(square - bias, 0) / g_norms),
  )
  each = [Comparison(*(a[i] for a in compared)) for i in range(len(scopes))]
  lags = []
  for norm, true, mean, mean_square in zip(units[1], g_lags, lag_errors, lag_square, strict=True):
    present = jnp.sum(true**2, axis=1)  # 1, or 0 where the true share is zero
    variance = jnp.maximum(mean_square - jnp.sum(mean**2, axis=1), 0)
    kept = 1 + jnp.sum(mean * true, axis=1) / present
    lags.append(
      LagShares(
        jnp.where(present > 0, jnp.log10(norm), -jnp.inf),
        kept,
        spread * jnp.sqrt(variance / present),
      )
    )
  count = len(cells)
  structure = jax.tree.structure(floats)
  leaves = jax.tree.unflatten(structure, each[1 + count :])
  return EstimatorBias(each[0], tuple(each[1 : 1 + count]), leaves, tuple(lags))


def _vector(tree: PyTree[Array]) -> Float[Array, " P"]:
  """Returns all leaves as one real vector."""
  parts = [
    part.ravel()
    for leaf in jax.tree.leaves(tree)
    for part in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))
  ]
  return jnp.concatenate(parts)


def _squares(leaves: Sequence[Array]) -> Float[Array, " leaves"]:
  return jnp.stack([jnp.sum(leaf**2) for leaf in leaves])


def _units(grads: Sequence[Params]) -> Float[Array, " leaves"]:
  """Returns the norm of each leaf; for a leaf of zeros that of its layer, or else of all layers."""
  total, units = _nonzero(tree_norm(grads)), []
  for own in grads:
    layer = tree_norm(own)
    layer = jnp.where(layer > 0, layer, total)
    norms = [scaled_norm(_vector(leaf)) for leaf in jax.tree.leaves(own)]
    units += [jnp.where(norm > 0, norm, layer) for norm in norms]
  return jnp.stack(units)


def _scopes(
  params: Sequence[Params], units: Float[Array, " leaves"]
) -> Float[Array, "scopes leaves"]:
  """Returns weights of the leaves in the network, in each layer, and in each leaf of the params.

  A product with the weights adds up squares of leaves, given in `units`. Each sum is in units of
  its largest leaf.
  """
  counts = [len(jax.tree.leaves(own)) for own in params]
  layers = np.repeat(np.arange(len(counts)), counts)[None] == np.arange(len(counts))[:, None]
  members = np.concatenate([np.ones((1, sum(counts)), bool), layers, np.eye(sum(counts)) > 0])
  own = jnp.where(members, units[None], jnp.zeros_like(units)[None])
  return (own / jnp.max(own, axis=1, keepdims=True)) ** 2


def _nonzero(norms: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
  return jnp.where(norms > 0, norms, jnp.ones_like(norms))


def _spread(num_keys: int, random: bool) -> float:
  """Returns the factor from the mean square of n deviations to an unbiased standard deviation."""
  if not random:
    return 0.0
  return float("nan") if num_keys == 1 else (num_keys / (num_keys - 1)) ** 0.5
