"""The start of every command: parsing of flags and flagfiles, and user errors as one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging

from experiments.runtime import exits

_OF_LOCALE_C = "surrogateescape"  # how Python handles encoding errors in locale C
# Limits on flagfiles, far above what anyone writes.
_MOST_FLAGFILES, _LONGEST_FLAGFILE = 1000, 2**20


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
    exits.fail(str(error))
  except OSError as error:
    _check_stdout()
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
    raise ValueError(f"--{error}") from None
  except ImportError as error:  # a package that a task needs is missing
    raise ValueError(str(error)) from None


def check_no_arguments(arguments: Sequence[str]) -> None:
  """Raises ValueError if there are command-line arguments that are not flags."""
  if arguments:
    raise ValueError(f"Arguments must be flags, --name=value, got '{arguments[0]}'.")


def path(name: str, text: str) -> Path:
  """Returns the path in `text`, with `~` expanded.

  Args:
    name: the name of the flag or argument in errors, such as `--corpus` or `FOLDER`.
    text: the user's text.
  Raises:
    ValueError: if `text` cannot be a path.
  """
  try:
    text.encode()
    if "\0" in text:
      raise RuntimeError("a path cannot hold a null character")
    return Path(text).expanduser()
  except (UnicodeEncodeError, RuntimeError) as error:
    raise ValueError(f"{name} must be a path, got {text!r} ({error}).") from None


def absolute_path(name: str, text: str) -> Path:
  """Returns the absolute path in `text`, with `~` expanded; `name` is as in `path`.

  Raises:
    ValueError: if `text` cannot be a path, or is relative to a folder that has been deleted.
  """
  found = path(name, text)
  try:
    return found.absolute()
  except FileNotFoundError:
    raise ValueError(
      f"{name} must be an absolute path if the current folder has been deleted, got {text!r}."
    ) from None


def recorded_path(name: str, text: str) -> str:
  """Returns the absolute path in `text`, with `~` expanded, as a line of a flagfile can hold it.

  `name` is as in `path`.

  Raises:
    ValueError: if `absolute_path` raises it, or if the path has a line break or ends in a space.
  """
  absolute = str(absolute_path(name, text))
  path(name, absolute)  # the current folder's own path may not be UTF-8
  if absolute != absolute.rstrip() or "\n" in absolute or "\r" in absolute:
    raise ValueError(
      f"{name} must not contain a line break or end with whitespace, got {absolute!r}."
    )
  return absolute


def folder(name: str) -> Path:
  """Returns the folder that the flag `name` holds, with `~` expanded.

  Raises:
    ValueError: if the flag is empty or does not hold a path.
  """
  text = getattr(flags.FLAGS, name)
  if not text:
    raise ValueError(f"--{name} must name a folder, got ''.")
  return path(f"--{name}", text)


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
  """Parses the flags and calls `main` with the other arguments; reports invalid flags in one line.

  Args:
    main: receives the arguments that are not flags.
    argv: program name and arguments; None for `sys.argv`.
  """

  def parse(args: Sequence[str]) -> list[str]:
    try:
      with _stdout_errors():
        return flags.FLAGS([args[0], *_expand_flagfiles(args[1:])])
    except (flags.Error, ValueError) as error:
      exits.fail(str(error))

  def start(args: list[str]) -> None:
    # At absl's level INFO, jax logs a line for each backend that it does not find.
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    try:
      with _stdout_errors():
        main(args[1:])
    except KeyboardInterrupt:
      exits.interrupted()
    except (RuntimeError, AssertionError):
      _check_platforms()
      raise

  _prepare_output()
  _show_in_help()
  with _interrupts():
    app.run(start, argv=None if argv is None else list(argv), flags_parser=parse)


def _prepare_output() -> None:
  """Prepares standard output and standard error for any text, encoding and width."""
  for name in ("stdout", "stderr"):
    if getattr(sys, name) is None:  # closed by `>&-`
      setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
  if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", _OF_LOCALE_C):
    # Paths, cell names and measure names may contain characters that the encoding lacks.
    sys.stdout.reconfigure(errors="backslashreplace")
  if not re.fullmatch("[2-9][0-9]|[1-9][0-9]{2,3}", os.environ.get("COLUMNS", "")):
    # At width 0 rich prints nothing, and at width 1 absl raises.
    os.environ.pop("COLUMNS", None)


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


@contextlib.contextmanager
def _stdout_errors() -> Iterator[None]:
  """Ends the program if the block's standard output cannot be written."""
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # The process that reads the output, such as `head`, has ended.
    exits.discard(sys.stdout)
    sys.exit(exits.INTERRUPTED)
  except SystemExit as ended:
    if isinstance(ended.__context__, BrokenPipeError):  # from rich, with status 1
      ended.code = exits.INTERRUPTED
    raise
  except OSError:
    _check_stdout()
    raise


def _check_stdout() -> None:
  """Ends the program with a one-line message if standard output cannot be written."""
  try:
    sys.stdout.flush()  # text whose writing has failed is still in the buffer, if there is one
    if getattr(sys.stdout, "write_through", False):
      sys.stdout.write("\n")
  except BrokenPipeError:
    raise
  except OSError as error:
    exits.discard(sys.stdout)
    exits.fail(f"standard output could not be written: {error}.")


def _check_platforms() -> None:
  """Ends the program with a one-line message if the environment names a missing platform."""
  given = {name: os.environ.get(name) for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")}
  for name, value in given.items():
    if value:
      try:
        jax.local_devices()
      except (RuntimeError, AssertionError):
        exits.fail(f"{name} must name a platform available on this machine, got '{value}'.")


def _show_in_help() -> None:
  """Makes `--help` show all flags defined in this repository, whichever module defines them."""
  for name in flags.FLAGS:
    # Flags of absl and of packages such as orbax are shown by --helpfull only.
    if (flags.FLAGS.find_module_defining_flag(name) or "").startswith("experiments."):
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _expand_flagfiles(
  args: Sequence[str], seen: frozenset[Path] = frozenset(), number: Iterator[int] | None = None
) -> list[str]:
  """Returns the arguments with each `--flagfile` replaced by the flags in its file.

  absl would read the files a second time, after our checks, and find a pipe empty.

  Args:
    args: arguments, or lines of a flagfile.
    seen: the flagfiles that include these lines, directly or through others; none of them may be
      included again.
    number: counts the flagfiles that are read. Without a limit, files that each include the next
      one twice would be read exponentially often.
  Raises:
    ValueError: if a flagfile is unreadable, includes itself, or has a line that is not a flag, or
      if there are too many.
  """
  number = itertools.count(1) if number is None else number
  expanded: list[str] = []
  rest = iter(args)
  for arg in rest:
    if arg == "--":
      return [*expanded, arg, *rest]
    name, equals, value = arg.partition("=")
    if name not in ("--flagfile", "-flagfile"):
      expanded.append(arg)
      continue
    if not equals:
      value = next(rest, "")
    file = path("--flagfile", value)
    if file in seen:
      raise ValueError(f"--flagfile must not include itself, got {value}.")
    if next(number) > _MOST_FLAGFILES:
      raise ValueError(f"--flagfile must include at most {_MOST_FLAGFILES} files, got {value}.")
    expanded += _expand_flagfiles(_flagfile_lines(file, value), seen | {file}, number)
  return expanded


def _flagfile_lines(file: Path, given: str) -> list[str]:
  """Returns the flags in a flagfile; `given` is its path in errors, which are ValueErrors."""
  try:
    with file.open(encoding="utf-8-sig") as opened:
      text = opened.read(_LONGEST_FLAGFILE + 1)
  except (OSError, UnicodeDecodeError) as error:
    reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
    raise ValueError(f"--flagfile must be a readable file, got '{given}' ({reason}).") from None
  if len(text) > _LONGEST_FLAGFILE:  # a device may be endless
    raise ValueError(
      f"--flagfile must have at most {_LONGEST_FLAGFILE} characters, got more in {given}."
    )
  lines = []
  # Unlike splitlines, this does not split at characters such as U+2028, which a path may contain.
  for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
    if not line or line.startswith(("#", "//")):
      continue
    if not line.startswith("-") or not ("=" in line or _is_boolean(line)):
      raise ValueError(
        f"--flagfile must hold one --flag=value or boolean flag per line, got '{line}' in line "
        f"{number} of {given}."
      )
    lines.append(line)
  return lines


def _is_boolean(flag: str) -> bool:
  """Returns whether `flag` is `--name` or `--noname` of a boolean flag."""
  name = flag.lstrip("-")
  return any(n in flags.FLAGS and flags.FLAGS[n].boolean for n in (name, name.removeprefix("no")))
