"""Layer normalization of a cell's input."""

from __future__ import annotations

from typing import Generic, TypedDict

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key, PyTree

from rnn_jax import checks
from rnn_jax.cells.dense import expand_like, standardize
from rnn_jax.cells.memoized import memoized
from rnn_jax.types import Array, C, Cell, D, Inputs, P, Recurrent


class LayerNormParams(TypedDict, Generic[P]):
  """The params of a cell with a normalized input.

  Attributes:
    scale: γ [D].
    bias: β [D].
    cell: params of the wrapped cell.
  """

  scale: Array
  bias: Array
  cell: P


@memoized
def layer_norm(cell: Cell[P, C, D]) -> Cell[LayerNormParams[P], C, D]:
  """Returns a cell that normalizes its input over the last axis before reading it.

    x̂ = γ ∘ (x − mean x) / √(var x + ε) + β      ε = 1e-6

  Replacing x by a x + b with a > 0 changes x̂ only through ε, so the scale of the layer below has
  hardly any effect. The normalization is computed before the time loop; the carry and its step
  Jacobian are those of the wrapped cell. (The cell `layer_norm_lstm` is different: it normalizes
  x W and h U inside its step.)

  Args:
    cell: the cell to wrap.
  Returns:
    A Cell with the carry, output and gates of `cell`; x [..., D], D at least 2;
    params {"scale": γ [D], "bias": β [D], "cell": params of `cell`}, with γ = 1 and β = 0 at
    initialization. Its `init` raises a ValueError for D = 1, where x̂ would be β for any x; its
    `project` raises a ValueError for integer tokens and if the last axis of x is not D.
  Raises:
    TypeError: if `cell` is not a Cell.
  References:
    Ba et al., 2016, https://arxiv.org/abs/1607.06450
  """
  checks.instance("cell", cell, Cell)

  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> LayerNormParams[P]:
    checks.integer("input_size", input_size, minimum=2)
    ones = jnp.ones(input_size, dtype)
    return {
      "scale": ones,
      "bias": jnp.zeros_like(ones),
      "cell": cell.init(key, input_size, dtype),
    }

  def prepare(params: LayerNormParams[P]) -> LayerNormParams[P]:
    return {**params, "cell": cell.prepare(params["cell"])}

  def project(params: LayerNormParams[P], xs: Inputs, key: Key[Array, ""] | None = None) -> D:
    return cell.project(params["cell"], _normalized(params, xs), key)

  def recur(params: LayerNormParams[P], carry: C) -> Recurrent:
    return cell.recur(params["cell"], carry)

  def update(params: LayerNormParams[P], carry: C, drive: D, recurrent: Recurrent) -> C:
    return cell.update(params["cell"], carry, drive, recurrent)

  def output(params: LayerNormParams[P], carry: C, drive: D) -> PyTree:
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
    gates=None if gates is None else (lambda p, h, d, r: gates(p["cell"], h, d, r)),
    linear=None if linear is None else (lambda p, d: linear(p["cell"], d)),
    # None, because the field must name a top-level param, but the cell's params are under "cell".
    recurrent_kernel=None,
    output_is_carry=cell.output_is_carry,
  )


def _normalized(params: LayerNormParams[P], xs: Inputs) -> Float[Array, "*batch D"]:
  size = params["scale"].shape[0]
  if jnp.issubdtype(xs.dtype, jnp.integer) or xs.shape[-1] != size:
    raise ValueError(
      f"xs of a layer-normalized cell must be vectors [..., {size}], "
      f"got {xs.dtype}{list(xs.shape)}."
    )
  return expand_like(params["scale"], xs) * standardize(xs) + expand_like(params["bias"], xs)
