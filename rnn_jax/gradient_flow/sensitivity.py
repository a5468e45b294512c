"""Sensitivity: the derivative of the carry at every step with respect to the params."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from rnn_jax import checks
from rnn_jax.gradient_flow.layer_sweep import check_layers
from rnn_jax.gradient_flow.reverse_sweep import with_carry_output
from rnn_jax.precision import at_least_float32
from rnn_jax.time_loop import check_params, unroll
from rnn_jax.types import Carry, Cell, Params, Sequences, floats_of, with_floats


def sensitivity(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  *,
  direction: Sequence[Params],
) -> tuple[Carry, ...]:
  """Returns dh_t/dθ along a direction θ̇ in parameter space, at every step of each layer.

    ḣ_t = (∂h_t/∂h_{t−1}) ḣ_{t−1} + (∂h_t/∂θ) θ̇        ḣ_{−1} = 0

  The derivative is taken in forward mode: a single tangent ḣ is propagated alongside the carry. In
  an upper layer, ∂h_t/∂θ includes the path through the layers below.

  Convention: one tangent per example and leaf of the carry. h_t is the carry after step t. To get
  dh_t/dθ_i for a single param θ_i, set θ̇ to 1 at that param and to 0 elsewhere.

  Cost: about three forward passes; memory for the carries of all time steps.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    direction: θ̇ for each cell, with the structure, shapes and dtypes of the params. Integer leaves
      are ignored.
  Returns:
    For each layer, in the structure of its carry: ḣ_t, leaves [T, B, H].
  Raises:
    TypeError, ValueError: if `direction` does not match the params, or if the arguments do not fit
      the layers.
  References:
    Williams and Zipser, 1989, https://doi.org/10.1162/neco.1989.1.2.270
  """
  check_layers(cells, params=params, direction=direction)
  checks.like("direction", tuple(params), tuple(direction))
  xs = checks.array("xs", xs, "floats", "integers")
  params, direction, xs = at_least_float32((tuple(params), tuple(direction), xs))

  def run(floats: tuple[Params, ...]) -> tuple[Carry, ...]:
    ys, layers = xs, []
    for i, (cell, cell_params) in enumerate(zip(cells, with_floats(floats, params), strict=True)):
      check_params(f"params[{i}]", cell, cell_params, ys)
      _, (carries, ys) = unroll(with_carry_output(cell), cell_params, ys, forward_mode=True)
      layers.append(carries)
    return tuple(layers)

  return jax.jvp(run, (floats_of(params),), (floats_of(direction),))[1]
