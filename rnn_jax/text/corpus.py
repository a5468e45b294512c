"""Text: a file of the user's, or the source of the Python standard library."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import sysconfig
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from rnn_jax import checks
from rnn_jax.text.counts import BLOCK, histogram
from rnn_jax.text.vocabulary import Vocabulary, vocabulary_of_counts

STANDARD_LIBRARY = "stdlib"


class Corpus(NamedTuple):
  """A text, and what its characters are as tokens.

  Attributes:
    name: `stdlib`, or the file's path.
    text: uint8 [N], its bytes; those of a file stay in it, and come into memory where they are
      read. It must not change meanwhile.
    vocabulary: of its characters.
    sha256: of the bytes, in hexadecimal; it says which text this was.
  """

  name: str
  text: np.ndarray
  vocabulary: Vocabulary
  sha256: str

  @property
  def tokens(self) -> np.ndarray:
    """The whole text as tokens, uint8 [N], one a byte; made anew each time."""
    return self.vocabulary.encode(self.text)


def load_corpus(source: str | Path = STANDARD_LIBRARY) -> Corpus:
  """A text of bytes; a file is read through once, in small pieces, and then memory-mapped.

  Args:
    source: path of a file, or `stdlib` for the source of this Python's standard library: always
      there, offline, about 11 MB (it differs between Python versions, see `sha256`).
  Returns:
    The Corpus.
  Raises:
    ValueError: the file is missing, empty, a folder or a pipe, or cannot be read.
  """
  if str(source) == STANDARD_LIBRARY:
    whole = _standard_library()
    return _corpus(STANDARD_LIBRARY, np.frombuffer(whole, np.uint8), io.BytesIO(whole))
  path = Path(source)
  try:
    kind = path.stat()
    if stat.S_ISDIR(kind.st_mode):
      raise ValueError(f"corpus must be a file, got the folder {path}.")
    if not stat.S_ISREG(kind.st_mode):
      raise ValueError(f"corpus must be a file on disk, got {path}.")
    if kind.st_size == 0:
      raise ValueError(f"corpus must not be empty, got {path}.")
    text = np.asarray(np.memmap(path, np.uint8, mode="r"))
    with path.open("rb") as file:
      return _corpus(str(source), text, file)
  except FileNotFoundError:
    raise ValueError(f"corpus must be a file that exists, got {path}.") from None
  except OSError as error:
    raise ValueError(f"corpus must be readable, got {path} ({error.strerror}).") from None


def _corpus(name: str, text: np.ndarray, file: BinaryIO) -> Corpus:
  """The corpus of a text, whose bytes a file gives too: pages mapped into memory stay there."""
  digest, counts = hashlib.sha256(), np.zeros(256, np.int64)
  while block := file.read(BLOCK):
    digest.update(block)
    counts += histogram(np.frombuffer(block, np.uint8), 256)
  return Corpus(name, text, vocabulary_of_counts(counts), digest.hexdigest())


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
