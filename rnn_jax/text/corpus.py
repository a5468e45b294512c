"""Text: a file of the user's, or the source of the Python standard library."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnn_jax import checks
from rnn_jax.text.vocabulary import Vocabulary, build_vocabulary

STANDARD_LIBRARY = "stdlib"


class Corpus(NamedTuple):
  """A text as tokens.

  Attributes:
    name: `stdlib`, or the file's path.
    tokens: uint8 [N], one a byte.
    vocabulary: what the tokens mean.
    sha256: of the bytes, in hexadecimal; it says which text this was.
  """

  name: str
  tokens: np.ndarray
  vocabulary: Vocabulary
  sha256: str


def load_corpus(source: str | Path = STANDARD_LIBRARY) -> Corpus:
  """Reads a text, byte by byte.

  Args:
    source: path of a file, or `stdlib` for the source of this Python's standard library: always
      there, offline, about 11 MB (it differs between Python versions, see `sha256`).
  Returns:
    The Corpus.
  Raises:
    ValueError: the file is missing, empty, a folder, or cannot be read.
  """
  text = _standard_library() if str(source) == STANDARD_LIBRARY else _read(Path(source))
  vocabulary = build_vocabulary(text)
  digest = hashlib.sha256(text).hexdigest()
  return Corpus(str(source), vocabulary.encode(text), vocabulary, digest)


def lanes(tokens: np.ndarray, batch_size: int) -> np.ndarray:
  """Cuts one long text into `batch_size` contiguous lanes, read side by side.

  Args:
    tokens: [N].
    batch_size: B.
  Returns:
    [N // B, B]: column b is the b-th stretch of the text; the last N mod B tokens are left out.
  Raises:
    ValueError: the text has fewer than B tokens.
  """
  checks.integer("batch_size", batch_size)
  length = len(tokens) // batch_size
  if length == 0:
    raise ValueError(f"batch_size must be at most the {len(tokens)} tokens, got {batch_size}.")
  return tokens[: length * batch_size].reshape(batch_size, length).T


def _read(path: Path) -> bytes:
  try:
    if path.is_dir():
      raise ValueError(f"corpus must be a file, got the folder {path}.")
    text = path.read_bytes()
  except FileNotFoundError:
    raise ValueError(f"corpus must be a file that exists, got {path}.") from None
  except OSError as error:
    raise ValueError(f"corpus must be readable, got {path} ({error.strerror}).") from None
  if not text:
    raise ValueError(f"corpus must not be empty, got {path}.")
  return text


def standard_library_files() -> tuple[Path, list[Path]]:
  """This Python's standard library: its folder, and its source files in order, without tests.

  Raises:
    ValueError: there are none.
  """
  root = Path(sysconfig.get_path("stdlib"))
  skipped = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
  files: list[Path] = []
  for folder, inside, names in os.walk(root):
    inside[:] = set(inside) - skipped  # os.walk goes where this list says
    files += [Path(folder, name) for name in names if name.endswith(".py")]
  if not files:
    raise ValueError(f"corpus 'stdlib' needs the standard library's source, none is in {root}.")
  return root, sorted(files)


def _standard_library() -> bytes:
  _, files = standard_library_files()
  try:
    return b"".join(p.read_bytes() for p in files)
  except OSError as error:
    raise ValueError(f"corpus 'stdlib' must be readable, got {error}.") from None
