"""The commands that use `rnn_jax`: sweeps, models of text, the benchmark; see README.md."""

import signal
import sys

from experiments.cli import help_pages

# `python -m experiments.NAME` imports this package before the command's own modules, which take
# seconds to import. Meanwhile, Ctrl-C ends the process at once. KeyboardInterrupt would print a
# traceback, or abort the process while jax is being imported.
if sys.argv[0] == "-m":
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
  if help_pages.is_asked(sys.argv[1:]):
    # The interpreter's own arguments end with the name of the module, or with `-mNAME`.
    help_pages.show(sys.orig_argv[-len(sys.argv)].removeprefix("-m"))
