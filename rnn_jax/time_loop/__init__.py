"""The time loop: `unroll` runs a cell over time, `linear_scan` is its parallel form."""

from rnn_jax.time_loop._linear_scan import linear_scan
from rnn_jax.time_loop._unroll import unroll

__all__ = ["linear_scan", "unroll"]
