"""Interoperation with other libraries: cells in both directions, and conversion of weights.

    from                              to                      function
    a step function                   a Cell                  cell_from_step
    a flax.linen cell                 a Cell                  from_linen
    a flax.nnx cell                   a Cell                  from_nnx
    an equinox cell                   a Cell                  from_equinox
    a haiku core                      a Cell                  from_haiku
    a Cell                            a flax.linen cell       LinenCell
    a Cell                            a flax.nnx cell         NNXCell
    weights of another library        our params              params_from_linen, _nnx, …
    our params                        weights                 params_to_linen, _nnx, …

`from_linen(nn.GRUCell(64))` runs Flax's own GRU, with Flax's params, in our time loop.
`params_from_linen("gru", params)` rearranges Flax's params for our GRU, which is faster and exposes
its gates to the measures. equinox and haiku are imported only by the functions that need them.

Converted weights give the same outputs and gradients. "Ours" below means rnn_jax's. The
corresponding cells are:

    ours         torch.nn     flax.linen    flax.nnx      keras.layers
    elman        RNN          SimpleCell    SimpleCell    SimpleRNN
    gru          GRU          GRUCell       GRUCell       GRU
    lstm         LSTM         LSTMCell      LSTMCell      LSTM        (Flax: OptimizedLSTMCell, too)

The libraries differ in their conventions:

- The GRU's update gate z keeps the old carry, h' = z ∘ h + (1 − z) ∘ n, in all five libraries. In
  Haiku, and in Chung et al., 2014, z replaces the carry instead, so negate z's columns and bias
  before converting.
- The GRU's reset gate r scales the recurrent product h U (reset="after" in ours) in torch, in Flax
  and in Keras with its default `reset_after=True`. It scales h before the product (reset="before")
  in Keras with `reset_after=False`. Linen's `MGUCell(reset_gate=False)` is our reset="none".
- Biases: our b is the sum of an input bias b_x and a recurrent bias b_h. torch keeps both; Keras
  keeps both in the GRU; Flax has one. The sum is not enough for the GRU's candidate n if r scales
  the recurrent product, because r then scales b_h as well. torch, Linen and Keras have this
  separate bias, and so does our `gru(inner_bias=True)`; nnx.GRUCell and our default gru do not.
- The LSTM's forget bias is part of the initial params: 1 in ours and Keras, around 0 in Flax and
  torch. None of these libraries adds a constant to it at run time (Haiku does), so trained weights
  need no correction.
- Activations are not part of the weights. Construct the SimpleCell, SimpleRNN or RNN with our
  cell's activation.
- Kernels are [D, G·H] and applied as x W, except in torch, where they are [G·H, D] and applied as
  x Wᵀ. D is the input size, H the hidden size and G the number of gates.
- The order of the gates: i, f, g, o and z, r, n in ours and Keras; r, z, n in torch and nnx. Linen
  has a separate named layer for each gate.
- The LSTM's carry: (hidden, cell) in ours, torch and Keras; (cell, hidden) in Flax.

The conversion functions take our cell's name and its options for `make_cell`, because the options
determine what the params compute. They raise an error if a conversion would change the computed
function.

References:
  Chung et al., 2014, https://arxiv.org/abs/1412.3555
  https://docs.pytorch.org/docs/stable/nn.html#recurrent-layers
  https://flax-linen.readthedocs.io/en/latest/api_reference/flax.linen/layers.html
  https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/recurrent.html
  https://keras.io/api/layers/recurrent_layers/
"""

from rnn_jax.interop.adapters import LinenCell, NNXCell
from rnn_jax.interop.modules import from_equinox, from_haiku, from_linen, from_nnx
from rnn_jax.interop.step import CarryAndOutput, cell_from_step
from rnn_jax.interop.weights import (
  params_from_keras,
  params_from_linen,
  params_from_nnx,
  params_from_torch,
  params_to_keras,
  params_to_linen,
  params_to_nnx,
  params_to_torch,
)

__all__ = [
  "CarryAndOutput",
  "LinenCell",
  "NNXCell",
  "cell_from_step",
  "from_equinox",
  "from_haiku",
  "from_linen",
  "from_nnx",
  "params_from_keras",
  "params_from_linen",
  "params_from_nnx",
  "params_from_torch",
  "params_to_keras",
  "params_to_linen",
  "params_to_nnx",
  "params_to_torch",
]
