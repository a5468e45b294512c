"""The commands that use `rnn_jax`: sweeps, models of text, the benchmark; see README.md."""

import signal
import sys

# `python -m experiments.NAME` imports this package first. Until the command's modules are imported
# as well, which takes seconds, Ctrl-C ends the process at once instead of raising an exception,
# which would print a traceback, or abort the process while jax is being imported.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
  signal.signal(signal.SIGINT, signal.SIG_DFL)
