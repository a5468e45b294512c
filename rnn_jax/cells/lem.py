"""Long expressive memory (LEM), a cell with two states and learned time scales."""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import product, split_project, the_hidden_state
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


Drives: TypeAlias = tuple[Features, Units]  # blocks Δ₁, Δ₂, z of x W + b [..., 3·H], and block h


@memoized
def lem(hidden_size: int, *, delta: Number = 1.0) -> Cell[FlatParams, LEMCarry, Drives]:
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

  def update(params: FlatParams, carry: LEMCarry, drive: Drives, recurrent: Features) -> LEMCarry:
    (h, z), (x, x_h) = carry, drive
    step = jnp.asarray(delta, h.dtype)
    change, t = fused_gates(x + recurrent, z)
    z = z + step * change
    h = h + step * gated_change(x_h + product(z, params["v"]), h, t)
    return LEMCarry(h, z)

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=unprepared,
    project=functools.partial(split_project, width=3 * hidden_size),
    recur=_recur,
    update=update,
    output=the_hidden_state,
    gates=_gates,
    recurrent_kernel="w_h",
  )


def _recur(params: FlatParams, carry: LEMCarry) -> Features:
  return product(carry.hidden, params["w_h"])


def _gates(params: FlatParams, carry: LEMCarry, drive: Drives, recurrent: Features) -> Gates:
  del params, carry
  memory, hidden, _ = jnp.split(drive[0] + recurrent, 3, axis=-1)
  return {"memory": jax.nn.sigmoid(memory), "hidden": jax.nn.sigmoid(hidden)}


def gates(a: Features, z: Units) -> tuple[Units, Units]:
  """Returns (t₁ ∘ (v − z), t₂), where t₁ = Δ₁/Δ, t₂ = Δ₂/Δ, and v is the tanh in the update of z.

  The tests compare `fused_gates` with this function.

  Args:
    a: pre-activations [..., 3·H] in the order Δ₁, Δ₂, z.
    z: the memory [..., H].
  """
  # XLA:CPU computes σ of the whole block in a kernel of its own. It would compute σ of slices in
  # one kernel with tanh, which takes longer.
  t_1, t_2, _ = jnp.split(jax.nn.sigmoid(a), 3, axis=-1)
  return t_1 * (jnp.tanh(jnp.split(a, 3, axis=-1)[2]) - z), t_2


@jax.custom_jvp
def fused_gates(a: Features, z: Units) -> tuple[Units, Units]:
  """Returns (t₁ ∘ (v − z), t₂) from pre-activations a and memory z, as `gates` does.

  Its backward pass stores four arrays [..., H]. The tangents are k₁ ȧ₁ + k_z ȧ_z − t₁ ż and k₂ ȧ₂:

    k = [t₁ (1 − t₁) (v − z),  t₂ (1 − t₂),  t₁ (1 − v²)]
  """
  return gates(a, z)


@fused_gates.defjvp
def _fused_gates_jvp(
  primals: tuple[CellArray, CellArray], tangents: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
  (a, z), (a_dot, z_dot) = primals, tangents
  a_1, a_2, a_z = jnp.split(a, 3, axis=-1)
  t_1, t_2, v = jax.nn.sigmoid(a_1), jax.nn.sigmoid(a_2), jnp.tanh(a_z)
  change = t_1 * (v - z)
  k = jnp.concatenate([(1 - t_1) * change, t_2 * (1 - t_2), t_1 * (1 - v**2)], axis=-1)
  gate_part, t_dot, v_part = jnp.split(k * a_dot, 3, axis=-1)
  return (change, t_2), (gate_part + v_part - t_1 * z_dot, t_dot)


@jax.custom_jvp
def gated_change(a: Units, h: Units, t: Units) -> Units:
  """Returns t ∘ (v − h), where v = tanh a. Its backward pass stores three arrays [..., H].

  The tangent is t (1 − v²) ȧ − t ḣ + (v − h) ṫ.
  """
  return t * (jnp.tanh(a) - h)


@gated_change.defjvp
def _gated_change_jvp(
  primals: tuple[CellArray, CellArray, CellArray], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
  (a, h, t), (a_dot, h_dot, t_dot) = primals, tangents
  v = jnp.tanh(a)
  return t * (v - h), t * (1 - v**2) * a_dot - t * h_dot + (v - h) * t_dot
