"""Truncation bias: what backpropagation cut every k steps makes of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.gradient_flow.layer_sweep import check_scalar
from rnn_jax.probes import tree_norm
from rnn_jax.time_loop import unroll
from rnn_jax.types import Array, Cell, Params


class TruncationBias(NamedTuple):
  """Of the truncated gradients g_k against the full one g, for K values of k.

  Attributes:
    cosine: ⟨g_k, g⟩ / (‖g_k‖ ‖g‖), of the params of all cells together, [K].
    relative_error: ‖g_k − g‖ / ‖g‖, [K].
    layer_cosine: of each layer's params alone, [K, layers].
    layer_relative_error: [K, layers].
  """

  cosine: Array
  relative_error: Array
  layer_cosine: Array
  layer_relative_error: Array


def truncation_bias(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Array,
  loss: Callable[[Array], Array],
  truncations: Sequence[int],
) -> TruncationBias:
  """Cosine and relative error of the gradient truncated at k against full backpropagation.

    cosine = ⟨g_k, g⟩ / (‖g_k‖ ‖g‖)        relative error = ‖g_k − g‖ / ‖g‖

  g_k is the gradient of the loss in the cells' params under `unroll(truncation=k)` in every layer:
  cut in front of the steps k, 2k, …, so a loss at step t (from 0) reaches back t mod k steps. For a
  loss at every step that is (k − 1) / 2 on average. g is g_T.

  A cosine with a gradient that is exactly zero is NaN; where g is zero, so is the relative error.

  Cost: one forward and backward pass for each k, and one for g, all in one program.

  Args:
    cells: the cell of each layer, the first nearest the input.
    params: of each cell.
    xs: [T, B, D], or tokens [T, B], as the first cell reads them.
    loss: `ys -> scalar`, from the top cell's outputs [T, B, H].
    truncations: the values of k, from 1 to T.
  Returns:
    A TruncationBias, in the order of `truncations`.
  Raises:
    TypeError, ValueError: a k that is no integer from 1 to T, or none at all; a loss that is no
      scalar.
  """
  ks = _check_truncations(truncations, xs.shape[0])

  @jax.grad
  def gradient(params: tuple[Params, ...], k: Array) -> Array:
    ys = xs
    for cell, cell_params in zip(cells, params, strict=True):
      _, ys = unroll(cell, cell_params, ys, truncation=k)
    check_scalar(loss, ys)
    return loss(ys)

  params = tuple(params)
  full = gradient(params, jnp.asarray(xs.shape[0], jnp.int32))

  def of_truncation(k: Array) -> TruncationBias:
    cut = gradient(params, k)
    layers = [_compare(a, b) for a, b in zip(cut, full, strict=True)]
    return TruncationBias(*_compare(cut, full), *map(jnp.stack, zip(*layers, strict=True)))

  return jax.lax.map(of_truncation, jnp.asarray(ks))


def _compare(cut: Any, full: Any) -> tuple[Array, Array]:
  """Cosine and relative error of two gradients, right from 1e-38 to 1e38 in float32."""
  cut_norm, full_norm = tree_norm(cut), tree_norm(full)
  products = jax.tree.map(lambda a, b: jnp.sum((a / cut_norm) * (b / full_norm)), cut, full)
  error = tree_norm(jax.tree.map(jnp.subtract, cut, full)) / full_norm
  return jnp.sum(jnp.stack(jax.tree.leaves(products))), error


def _check_truncations(truncations: Any, num_steps: int) -> np.ndarray:
  if np.ndim(truncations) != 1 or len(truncations) == 0:
    raise ValueError(f"truncations must be a list of at least one k, got {truncations!r}.")
  for k in truncations:
    checks.integer("truncations", k)
    if k > num_steps:
      raise ValueError(f"truncations must be at most T = {num_steps}, got {k}.")
  return np.array([int(k) for k in truncations], np.int32)
