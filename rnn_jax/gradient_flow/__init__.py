"""What is measured of the gradient's way through time."""

from rnn_jax.gradient_flow.adaptive import choose_truncation
from rnn_jax.gradient_flow.decay import decay_rate, effective_memory, half_life
from rnn_jax.gradient_flow.first_nonfinite import NonFinite, describe_nonfinite, first_nonfinite
from rnn_jax.gradient_flow.jacobians import jacobian_norm, singular_values, step_jacobians
from rnn_jax.gradient_flow.lag_profile import lag_profile
from rnn_jax.gradient_flow.lyapunov import lyapunov_spectrum
from rnn_jax.gradient_flow.omega import omega
from rnn_jax.gradient_flow.saliency import saliency
from rnn_jax.gradient_flow.saturation import Saturation, gate_values, saturation
from rnn_jax.gradient_flow.sensitivity import sensitivity
from rnn_jax.gradient_flow.truncation_bias import TruncationBias, truncation_bias
from rnn_jax.gradient_flow.weight_shares import has_shares, weight_share_norms, weight_shares

__all__ = [
  "NonFinite",
  "Saturation",
  "TruncationBias",
  "choose_truncation",
  "decay_rate",
  "describe_nonfinite",
  "effective_memory",
  "first_nonfinite",
  "gate_values",
  "half_life",
  "has_shares",
  "jacobian_norm",
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
