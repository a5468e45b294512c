"""The closed-form continuous-time network (CfC), with a constant time step."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, dense_recur, expand_like, the_carry, zeros
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
  Units,
  unprepared,
)

_NUM_HEADS = {"default": 4, "no_gate": 4, "pure": 1}  # outputs of the backbone, by mode


@memoized
def cfc(
  hidden_size: int,
  *,
  mode: str = "default",
  time_step: Number = 1.0,
  backbone_units: int = 128,
  backbone_layers: int = 1,
) -> Cell[FlatParams, Array, Array]:
  """Closed-form continuous-time network: the approximate solution of a liquid network's ODE.

    s = ψ(x W_x + h W_h + b)      s = ψ(s V_i + c_i),  i = 1 … L−1      ψ(a) = 1.7159 tanh(0.666 a)
    f, g, p, q = s W_y + b_y          t = σ(Δ p + q)
    h' = (1 − t) ∘ tanh(f) + t ∘ tanh(g)              mode="default"
    h' = tanh(f) + t ∘ tanh(g)                        mode="no_gate"
    h' = A − A ∘ f ∘ exp(−Δ (|w_τ| + |f|))            mode="pure", which has f alone

  The backbone, a network of L layers, computes s. Δ is the constant time between two inputs.
  The gate t interpolates between the candidates tanh f and tanh g according to the elapsed time.

  Step Jacobian, for mode="default", L = 1 and a = x W_x + h W_h + b: ∂h'/∂h = W_h diag(ψ'(a))
  (W_f diag((1 − t) ∘ (1 − tanh² f)) + W_g diag(t ∘ (1 − tanh² g)) +
  (Δ W_p + W_q) diag(t ∘ (1 − t) ∘ (tanh g − tanh f))), with the blocks of W_y.

  Gradient flow: in every step, the whole gradient passes through the backbone and the factors
  1 − tanh², as in an `elman` with several layers per step. The gate of a GRU mixes the old carry
  with a candidate; t mixes two candidates, so it cannot pass the gradient through unchanged.

  Args:
    hidden_size: width H of carry and output.
    mode: the form of h': `default`, `no_gate` or `pure`.
    time_step: Δ, in any unit of time.
    backbone_units: K, the width of the backbone's layers.
    backbone_layers: L, the number of the backbone's layers.
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, K], "w_h": [H, K], "b": [K]} of the backbone's first layer,
    {"v_1": V₁ [K, K], "c_1": [K], …} of its other layers, and {"w_y": [K, 4·H], "b_y": [4·H]} in
    the order f, g, p, q, or with mode="pure" {"w_y": [K, H], "b_y": [H], "w_tau": [H],
    "a": A [H]}. At initialization, as in the authors' code, all kernels are Glorot uniform (W_x and
    W_h together, and each block of W_y), the biases of a layer with n inputs are uniform in ±1/√n,
    w_τ is 0 and A is 1. Gates: {"time": t}, none with mode="pure".
  Raises:
    TypeError, ValueError: if `mode` is unknown, `hidden_size`, `backbone_units` or
      `backbone_layers` is below 1, or `time_step` is not a finite number above 0.
  References:
    Hasani et al., 2022, https://arxiv.org/abs/2106.13898, whose gate is 1 − t, without q; for q,
    the modes and the initialization: their code, https://github.com/raminmh/CfC and
    https://github.com/mlech26l/ncps
  """
  checks.integer("hidden_size", hidden_size)
  checks.choice("mode", mode, _NUM_HEADS)
  checks.number("time_step", time_step, above=0)
  checks.integer("backbone_units", backbone_units)
  checks.integer("backbone_layers", backbone_layers)
  num_heads, units = _NUM_HEADS[mode], backbone_units

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    first_key, y_key, *keys = jax.random.split(key, backbone_layers + 1)
    w, b = _linear(first_key, input_size + hidden_size, units, 1, dtype)
    params = {"w_x": w[:input_size], "w_h": w[input_size:], "b": b}
    for i, layer_key in enumerate(keys, 1):
      params[f"v_{i}"], params[f"c_{i}"] = _linear(layer_key, units, units, 1, dtype)
    params["w_y"], params["b_y"] = _linear(y_key, units, hidden_size, num_heads, dtype)
    if mode == "pure":
      params |= {"w_tau": jnp.zeros(hidden_size, dtype), "a": jnp.ones(hidden_size, dtype)}
    return params

  def heads(params: FlatParams, drive: Features, recurrent: Features) -> list[Units]:
    """Returns the blocks [..., H] of s W_y + b_y."""
    s = lecun_tanh(drive + recurrent)
    for i in range(1, backbone_layers):
      s = lecun_tanh(dense_recur({"w_h": params[f"v_{i}"], "b": params[f"c_{i}"]}, s))
    y = dense_recur({"w_h": params["w_y"], "b": params["b_y"]}, s)
    return jnp.split(y, num_heads, axis=-1)

  def time_gate(p: Units, q: Units) -> Units:
    return jax.nn.sigmoid(jnp.asarray(time_step, p.dtype) * p + q)

  def update(params: FlatParams, h: Units, drive: Features, recurrent: Features) -> Units:
    f, g, p, q = heads(params, drive, recurrent)
    f, g, t = jnp.tanh(f), jnp.tanh(g), time_gate(p, q)
    return (f if mode == "no_gate" else (1 - t) * f) + t * g

  def pure_update(params: FlatParams, h: Units, drive: Features, recurrent: Features) -> Units:
    (f,) = heads(params, drive, recurrent)
    a, w_tau = (expand_like(params[name], f) for name in ("a", "w_tau"))
    rate = jnp.asarray(time_step, f.dtype) * (jnp.abs(w_tau) + jnp.abs(f))
    return a - a * f * jnp.exp(-rate)

  def gates(params: FlatParams, h: Units, drive: Features, recurrent: Features) -> Gates:
    del h
    return {"time": time_gate(*heads(params, drive, recurrent)[2:])}

  return Cell(
    init=init,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=dense_project,
    recur=dense_recur,
    update=pure_update if mode == "pure" else update,
    output=the_carry,
    gates=None if mode == "pure" else gates,
    recurrent_kernel="w_h",
    output_is_carry=True,
  )


@jax.custom_jvp
def lecun_tanh(a: Float[CellArray, "*axes"]) -> Float[Array, "*axes"]:
  """Returns ψ(a) = 1.7159 tanh(0.666 a), with the constants of the authors' code.

  The tangent is k ȧ with k = 1.7159 · 0.666 (1 − tanh²(0.666 a)). As one factor, k is all that the
  backward pass stores of the derivative.
  """
  return 1.7159 * jnp.tanh(0.666 * a)


@lecun_tanh.defjvp
def _lecun_tanh_jvp(primals: tuple[CellArray], tangents: tuple[Array]) -> tuple[Array, Array]:
  v = jnp.tanh(0.666 * primals[0])
  return 1.7159 * v, 1.7159 * 0.666 * (1 - v) * (1 + v) * tangents[0]


def _linear(
  key: Key[Array, ""], num_inputs: int, num_outputs: int, num_blocks: int, dtype: DTypeLike
) -> tuple[Float[Array, "I W"], Float[Array, " W"]]:
  """Returns kernel and bias of a linear layer with several blocks of outputs side by side."""
  draw = jax.nn.initializers.glorot_uniform()
  b_key, *keys = jax.random.split(key, num_blocks + 1)
  w = jnp.concatenate([draw(k, (num_inputs, num_outputs), dtype) for k in keys], axis=1)
  bound = 1 / math.sqrt(num_inputs)
  return w, jax.random.uniform(b_key, w.shape[1:], dtype, -bound, bound)
