"""The simple recurrent unit (SRU), whose gates read the input and their own unit's carry."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, expand_like, zeros
from rnn_jax.cells.linear import linear_cell
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  Features,
  FlatParams,
  Gates,
  Inputs,
  Number,
  Recurrent,
  Shape,
  Units,
)


class SRUCarry(NamedTuple):
  """The carry of a simple recurrent unit with peepholes.

  Attributes:
    cell: c [..., H].
    reset: r [..., H], the last step's reset gate. Only the output reads it.
  """

  cell: Array
  reset: Array


@memoized
def sru(
  hidden_size: int, *, peepholes: bool = True, highway_bias: Number = 0.0
) -> Cell[FlatParams, SRUCarry, Array] | Cell[FlatParams, Array, Array]:
  """Simple recurrent unit: gated averages of the input, without a recurrent product.

    v = x W_v      f = σ(x W_f + p_f ∘ c + b_f)      r = σ(x W_r + p_r ∘ c + b_r)
    c' = f ∘ c + (1 − f) ∘ v      y = r ∘ c' + (1 − r) ∘ (x W_s)

  Without peepholes, p_f = p_r = 0, and the cell is a linear recurrence, as in the paper's first
  version. The reset gate r mixes the cell state with the highway x W_s. Where x has width H, the
  paper has α x in place of x W_s, with the scaling correction α = √(1 + 2 exp(highway_bias)).

  Step Jacobian: ∂c'/∂c = diag(f + p_f ∘ f ∘ (1 − f) ∘ (c − v)). Without peepholes it is diag(f),
  which depends only on the input, and its products over time never explode.

  Gradient flow: with peepholes, a unit's factor reads the unit's own carry. It exceeds 1 where
  p_f ∘ f ∘ (c − v) > 1, so a unit can amplify its own gradient although 0 < f < 1.

  Args:
    hidden_size: width H of cell state and output.
    peepholes: whether the gates read the cell state. (The paper's p_f and p_r are v_f and v_r.)
    highway_bias: initial value of b_r. If it is negative, y is mostly the highway at first.
  Returns:
    A Cell: x [..., D], carry SRUCarry(cell [..., H], reset [..., H]), or c [..., H] without
    peepholes, y [..., H]; params {"w_x": [D, 4·H], "b": [2·H], "p": [2·H]}, "p" only with
    peepholes; w_x in the order v, f, r, s, the others in the order f, r.
    At initialization, as in the authors' code: W is uniform with variance 1/D, and b_f = 0. W_s has
    the additional factor α, which keeps the variance of y near that of x. With peepholes, W_f and
    W_r have variance 1/(2 D), and p is uniform with variance 1/2.
    Gates: {"forget": f, "reset": r}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, `peepholes` is not a boolean, or
      `highway_bias` is not a finite number.
  References:
    Lei et al., 2018, https://arxiv.org/abs/1709.02755; for the initialization:
    https://github.com/asappresearch/sru
  """
  checks.integer("hidden_size", hidden_size)
  checks.boolean("peepholes", peepholes)
  checks.number("highway_bias", highway_bias)
  lecun_uniform = jax.nn.initializers.lecun_uniform()

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, p_key = jax.random.split(key)
    b_r = jnp.full(hidden_size, jnp.asarray(highway_bias, dtype))
    of_gates = jnp.sqrt(jnp.full(2 * hidden_size, 0.5 if peepholes else 1.0, dtype))
    of_highway = jnp.sqrt(1 + 2 * jnp.exp(b_r))
    scale = jnp.concatenate([jnp.ones(hidden_size, dtype), of_gates, of_highway])
    params = {
      "w_x": scale[None] * lecun_uniform(x_key, (input_size, 4 * hidden_size), dtype),
      "b": jnp.concatenate([jnp.zeros(hidden_size, dtype), b_r]),
    }
    if not peepholes:
      return params
    bound = 1.5**0.5
    return {**params, "p": jax.random.uniform(p_key, (2 * hidden_size,), dtype, -bound, bound)}

  if not peepholes:
    return linear_cell(
      init=init,
      initial_carry=zeros(hidden_size),
      prepare=_prepare,
      project=_project,
      linear=_linear,
      output=_linear_output,
      gates=_linear_gates,
    )

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> SRUCarry:
    zero = jnp.zeros((*batch_shape, hidden_size), dtype)
    return SRUCarry(zero, zero)

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=_prepare,
    project=_project,
    recur=_recur,
    update=_update,
    output=_output,
    gates=_gates,
  )


def _prepare(params: FlatParams) -> FlatParams:
  # Pad b with zeros for v and x W_s, so that `project` adds it within its product.
  b = params["b"]
  zero = jnp.zeros_like(b[: len(b) // 2])
  return {**params, "b": jnp.concatenate([zero, b, zero])}


def _project(params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None) -> Features:
  return dense_project(params, xs, key, bias=True)


def _recur(params: FlatParams, carry: SRUCarry) -> Features:
  c = carry.cell
  return expand_like(params["p"], c) * jnp.concatenate([c, c], axis=-1)


def _open(drive: Features, recurrent: CellArray) -> tuple[Units, Units]:
  """Returns the forget gate and the reset gate."""
  _, f, r, _ = jnp.split(drive, 4, axis=-1)
  p_f, p_r = jnp.split(recurrent, 2, axis=-1)
  return jax.nn.sigmoid(f + p_f), jax.nn.sigmoid(r + p_r)


def _update(
  params: FlatParams,
  carry: SRUCarry,
  drive: Features,
  recurrent: CellArray,
) -> SRUCarry:
  del params
  v = jnp.split(drive, 4, axis=-1)[0]
  f, r = _open(drive, recurrent)
  return SRUCarry(f * carry.cell + (1 - f) * v, r)


def _output(params: FlatParams, carry: SRUCarry, drive: Features) -> Units:
  del params
  s = jnp.split(drive, 4, axis=-1)[3]
  return carry.reset * carry.cell + (1 - carry.reset) * s


def _gates(params: FlatParams, carry: SRUCarry, drive: Features, recurrent: CellArray) -> Gates:
  del params, carry
  f, r = _open(drive, recurrent)
  return {"forget": f, "reset": r}


def _linear(params: FlatParams, drive: Features) -> tuple[Units, Units]:
  del params
  v, f, _, _ = jnp.split(drive, 4, axis=-1)
  return jax.nn.sigmoid(f), jax.nn.sigmoid(-f) * v


def _linear_output(params: FlatParams, c: Units, drive: Features) -> Units:
  del params
  _, _, r, s = jnp.split(drive, 4, axis=-1)
  return jax.nn.sigmoid(r) * c + jax.nn.sigmoid(-r) * s


def _linear_gates(params: FlatParams, c: Units, drive: Features, recurrent: Recurrent) -> Gates:
  del params, c, recurrent
  _, f, r, _ = jnp.split(drive, 4, axis=-1)
  return {"forget": jax.nn.sigmoid(f), "reset": jax.nn.sigmoid(r)}
