"""Long expressive memory (LEM), a cell with two states and learned time scales."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, highway_change, product, the_hidden_state
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  Features,
  FlatParams,
  Gates,
  Number,
  Shape,
  Units,
  unprepared,
)


class LEMCarry(NamedTuple):
  """The carry of a long expressive memory.

  Attributes:
    hidden: h [..., H].
    memory: z [..., H], the second state, which the update of h reads.
  """

  hidden: Array
  memory: Array


@memoized
def lem(hidden_size: int, *, delta: Number = 1.0) -> Cell[FlatParams, LEMCarry, Array]:
  """Long expressive memory: two coupled states, with a learned time scale for each unit.

    Δ₁, Δ₂ = Δ σ(x W + h U + b)
    z' = (1 − Δ₁) ∘ z + Δ₁ ∘ tanh(x W_z + h U_z + b_z)
    h' = (1 − Δ₂) ∘ h + Δ₂ ∘ tanh(x W_h + z' V + b_h)

  Step Jacobian: diag(1 − Δ₁) in the block ∂z'/∂z and diag(1 − Δ₂) in ∂h'/∂h, plus terms of order Δ₁
  and Δ₂. The gradient passes unchanged through units whose gates Δ₁, Δ₂ are nearly 0. For small Δ
  the Jacobian is I + O(Δ).

  Args:
    hidden_size: width H of h, z and output.
    delta: Δ, the largest step size.
  Returns:
    A Cell: x [..., D], carry LEMCarry(hidden [..., H], memory [..., H]), y [..., H];
    params {"w_x": [D, 4·H], "w_h": U [H, 3·H], "v": [H, H], "b": [4·H]} in the order Δ₁, Δ₂, z, h,
    with all entries uniform in ±1/√H at initialization. Gates: {"memory": Δ₁/Δ, "hidden": Δ₂/Δ}.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, or `delta` is not a finite number above 0.
  References:
    Rusch et al., 2022, https://arxiv.org/abs/2110.04744, and their code
  """
  checks.integer("hidden_size", hidden_size)
  checks.number("delta", delta, above=0)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    bound = hidden_size**-0.5
    shapes = {
      "w_x": (input_size, 4 * hidden_size),
      "w_h": (hidden_size, 3 * hidden_size),
      "v": (hidden_size, hidden_size),
      "b": (4 * hidden_size,),
    }
    keys = zip(shapes, jax.random.split(key, len(shapes)), strict=True)
    return {n: jax.random.uniform(k, shapes[n], dtype, -bound, bound) for n, k in keys}

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> LEMCarry:
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return LEMCarry(zeros, zeros)

  def recur(params: FlatParams, carry: LEMCarry) -> Features:
    return product(carry.hidden, params["w_h"])

  def open_gates(drive: Features, recurrent: Float[CellArray, "*batch V"]) -> tuple[Units, Units]:
    """Returns the gates Δ₁/Δ and Δ₂/Δ, which are the values of σ, from 0 to 1."""
    both = 2 * hidden_size
    gates = jax.nn.sigmoid(drive[..., :both] + recurrent[..., :both])
    return gates[..., :hidden_size], gates[..., hidden_size:]

  def update(
    params: FlatParams, carry: LEMCarry, drive: Features, recurrent: Float[CellArray, "*batch V"]
  ) -> LEMCarry:
    h, z = carry
    step = jnp.asarray(delta, h.dtype)
    a, x_h = drive[..., : 3 * hidden_size] + recurrent, drive[..., 3 * hidden_size :]
    a_1, a_2, a_z = jnp.split(a, 3, axis=-1)
    z = z + step * highway_change(z, a_z, a_1)
    h = h + step * highway_change(h, x_h + product(z, params["v"]), a_2)
    return LEMCarry(h, z)

  def gates(
    params: FlatParams, carry: LEMCarry, drive: Features, recurrent: Float[CellArray, "*batch V"]
  ) -> Gates:
    del params, carry
    memory, hidden = open_gates(drive, recurrent)
    return {"memory": memory, "hidden": hidden}

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=unprepared,
    project=functools.partial(dense_project, bias=True),
    recur=recur,
    update=update,
    output=the_hidden_state,
    gates=gates,
    recurrent_kernel="w_h",
  )
