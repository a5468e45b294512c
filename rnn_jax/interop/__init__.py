"""The way in and out of other libraries: cells for Flax's loops, weights to and from theirs.

Trained weights are carried over as they are, and give the same outputs and gradients. A function is
its weights and its conventions, though, and libraries differ in those:

    ours         torch.nn     flax.linen    flax.nnx      keras.layers
    elman        RNN          SimpleCell    SimpleCell    SimpleRNN
    gru          GRU          GRUCell       GRUCell       GRU
    lstm         LSTM         LSTMCell      LSTMCell      LSTM        (Flax: OptimizedLSTMCell, too)

  z of the GRU: h' = z ∘ h + (1 − z) ∘ n, it keeps the old carry, in all five. In Haiku, and in
    Chung et al., 2014, it replaces: there, change the sign of z's columns and bias first.
  r of the GRU: acts after the recurrent product in torch and Flax, and in Keras with its default
    `reset_after=True`; before it in Keras with `reset_after=False`, which is our reset="before".
    Linen's `MGUCell(reset_gate=False)` is our reset="none".
  Biases: ours are summed, b = b_x + b_h. torch has both, Keras both in the GRU, Flax one of them.
    Where r scales the recurrent product, the bias b_h of n beside it is no part of the sum: torch,
    Linen and Keras have it, as `gru(inner_bias=True)` does; nnx.GRUCell has not, nor our default.
  Forget bias of the LSTM: ours, 1, and Keras's, 1, are in the initial params; Flax and torch begin
    around 0. Nobody adds to it later (Haiku does), so trained weights need no correction.
  Activations are no part of the weights: give SimpleCell, SimpleRNN and RNN that of the cell.
  Kernels: x W with W [D, G·H] everywhere but in torch, where it is W xᵀ with W [G·H, D].
  Gates: ours i, f, g, o and z, r, n. Keras the same, torch and nnx r, z, n; Linen names each.
  Carries of the LSTM: ours (hidden, cell), torch and Keras likewise, Flax (cell, hidden).

The functions take the name of our cell and the options that `make_cell` builds it with: those
decide which function the params are of. What would change the function is refused, in one line.

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
