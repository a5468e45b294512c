"""The time loop: `unroll` runs a cell over time."""

from rnn_jax.time_loop._arguments import check_params, input_size_of
from rnn_jax.time_loop._step import scale_gradient, valid_steps
from rnn_jax.time_loop._truncation import Truncation, check_truncation, cut_steps
from rnn_jax.time_loop._unroll import unroll, uses_key

__all__ = [
  "Truncation",
  "check_params",
  "check_truncation",
  "cut_steps",
  "input_size_of",
  "scale_gradient",
  "unroll",
  "uses_key",
  "valid_steps",
]
