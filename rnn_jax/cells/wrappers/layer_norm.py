"""Layer normalisation of what a cell reads."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.dense import over
from rnn_jax.types import Array, Carry, Cell, Drive, Params

EPSILON = 1e-6


def layer_norm(cell: Cell) -> Cell:
  """A cell that reads its input normalised, each x_t over its own entries.

    x̂ = γ ∘ (x − mean x) / √(var x + ε) + β      ε = 1e-6

  x ↦ a x + b with a > 0 leaves x̂ as it is, but for ε: the scale of the layers below does not
  matter. All of it is done before the loop; the carry and its step Jacobian are the cell's own.
  (Not the layer-normalised LSTM, which normalises W_x x and W_h h inside of its step.)

  Args:
    cell: the cell.
  Returns:
    A Cell with the carry, output and gates of `cell`; x [..., D], D at least 2;
    params {"scale": γ [D], "bias": β [D], "cell": those of `cell`}, γ = 1 and β = 0 at first.
    Its `init` raises a ValueError for D = 1, where x̂ is β whatever x is, and its `project` for
    tokens and for an x of another width.
  References:
    Ba et al., 2016, https://arxiv.org/abs/1607.06450
  """

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Params]:
    checks.integer("input_size", input_size, minimum=2)
    ones = jnp.ones(input_size, dtype)
    return {
      "scale": ones,
      "bias": jnp.zeros_like(ones),
      "cell": cell.init(key, input_size, dtype),
    }

  def prepare(params: Params) -> Params:
    return {**params, "cell": cell.prepare(params["cell"])}

  def project(params: Params, xs: Array, key: Array | None = None) -> Drive:
    return cell.project(params["cell"], _normalized(params, xs), key)

  def recur(params: Params, carry: Carry) -> Any:
    return cell.recur(params["cell"], carry)

  def update(params: Params, carry: Carry, drive: Drive, recurrent: Any) -> Carry:
    return cell.update(params["cell"], carry, drive, recurrent)

  def output(params: Params, carry: Carry, drive: Drive) -> Any:
    return cell.output(params["cell"], carry, drive)

  gates, linear = cell.gates, cell.linear
  return Cell(
    init=init,
    initial_carry=cell.initial_carry,
    prepare=prepare,
    project=project,
    recur=recur,
    update=update,
    output=output,
    gates=gates and (lambda p, carry, drive, recurrent: gates(p["cell"], carry, drive, recurrent)),
    linear=linear and (lambda params, drive: linear(params["cell"], drive)),
    output_is_carry=cell.output_is_carry,
  )


def _normalized(params: Params, xs: Array) -> Array:
  size = params["scale"].shape[0]
  if jnp.issubdtype(xs.dtype, jnp.integer) or xs.shape[-1] != size:
    raise ValueError(
      f"xs of a layer-normalised cell must be vectors [..., {size}], "
      f"got {xs.dtype}{list(xs.shape)}."
    )
  return over(params["scale"], xs) * standardize(xs) + over(params["bias"], xs)


def standardize(x: Array) -> Array:
  """(x − mean x) / √(var x + ε) over the last axis."""
  # Its own variance, E x² − (E x)², loses that of a small spread about a large mean.
  variance = jnp.var(x, axis=-1, keepdims=True)
  return jax.nn.standardize(x, variance=variance, epsilon=EPSILON)
