"""One recurrent layer of each JAX library, ours included, as a function of our params.

For each library, the affine function `convert` maps our params to the library's. The transpose of
`convert`'s linear part maps gradients back to our layout, so no second conversion is needed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

import rnn_jax
from rnn_jax import interop
from rnn_jax.types import AnyArray, Array, Carry, Params


class NotAvailable(Exception):
  """Raised if a library is not installed or has no such layer; the message gives the reason."""


class Layer(NamedTuple):
  """One recurrent layer of a JAX library.

  Attributes:
    convert: an affine function, from our params of the layer to the library's.
    apply: (the library's params, xs) -> ys.
    batch_major: whether xs and ys are [B, T, ...], as the library prefers; else [T, B, ...].
    other: how the function that the layer computes differs from ours; empty if it does not.
  """

  convert: Callable[[Params], PyTree]
  apply: Callable[[PyTree, Array], Array]
  batch_major: bool = False
  other: str = ""


def reorder(params: Params, gates: str, order: str) -> Params:
  """Returns params with reordered gates, which are blocks of the last axis.

  Args:
    params: arrays [..., G·H].
    gates: the current order of the gates, one letter per gate.
    order: the new order.
  """

  def reordered(leaf: Float[AnyArray, "*axes GH"]) -> Float[Array, "*axes GH"]:
    parts = dict(zip(gates, jnp.split(leaf, len(gates), axis=-1), strict=True))
    return jnp.concatenate([parts[gate] for gate in order], axis=-1)

  return {name: reordered(leaf) for name, leaf in params.items()}


def _ours(cell: str, input_size: int, hidden_size: int) -> Layer:
  """Returns a `Layer` of `rnn_jax.unroll`."""
  del input_size
  ours = rnn_jax.make_cell(cell, hidden_size)
  return Layer(lambda params: params, lambda params, xs: rnn_jax.unroll(ours, params, xs)[1])


def _linen(cell: str, input_size: int, hidden_size: int) -> Layer:
  """Returns a `Layer` of `flax.linen.RNN`."""
  import flax.linen as nn

  del input_size
  cells = {"elman": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
  rnn: Any = nn.RNN(cells[cell](hidden_size), time_major=True)

  return Layer(
    functools.partial(interop.params_to_linen, cell),
    lambda params, xs: rnn.apply({"params": {"cell": params}}, xs),
  )


def _nnx(cell: str, input_size: int, hidden_size: int) -> Layer:
  """Returns a `Layer` of `flax.nnx.RNN`, split into its graph and its params."""
  from flax import nnx

  cells = {"elman": nnx.SimpleCell, "gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}

  def make() -> nnx.RNN:
    return nnx.RNN(
      cells[cell](input_size, hidden_size, rngs=nnx.Rngs(0)), time_major=True, rngs=False
    )

  graph, state = nnx.split(nnx.eval_shape(make))

  def apply(params: PyTree, xs: Float[Array, "T B D"]) -> Float[Array, "T B H"]:
    full = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(full, {"cell": params})
    zeros = jnp.zeros((xs.shape[1], hidden_size), xs.dtype)
    # nnx.RNN can be differentiated only if it is given an initial carry.
    return nnx.merge(graph, full)(xs, initial_carry=(zeros, zeros) if cell == "lstm" else zeros)

  return Layer(functools.partial(interop.params_to_nnx, cell), apply)


def _haiku(cell: str, input_size: int, hidden_size: int) -> Layer:
  """Returns a `Layer` of `haiku.dynamic_unroll`, over `VanillaRNN`, `GRU` or `LSTM`."""
  import haiku as hk

  del input_size
  cores = {"elman": hk.VanillaRNN, "gru": hk.GRU, "lstm": hk.LSTM}
  other = {"elman": "relu for tanh", "gru": "resets before the product"}

  def run(xs: Float[Array, "T B D"]) -> Float[Array, "T B H"]:
    options = {"double_bias": False} if cell == "elman" else {}
    core = cores[cell](hidden_size, name="core", **options)
    return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

  def convert(params: Params) -> PyTree:
    if cell == "elman":
      return {
        "core/linear": {"w": params["w_x"], "b": params["b"]},
        "core/linear_1": {"w": params["w_h"]},
      }
    if cell == "gru":
      return {"core": {"w_i": params["w_x"], "w_h": params["w_h"], "b": params["b"]}}
    params = reorder(params, "ifgo", "igfo")
    w = jnp.concatenate([params["w_x"], params["w_h"]])
    # haiku itself adds 1 to the forget gate's bias, so 1 is subtracted here.
    one = jnp.zeros_like(params["b"]).at[2 * hidden_size : 3 * hidden_size].set(1)
    return {"core/linear": {"w": w, "b": params["b"] - one}}

  transformed: Any = hk.without_apply_rng(hk.transform(run))
  return Layer(convert, transformed.apply, other=other.get(cell, ""))


def _equinox(cell: str, input_size: int, hidden_size: int) -> Layer:
  """Returns a `Layer` that scans equinox's cell, vmapped over the batch."""
  import equinox as eqx

  if cell == "elman":
    raise NotAvailable("no such layer")
  make = eqx.nn.GRUCell if cell == "gru" else eqx.nn.LSTMCell
  empty = eqx.filter_eval_shape(make, input_size, hidden_size, key=jax.random.key(0))

  def convert(params: Params) -> PyTree:
    if cell == "gru":
      params = reorder(params, "zrn", "rzn")
    weights = (params["w_x"].T, params["w_h"].T, params["b"])
    return weights + ((jnp.zeros(hidden_size),) if cell == "gru" else ())

  def leaves(layer: PyTree) -> PyTree:
    base = (layer.weight_ih, layer.weight_hh, layer.bias)
    return base + ((layer.bias_n,) if cell == "gru" else ())

  def apply(params: PyTree, xs: Float[Array, "T B D"]) -> Float[Array, "T B H"]:
    layer = jax.vmap(eqx.tree_at(leaves, empty, params))
    zeros = jnp.zeros((xs.shape[1], hidden_size), xs.dtype)

    def step(carry: Carry, x: Float[Array, "B D"]) -> tuple[Carry, Float[Array, "B H"]]:
      carry = layer(x, carry)
      return carry, carry[0] if cell == "lstm" else carry

    return jax.lax.scan(step, (zeros, zeros) if cell == "lstm" else zeros, xs)[1]

  return Layer(convert, apply)


def _keras(cell: str, input_size: int, hidden_size: int) -> Layer:
  """Returns a `Layer` of Keras's recurrent layer on the JAX backend."""
  os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it when it is imported
  import keras

  kinds = {"elman": keras.layers.SimpleRNN, "gru": keras.layers.GRU, "lstm": keras.layers.LSTM}
  layer = kinds[cell](hidden_size, return_sequences=True)
  layer.build((None, None, input_size))
  constants = [variable.value for variable in layer.non_trainable_variables]

  def convert(params: Params) -> PyTree:
    b = params["b"]
    return [params["w_x"], params["w_h"], jnp.stack([b, jnp.zeros_like(b)]) if cell == "gru" else b]

  def apply(params: PyTree, xs: Float[Array, "B T D"]) -> Float[Array, "B T H"]:
    return layer.stateless_call(params, constants, xs)[0]

  return Layer(convert, apply, batch_major=True)


LAYERS: Mapping[str, Callable[[str, int, int], Layer]] = {
  "ours": _ours,
  "linen": _linen,
  "nnx": _nnx,
  "haiku": _haiku,
  "equinox": _equinox,
  "keras": _keras,
}
