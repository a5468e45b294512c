"""What is measured of the gradient's way through time."""

from rnn_jax.gradient_flow.jacobians import jacobian_norm, singular_values, step_jacobians
from rnn_jax.gradient_flow.lag_profile import lag_profile
from rnn_jax.gradient_flow.lyapunov import lyapunov_spectrum

__all__ = [
  "jacobian_norm",
  "lag_profile",
  "lyapunov_spectrum",
  "singular_values",
  "step_jacobians",
]
