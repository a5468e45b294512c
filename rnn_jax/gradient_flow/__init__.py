"""Measures of how gradient flows through time in a recurrent network.

Every measure of a network has the same signature, and returns a tuple with one entry a layer:

    measure(cells, params, xs, [loss,] *, option=…)

  cells: the cell of each layer, the layer nearest the input first.
  params: the params of each cell, as `cell.init` returns them.
  xs: [T, B, D], or integer tokens [T, B], as the first cell reads them.
  loss: `ys -> scalar`, from the top cell's outputs ys [T, B, H] (`lag_profile`: at single steps).

`DeepRNN.trunk(variables, xs)` returns the first three, and a network of one layer is
`measure([cell], [params], xs)`. All measures are pure functions of params and xs and can be jitted.
They start from a carry of zeros unless they take `carries`, the initial carry of each layer.

h_t is the carry that leaves step t, counted from 0; dL/dh_t is a total derivative. Each docstring
states what is averaged, over which leaf of the carry, and what the measure costs.

| needs | measures |
|---|---|
| a loss | `lag_profile`, `omega`, `weight_shares`, `weight_share_norms`, `truncation_bias` |
| the dynamics | `step_jacobians`, `jacobian_norm`, `singular_values`, `lyapunov_spectrum` |
| the forward pass | `gate_values`, `saturation`, `sensitivity` |

`truncation_bias` compares the gradients of all layers together, and each layer's in fields of its
own. The measures of the dynamics act on a layer's joint carry (an LSTM's h and c together) while
the layer's inputs are held constant; for the dynamics of a deep network as a whole pass it as one
cell: `measure([stack(cells)], [params], xs)`.

`saliency` and `first_nonfinite` include the embedding and the readout, so they take a `DeepRNN`.
`decay_rate`, `half_life`, `effective_memory` and `choose_truncation` summarize a lag profile.
"""

from rnn_jax.gradient_flow.adaptive import choose_truncation
from rnn_jax.gradient_flow.decay import decay_rate, effective_memory, half_life
from rnn_jax.gradient_flow.first_nonfinite import NonFinite, describe_nonfinite, first_nonfinite
from rnn_jax.gradient_flow.jacobians import jacobian_norm, singular_values, step_jacobians
from rnn_jax.gradient_flow.joint_carry import joint_size
from rnn_jax.gradient_flow.lag_profile import lag_profile
from rnn_jax.gradient_flow.layer_sweep import forward_layers
from rnn_jax.gradient_flow.lyapunov import lyapunov_spectrum
from rnn_jax.gradient_flow.omega import omega
from rnn_jax.gradient_flow.reverse_sweep import Pass
from rnn_jax.gradient_flow.saliency import saliency
from rnn_jax.gradient_flow.saturation import Saturation, gate_values, saturation
from rnn_jax.gradient_flow.sensitivity import sensitivity
from rnn_jax.gradient_flow.truncation_bias import TruncationBias, truncation_bias
from rnn_jax.gradient_flow.weight_shares import weight_share_norms, weight_shares

__all__ = [
  "NonFinite",
  "Pass",
  "Saturation",
  "TruncationBias",
  "choose_truncation",
  "decay_rate",
  "describe_nonfinite",
  "effective_memory",
  "first_nonfinite",
  "forward_layers",
  "gate_values",
  "half_life",
  "jacobian_norm",
  "joint_size",
  "lag_profile",
  "lyapunov_spectrum",
  "omega",
  "saliency",
  "saturation",
  "sensitivity",
  "singular_values",
  "step_jacobians",
  "truncation_bias",
  "weight_share_norms",
  "weight_shares",
]
