"""Conversion between libraries: our cells in Flax's loops, and weights to and from other libraries.

Converted weights keep their values, and give the same outputs and gradients. Libraries differ in
their conventions:

    ours         torch.nn     flax.linen    flax.nnx      keras.layers
    elman        RNN          SimpleCell    SimpleCell    SimpleRNN
    gru          GRU          GRUCell       GRUCell       GRU
    lstm         LSTM         LSTMCell      LSTMCell      LSTM        (Flax: OptimizedLSTMCell, too)

  z of the GRU: keeps the old carry, h' = z ∘ h + (1 − z) ∘ n, in all five libraries. In Haiku, and
    in Chung et al., 2014, z replaces it: negate z's columns and bias before converting.
  r of the GRU: acts after the recurrent product in torch and Flax, and in Keras with its default
    `reset_after=True`; before it in Keras with `reset_after=False`, which is our reset="before".
    Linen's `MGUCell(reset_gate=False)` is our reset="none".
  Biases: ours is the sum b = b_x + b_h. torch has both terms, Keras both in the GRU, Flax one. The
    exception is n of the GRU where r scales the recurrent product, because r also scales b_h.
    torch, Linen and Keras have this bias, as `gru(inner_bias=True)` does; nnx.GRUCell and our
    default gru do not.
  Forget bias of the LSTM: it is part of the initial params, 1 in ours and in Keras, around 0 in
    Flax and torch. No library adds to it later (Haiku does), so trained weights need no correction.
  Activations are not part of the weights: give SimpleCell, SimpleRNN and RNN the cell's activation.
  Kernels: x W with W [D, G·H], except in torch: W xᵀ with W [G·H, D].
  Gates: i, f, g, o and z, r, n in ours and in Keras; r, z, n in torch and nnx; Linen names each.
  Carries of the LSTM: (hidden, cell) in ours, torch and Keras; (cell, hidden) in Flax.

The functions take the name of our cell and the options with which `make_cell` builds it, since
these decide what the params compute. A conversion that would change the function is refused.

References:
  Chung et al., 2014, https://arxiv.org/abs/1412.3555
  https://docs.pytorch.org/docs/stable/nn.html#recurrent-layers
  https://flax-linen.readthedocs.io/en/latest/api_reference/flax.linen/layers.html
  https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/recurrent.html
  https://keras.io/api/layers/recurrent_layers/
"""

from rnn_jax.interop.adapters import LinenCell, NNXCell
from rnn_jax.interop.flax import from_linen, from_nnx, to_linen, to_nnx
from rnn_jax.interop.keras import from_keras, to_keras
from rnn_jax.interop.torch import from_torch, to_torch

__all__ = [
  "LinenCell",
  "NNXCell",
  "from_keras",
  "from_linen",
  "from_nnx",
  "from_torch",
  "to_keras",
  "to_linen",
  "to_nnx",
  "to_torch",
]
