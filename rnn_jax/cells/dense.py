"""What the plain gated cells share: fused input kernel, fused recurrent kernel, bias."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.initializers import input_kernel, recurrent_kernel
from rnn_jax.types import Array, InitFn, Params


def dense_init(hidden_size: int, num_gates: int, kernel: str, gain: Any) -> InitFn:
  """`init` of a cell with params {"w_x": [D, G·H], "w_h": [H, G·H], "b": [G·H]}.

  W_x is LeCun normal (variance 1/D), W_h one `kernel` × `gain` a gate, b zero.
  """
  checks.integer("hidden_size", hidden_size)
  init_w_h = recurrent_kernel(kernel, gain, num_gates)

  def init(key: Array, input_size: int, dtype: Any = float) -> dict[str, Array]:
    checks.integer("input_size", input_size)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    x_key, h_key = jax.random.split(key)
    width = num_gates * hidden_size
    return {
      "w_x": input_kernel(x_key, (input_size, width), dtype),
      "w_h": init_w_h(h_key, (hidden_size, width), dtype),
      "b": jnp.zeros(width, dtype),
    }

  return init


def dense_project(params: Params, xs: Array, key: Array | None = None) -> Array:
  """drive = x W_x + b for xs [..., D], all of it in one product.

  Integer tokens [...] stand for their one-hot vectors: the product is then a row lookup.

  Raises:
    ValueError: xs has not the width D that the params were made for.
  """
  del key
  # XLA:CPU is several times slower at contractions that keep more than one batch axis.
  if jnp.issubdtype(xs.dtype, jnp.integer):
    leading = xs.shape
    products = params["w_x"][xs.reshape(-1)]
  else:
    if xs.shape[-1] != params["w_x"].shape[0]:
      raise ValueError(f"xs must be [..., {params['w_x'].shape[0]}], got {list(xs.shape)}.")
    leading = xs.shape[:-1]
    products = xs.reshape(-1, xs.shape[-1]) @ params["w_x"]
  return (products + params["b"][None]).reshape(*leading, -1)
