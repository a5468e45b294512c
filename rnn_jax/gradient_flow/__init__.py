"""Measures of how gradient flows through time in a recurrent network.

Every measure of a network has the same signature. All except `truncation_bias` return a tuple with
one entry per layer:

    measure(cells, params, xs, [loss,] *, option=…)

  cells: the cell of each layer, the layer nearest the input first.
  params: the params of each cell, as `cell.init` returns them.
  xs: the first layer's inputs: [T, B, D], or integer tokens [T, B].
  loss: `ys -> scalar`, a function of the top cell's outputs ys [T, B, H]. `lag_profile` takes a
    loss at single steps instead.

`DeepRNN.trunk(variables, xs)` returns (cells, params, xs). For a network of one layer, call
`measure([cell], [params], xs)`. All measures are pure functions of params and xs and can be jitted.
Arrays in half precision are converted to float32 first, so results have at least this precision;
`underflow` shows what half precision itself would lose.
The initial carry of every layer is zero, unless the measure has an option `carries` that sets it.

Terms:
- h_t is the carry after step t, counted from 0. dL/dh_t is a total derivative: it includes the
  paths through later steps and through the layers above.
- The drive of a step is the input's part of the pre-activation, `cell.project(params, xs)`.
- The joint carry s_t is all leaves of a layer's carry (an LSTM's h and c) as one real vector.
- The lag k of a gradient ∂L_s/∂h_{s−k} is the number of steps from the carry h_{s−k} to L_s, the
  loss at step s.

Each measure's docstring states what is averaged, which leaves of the carry are covered, and the
cost.

| needs | measures |
|---|---|
| a loss | `lag_profile`, `carry_gradients`, `omega`, `truncation_bias`, `underflow` |
| a loss and a recurrent kernel | `weight_shares`, `weight_share_norms` |
| the dynamics | `step_jacobians`, `jacobian_norm`, `singular_values` |
| the dynamics | `lyapunov_spectrum`, `newton_in_time` |
| the dynamics, as a loss | `flossing` |
| the forward pass | `gate_values`, `saturation`, `sensitivity` |

`truncation_bias` returns a NamedTuple with separate fields for the gradient of all layers together
and for that of each layer alone. The measures of the dynamics act on each layer's joint carry and
hold the layer's inputs constant. For the dynamics of a deep network as a whole, pass the network as
one cell: `measure([stack(cells)], [params], xs)`.

`saliency` and `first_nonfinite` include the embedding and the readout, so they take a `DeepRNN`.
`scan_gradients` measures dL/dh_t in any model's loss function, without a `Cell`, and `curvature`
the extreme eigenvalues of the loss's Hessian.
`fixed_points` finds the fixed and slow points of one cell, from `visited_carries` or other starts.
`decay_rate`, `half_life`, `effective_memory` and `choose_truncation` summarize a lag profile.
"""

from rnn_jax.gradient_flow.adaptive import choose_truncation
from rnn_jax.gradient_flow.carry_gradients import carry_gradients
from rnn_jax.gradient_flow.curvature import Curvature, curvature
from rnn_jax.gradient_flow.decay import decay_rate, effective_memory, half_life
from rnn_jax.gradient_flow.first_nonfinite import NonFinite, describe_nonfinite, first_nonfinite
from rnn_jax.gradient_flow.fixed_points import FixedPoints, fixed_points, visited_carries
from rnn_jax.gradient_flow.flossing import flossing
from rnn_jax.gradient_flow.jacobians import jacobian_norm, singular_values, step_jacobians
from rnn_jax.gradient_flow.joint_carry import joint_size
from rnn_jax.gradient_flow.lag_profile import lag_profile
from rnn_jax.gradient_flow.layer_sweep import forward_layers
from rnn_jax.gradient_flow.lyapunov import lyapunov_spectrum
from rnn_jax.gradient_flow.newton_in_time import NewtonConvergence, newton_in_time
from rnn_jax.gradient_flow.omega import omega
from rnn_jax.gradient_flow.reverse_sweep import Pass
from rnn_jax.gradient_flow.saliency import saliency
from rnn_jax.gradient_flow.saturation import Saturation, gate_values, saturation
from rnn_jax.gradient_flow.scan_gradients import ScanGradient, ScanGradients, scan_gradients
from rnn_jax.gradient_flow.sensitivity import sensitivity
from rnn_jax.gradient_flow.truncation_bias import TruncationBias, truncation_bias
from rnn_jax.gradient_flow.underflow import underflow
from rnn_jax.gradient_flow.weight_shares import weight_share_norms, weight_shares

__all__ = [
  "Curvature",
  "FixedPoints",
  "NewtonConvergence",
  "NonFinite",
  "Pass",
  "Saturation",
  "ScanGradient",
  "ScanGradients",
  "TruncationBias",
  "carry_gradients",
  "choose_truncation",
  "curvature",
  "decay_rate",
  "describe_nonfinite",
  "effective_memory",
  "first_nonfinite",
  "fixed_points",
  "flossing",
  "forward_layers",
  "gate_values",
  "half_life",
  "jacobian_norm",
  "joint_size",
  "lag_profile",
  "lyapunov_spectrum",
  "newton_in_time",
  "omega",
  "saliency",
  "saturation",
  "scan_gradients",
  "sensitivity",
  "singular_values",
  "step_jacobians",
  "truncation_bias",
  "underflow",
  "visited_carries",
  "weight_share_norms",
  "weight_shares",
]
