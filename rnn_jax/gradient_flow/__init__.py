"""What is measured of the gradient's way through time."""

from rnn_jax.gradient_flow.adaptive import choose_truncation
from rnn_jax.gradient_flow.lag_profile import lag_profile

__all__ = ["choose_truncation", "lag_profile"]
