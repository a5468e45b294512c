"""Recurrent modules of Flax Linen, Flax NNX, Equinox and Haiku as a `Cell`."""

from rnn_jax.interop.modules.equinox import from_equinox
from rnn_jax.interop.modules.haiku import from_haiku
from rnn_jax.interop.modules.linen import from_linen
from rnn_jax.interop.modules.nnx import from_nnx

__all__ = ["from_equinox", "from_haiku", "from_linen", "from_nnx"]
