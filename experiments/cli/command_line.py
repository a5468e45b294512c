"""The start of every command: parsing of flags and flagfiles, and user errors as one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags, logging

from experiments.cli import flagfiles, help_pages, plugins, standard_output
from experiments.runtime import exits


@contextlib.contextmanager
def errors_in_one_line(files: str) -> Iterator[None]:
  """Ends the program with a one-line message if the block raises an error that a user can fix.

  Such errors concern the user's input, files or machine.

  Args:
    files: beginning of the message if a file cannot be read or written.
  """
  try:
    yield
  except BrokenPipeError:
    raise
  except (ValueError, TypeError) as error:
    exits.fail(plugins.message(error))
  except OSError as error:
    standard_output.check_written()
    exits.fail(f"{files}: {error}.")
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    reason = str(error).strip().split("\n")[0] or "not enough memory"
    exits.fail(f"the computation failed: {reason}.")


@contextlib.contextmanager
def errors_name_flags() -> Iterator[None]:
  """Prefixes the messages of the library's errors with `--`.

  The library's messages begin with an argument's name, which is also the name of the flag.

  Raises:
    ValueError: if the block raises a TypeError, ValueError or ImportError. Only an ImportError's
      message is not prefixed.
  """
  try:
    yield
  except (TypeError, ValueError) as error:
    raise ValueError(f"--{plugins.message(error)}") from None
  except ImportError as error:  # a package that a task needs is missing
    raise ValueError(str(error)) from None


def check_no_arguments(arguments: Sequence[str]) -> None:
  """Raises ValueError if there are command-line arguments that are not flags."""
  if arguments:
    raise ValueError(f"Arguments must be flags, --name=value, got '{arguments[0]}'.")


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
  """Parses the flags and calls `main` with the other arguments; reports invalid flags in one line.

  Args:
    main: receives the arguments that are not flags.
    argv: program name and arguments; None for `sys.argv`.
  """

  def parse(args: Sequence[str]) -> list[str]:
    try:
      with standard_output.errors_end_program():
        arguments = flagfiles.expand(args[1:])
        if "import" in flags.FLAGS:
          plugins.import_from(arguments)
          if help_pages.is_asked(arguments):
            help_pages.show(help_pages.command(), plugins.help_groups())
        return flags.FLAGS([args[0], *arguments])
    except (flags.Error, ValueError) as error:
      exits.fail(str(error))

  def start(args: list[str]) -> None:
    # At absl's level INFO, jax logs a line for each backend that it does not find.
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    try:
      with standard_output.errors_end_program():
        main(args[1:])
    except KeyboardInterrupt:
      exits.interrupted()
    except Exception as error:
      if plugins.is_users(error):
        exits.fail(plugins.describe(error))
      if isinstance(error, RuntimeError | AssertionError):
        _check_platforms()
      raise

  standard_output.prepare()
  with _interrupts():
    app.run(start, argv=None if argv is None else list(argv), flags_parser=parse)


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
  """Lets Ctrl-C raise KeyboardInterrupt, or end the program where that exception would be lost."""
  if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `experiments.__init__`
    signal.signal(signal.SIGINT, signal.default_int_handler)
  report = sys.unraisablehook

  def end_if_interrupted(ignored: sys.UnraisableHookArgs) -> None:
    # Python drops exceptions raised in some callbacks, such as jax's during garbage collection.
    if issubclass(ignored.exc_type, KeyboardInterrupt):
      exits.interrupted()
    else:
      report(ignored)

  sys.unraisablehook = end_if_interrupted
  try:
    yield
  finally:
    sys.unraisablehook = report


def _check_platforms() -> None:
  """Ends the program with a one-line message if the environment names a missing platform."""
  given = {name: os.environ.get(name) for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")}
  for name, value in given.items():
    if value:
      try:
        jax.local_devices()
      except (RuntimeError, AssertionError):
        exits.fail(f"{name} must name a platform available on this machine, got '{value}'.")
