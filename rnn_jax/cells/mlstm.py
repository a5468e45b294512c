"""The mLSTM of xLSTM, a matrix memory with an exponential input gate."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project
from rnn_jax.cells.heads import by_head, check_heads, for_units, joined
from rnn_jax.cells.matrix_memory import outer, read, scaled
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import (
  Array,
  Cell,
  FlatParams,
  Gates,
  Inputs,
  Shape,
  Units,
)


class MLSTMCarry(NamedTuple):
  """The carry of an mLSTM with N heads of P = H/N units.

  Attributes:
    memory: C [..., N, P, P], one matrix per head, keys × values.
    normalizer: n [..., N, P], which sums the keys as C sums the products of keys and values.
    stabilizer: m [..., N], the logarithm of a scale that is factored out of C and n.
  """

  memory: Array
  normalizer: Array
  stabilizer: Array


class MLSTMDrive(NamedTuple):
  """The drive of an mLSTM: everything that it computes from the input alone.

  Attributes:
    query, key, value: q, k and v [..., N, P].
    output: the output gate o [..., H].
    log_input, log_forget: ln i and ln f [..., N], the logarithms of the gates.
  """

  query: Array
  key: Array
  value: Array
  output: Array
  log_input: Array
  log_forget: Array


FORGET_ACTIVATIONS = ("sigmoid", "exponential")


@memoized
def mlstm(
  hidden_size: int, *, num_heads: int = 1, forget_activation: str = "sigmoid"
) -> Cell[FlatParams, MLSTMCarry, MLSTMDrive]:
  """mLSTM: a matrix memory of keys and values with an exponential input gate.

    q = x W_q + b_q            ln i = x w_i + b_i         m' = max(ln i, ln f + m)
    k = x W_k / √P + b_k       f = σ(x w_f + b_f)         C' = f' C + i' kᵀ v     f' = f e^{m − m'}
    v = x W_v + b_v            o = σ(x W_o + b_o)         n' = f' n + i' k        i' = i e^{−m'}
    y = o ∘ (q C') / max(|q n'ᵀ|, e^{−m'})

  Each of the N heads of P = H/N units has its own memory and its own scalar gates i and f. C [P, P]
  stores the value v under the key k, and the query q reads it. The stabilizer m is the logarithm of
  a scale that is factored out of C and n to avoid overflow; in exact arithmetic it does not change
  y.

  Step Jacobian: ∂C'/∂C = ∂n'/∂n = f' I, because no gate reads C or n. For the unscaled memory e^m C
  the factor is f itself, so products over time never explode if f is a sigmoid. (C, n, m) and
  (λ C, λ n, m − ln λ) represent the same memory and have the same outputs, so
  dL/dm = ⟨C, dL/dC⟩ + ⟨n, dL/dn⟩, where the derivatives treat C, n and m as independent variables.

  Gradient flow: every step multiplies the gradient of a head's P² memory entries by the same factor
  f'. The inputs alone determine f', and a single large input gate i pushes it toward 0.

  Args:
    hidden_size: width H of the output.
    num_heads: N, a divisor of H. The paper uses 4.
    forget_activation: `sigmoid` for f = σ(x w_f + b_f), or `exponential` for f = exp(x w_f + b_f),
      which the paper allows, too.
  Returns:
    A Cell: x [..., D], carry MLSTMCarry(memory [..., N, P, P], normalizer [..., N, P],
    stabilizer [..., N]), y [..., H]; params {"w_x": [D, 4·H + 2·N], "b": [4·H + 2·N]} in the order
    q, k, v, o, i, f. As in the authors' code, the kernels of q, k and v have variance 2/(5 D), the
    gates i and f do not read x at first, b_i has the standard deviation 0.1, and b_f increases from
    3 in the first head to 6 in the last. W_o is drawn like W_q. An exponential f starts from the
    same values of f. Gates, the same for all units of a head: {"forget": f, "output": o};
    {"output": o} if f is exponential.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, `num_heads` does not divide it, or
      `forget_activation` is unknown.
  References:
    Beck et al., 2024, https://arxiv.org/abs/2405.04517; for the initialization:
    https://github.com/NX-AI/xlstm. In their code i and f read q, k and v instead of x, the output
    of each head is layer-normalized, and 1e-6 is added to the denominator.
  """
  head_size = check_heads(hidden_size, num_heads)
  checks.choice("forget_activation", forget_activation, FORGET_ACTIVATIONS)
  is_sigmoid = forget_activation == "sigmoid"
  edges = [hidden_size, 2 * hidden_size, 3 * hidden_size, 4 * hidden_size]
  edges.append(4 * hidden_size + num_heads)

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    x_key, b_key = jax.random.split(key)
    width = 4 * hidden_size
    w_x = math.sqrt(2 / (5 * input_size)) * jax.random.normal(x_key, (input_size, width), dtype)
    b_i = 0.1 * jax.random.normal(b_key, (num_heads,), dtype)
    b_f = jnp.linspace(3, 6, num_heads, dtype=dtype)
    b_f = b_f if is_sigmoid else jax.nn.log_sigmoid(b_f)
    return {
      "w_x": jnp.concatenate([w_x, jnp.zeros((input_size, 2 * num_heads), dtype)], axis=1),
      "b": jnp.concatenate([jnp.zeros(width, dtype), b_i, b_f]),
    }

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> MLSTMCarry:
    shape = (*batch_shape, num_heads)
    return MLSTMCarry(
      jnp.zeros((*shape, head_size, head_size), dtype),
      jnp.zeros((*shape, head_size), dtype),
      jnp.zeros(shape, dtype),
    )

  def prepare(params: FlatParams) -> FlatParams:
    # The factor 1/√P applies to x W_k, not to b_k.
    scale = jnp.ones_like(params["b"])
    scale = scale.at[hidden_size : 2 * hidden_size].set(head_size**-0.5)
    return {**params, "w_x": params["w_x"] * scale[None]}

  def project(params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None) -> MLSTMDrive:
    q, k, v, o, i, f = jnp.split(dense_project(params, xs, key, bias=True), edges, axis=-1)
    q, k, v = (by_head(a, num_heads) for a in (q, k, v))
    f = jax.nn.log_sigmoid(f) if is_sigmoid else f
    return MLSTMDrive(q, k, v, jax.nn.sigmoid(o), i, f)

  def gates(
    params: FlatParams, carry: MLSTMCarry, drive: MLSTMDrive, recurrent: tuple[()]
  ) -> Gates:
    del params, carry, recurrent
    forget = {"forget": for_units(jnp.exp(drive.log_forget), head_size)} if is_sigmoid else {}
    return {**forget, "output": drive.output}

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=prepare,
    project=project,
    recur=_recur,
    update=_update,
    output=_output,
    gates=gates,
  )


def _recur(params: FlatParams, carry: MLSTMCarry) -> tuple[()]:
  del params, carry
  return ()


def _update(
  params: FlatParams, carry: MLSTMCarry, drive: MLSTMDrive, recurrent: tuple[()]
) -> MLSTMCarry:
  del params, recurrent
  kept = drive.log_forget + carry.stabilizer
  m = jnp.maximum(drive.log_input, kept)
  f, i = jnp.exp(kept - m), jnp.exp(drive.log_input - m)
  key = i[..., None] * drive.key
  c = scaled(f, carry.memory) + outer(key, drive.value)
  return MLSTMCarry(c, f[..., None] * carry.normalizer + key, m)


def _output(params: FlatParams, carry: MLSTMCarry, drive: MLSTMDrive) -> Units:
  del params
  c, n, m = carry
  # Multiply numerator and denominator by e^m if m is negative, because e^−m might overflow.
  scale = jnp.exp(jnp.minimum(m, 0))
  total: Float[Array, "*batch N"] = jnp.abs(jnp.sum(drive.query * n, axis=-1))
  total = jnp.maximum(scale * total, jnp.exp(-jnp.maximum(m, 0)))
  return drive.output * joined((scale / total)[..., None] * read(drive.query, c))
