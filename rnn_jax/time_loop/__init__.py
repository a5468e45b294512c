"""The time loop: `unroll` runs a cell over time."""

from rnn_jax.time_loop._unroll import unroll

__all__ = ["unroll"]
