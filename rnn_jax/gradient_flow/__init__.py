"""What is measured of the gradient's way through time."""

from rnn_jax.gradient_flow.lag_profile import lag_profile

__all__ = ["lag_profile"]
