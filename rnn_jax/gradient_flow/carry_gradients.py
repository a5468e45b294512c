"""The vectors dL/dh_t: the loss's gradient with respect to every carry."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rnn_jax.gradient_flow.layer_sweep import (
  ScalarLoss,
  check_loss,
  forward_layers,
  reverse_layers,
)
from rnn_jax.gradient_flow.reverse_sweep import shift, unscaled
from rnn_jax.types import Carry, Cell, Params, Sequences


def carry_gradients(
  cells: Sequence[Cell], params: Sequence[Params], xs: Sequences, loss: ScalarLoss
) -> tuple[Carry, ...]:
  """Returns the vectors dL/dh_t of every step and layer.

  Convention: L is the given loss, without any rescaling. h_t is the carry after step t. dL/dh_t is
  the total derivative: it includes the paths through later steps and through the layers above. The
  derivative with respect to one leaf of h_t holds the other leaves constant. Gradients are not
  truncated. `gradient_probe` returns the norms of these vectors.

  Entries below the range of floats (1e-38 in float32) are zero; `lag_profile` measures the norms of
  smaller gradients.

  Cost: one forward pass, and one single-step vector-Jacobian product for every step and layer;
  memory for T carries per layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    loss: `ys -> scalar`, a function of the top cell's outputs [T, B, H].
  Returns:
    For each layer, dL/dh_t in the structure of the carry: leaves [T, B, H], with None in place of
    integer leaves.
  Raises:
    TypeError, ValueError: if the loss is not a scalar, or if the arguments do not fit the layers.
  """
  passes = forward_layers(cells, params, xs)
  ys = passes[-1].ys
  check_loss(loss, ys)
  layers = reverse_layers(cells, passes, unscaled(jax.grad(loss)(ys)))
  return tuple(shift(layer, jnp.zeros_like(layer.exponent)).value for layer in layers)
