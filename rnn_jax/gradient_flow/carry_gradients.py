"""The gradient of the loss with respect to every carry, as vectors."""

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
  """Returns the vector dL/dh_t of every step, layer and unit.

  Convention: L is the given loss, without any rescaling. h_t is the carry after step t. The
  derivative is total: it includes the paths through later steps and through the layers above. The
  derivative with respect to one leaf of h_t holds the other leaves constant. Gradients are not
  truncated. The norms of these vectors are what `gradient_probe` records.

  Entries below the range of floats (1e-38 in float32) are zero; use `lag_profile` for the size of
  smaller gradients.

  Cost: one forward pass; then one single-step vector-Jacobian product for every step and layer;
  memory for T carries per layer.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    loss: `ys -> scalar`, a function of the top cell's outputs [T, B, H].
  Returns:
    For each layer, in the structure of its carry: dL/dh_t, leaves [T, B, H], with None in place of
    integer leaves.
  Raises:
    TypeError, ValueError: if the loss is not a scalar, or if the arguments do not fit the layers.
  """
  passes = forward_layers(cells, params, xs)
  ys = passes[-1].ys
  check_loss(loss, ys)
  layers = reverse_layers(cells, passes, unscaled(jax.grad(loss)(ys)))
  return tuple(shift(layer, jnp.zeros_like(layer.exponent)).value for layer in layers)
