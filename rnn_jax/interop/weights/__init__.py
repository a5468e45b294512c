"""Conversion of params to and from the recurrent layers of torch, Linen, NNX and Keras."""

from rnn_jax.interop.weights.flax import (
  params_from_linen,
  params_from_nnx,
  params_to_linen,
  params_to_nnx,
)
from rnn_jax.interop.weights.keras import params_from_keras, params_to_keras
from rnn_jax.interop.weights.torch import params_from_torch, params_to_torch

__all__ = [
  "params_from_keras",
  "params_from_linen",
  "params_from_nnx",
  "params_from_torch",
  "params_to_keras",
  "params_to_linen",
  "params_to_nnx",
  "params_to_torch",
]
