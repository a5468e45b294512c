"""Truncation bias: how far truncated gradients are from the full gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from rnn_jax import checks
from rnn_jax.gradient_flow.layer_sweep import ScalarLoss, check_layers, check_loss
from rnn_jax.precision import at_least_float32
from rnn_jax.probes import tree_norm
from rnn_jax.time_loop import check_params, unroll
from rnn_jax.types import Cell, Params, Sequences, floats_of, with_floats


class TruncationBias(NamedTuple):
  """A comparison of truncated gradients g_k with the full gradient g, for K truncations k.

  Attributes:
    cosine: ⟨g_k, g⟩ / (‖g_k‖ ‖g‖), with the params of all cells as one vector, [K].
    relative_error: ‖g_k − g‖ / ‖g‖, with the params of all cells as one vector, [K].
    layer_cosine: the cosine for each layer's params alone, [K, layers].
    layer_relative_error: the relative error for each layer's params alone, [K, layers].
  """

  cosine: Float[Array, " K"]
  relative_error: Float[Array, " K"]
  layer_cosine: Float[Array, "K layers"]
  layer_relative_error: Float[Array, "K layers"]


def truncation_bias(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  loss: ScalarLoss,
  *,
  truncations: Sequence[int],
) -> TruncationBias:
  """Returns the cosine and relative error between truncated gradients g_k and the full gradient g.

    cosine = ⟨g_k, g⟩ / (‖g_k‖ ‖g‖)        relative error = ‖g_k − g‖ / ‖g‖

  g_k is the gradient of the loss with respect to the params of all cells, with
  `unroll(truncation=k)` in every layer. Truncation stops the gradient before the steps k, 2k, …, so
  the gradient of a loss at step t (from 0) reaches back t mod k steps; for a loss at every step,
  that is (k − 1) / 2 steps on average. g is g_T, full backpropagation through time.

  The cosine is NaN if g_k or g is exactly zero. If g is zero, the relative error is NaN, too.

  Cost: one forward and backward pass for each k, and one for g, all in one program.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    loss: `ys -> scalar`, a function of the top cell's outputs [T, B, H].
    truncations: the values of k, each from 1 to T.
  Returns:
    A TruncationBias, in the order of `truncations`.
  Raises:
    TypeError, ValueError: if `truncations` is empty or holds anything but integers from 1 to T, if
      the loss is not a scalar, or if the arguments do not fit the layers.
  """
  check_layers(cells, params=params)
  xs = checks.array("xs", xs, "floats", "integers")
  params, xs = at_least_float32((tuple(params), xs))

  def outputs(params: tuple[Params, ...], k: Int[Array, ""] | None) -> Float[Array, "T B H"]:
    ys = xs
    for i, (cell, cell_params) in enumerate(zip(cells, params, strict=True)):
      check_params(f"params[{i}]", cell, cell_params, ys)
      _, ys = unroll(cell, cell_params, ys, truncation=k)
    return ys

  ys = jax.eval_shape(lambda: outputs(params, None))
  num_steps = ys.shape[0]
  ks = _check_truncations(truncations, num_steps)
  check_loss(loss, ys)

  def loss_of(floats: tuple[Params, ...], k: Int[Array, ""]) -> Float[Array, ""]:
    return loss(outputs(with_floats(floats, params), k))

  gradient, floats = jax.grad(loss_of), floats_of(params)
  full = gradient(floats, jnp.asarray(num_steps, jnp.int32))

  def bias_at(k: Int[Array, ""]) -> TruncationBias:
    cut = gradient(floats, k)
    layers = [_compare(a, b) for a, b in zip(cut, full, strict=True)]
    return TruncationBias(*_compare(cut, full), *map(jnp.stack, zip(*layers, strict=True)))

  return jax.lax.map(bias_at, jnp.asarray(ks))


def _compare(cut: PyTree[Array], full: PyTree[Array]) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns (cosine, relative error) of a truncated gradient `cut` against the gradient `full`.

  The norms may lie anywhere in the float range, 1e-38 to 1e38 in float32.
  """
  cut_norm, full_norm = tree_norm(cut), tree_norm(full)
  products = jax.tree.map(lambda a, b: jnp.sum((a / cut_norm) * (b / full_norm)), cut, full)
  error = tree_norm(jax.tree.map(jnp.subtract, cut, full)) / full_norm
  return jnp.sum(jnp.stack(jax.tree.leaves(products))), error


def _check_truncations(truncations: Sequence[int], num_steps: int) -> Int[np.ndarray, " K"]:
  """Returns the truncations as int32; raises unless they are one or more integers from 1 to T."""
  is_list = isinstance(truncations, Sequence | np.ndarray) and np.iterable(truncations)
  if not is_list or len(truncations) == 0:
    raise ValueError(f"truncations must be a list of at least one k, got {truncations!r}.")
  for k in truncations:
    checks.integer("truncations", k)
    if k > num_steps:
      raise ValueError(f"truncations must be at most T = {num_steps}, got {k}.")
  return np.array([int(k) for k in truncations], np.int32)
