"""What is measured of the gradient's way through time."""

from rnn_jax.gradient_flow.first_bad_place import Place, describe, first_bad_place
from rnn_jax.gradient_flow.lag_profile import lag_profile

__all__ = ["Place", "describe", "first_bad_place", "lag_profile"]
