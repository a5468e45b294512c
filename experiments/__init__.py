"""The commands that use `rnn_jax`: sweeps, models of text, the benchmark; see README.md."""

import signal
import sys

# `python -m experiments.NAME` imports this package before the command's own modules, which take
# seconds to import. Meanwhile, Ctrl-C ends the process at once. KeyboardInterrupt would print a
# traceback, or abort the process while jax is being imported.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
  signal.signal(signal.SIGINT, signal.SIG_DFL)
