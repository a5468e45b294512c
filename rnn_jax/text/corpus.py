"""Corpora: a text file, or the source of the Python standard library."""

from __future__ import annotations

import hashlib
import io
import os
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

from rnn_jax import checks
from rnn_jax.text.counts import BLOCK, histogram
from rnn_jax.text.vocabulary import Vocabulary, vocabulary_of_counts

STANDARD_LIBRARY = "stdlib"


class Corpus(NamedTuple):
  """A text and the vocabulary of its characters.

  Attributes:
    name: `stdlib`, or the path of the file.
    text: the text's bytes, uint8 [N]. A file is memory-mapped, so it must not change while it is in
      use.
    vocabulary: the characters that occur in the text.
    sha256: SHA-256 hash of the bytes, in hexadecimal, which identifies the text.
  """

  name: str
  text: UInt8[np.ndarray, " N"]
  vocabulary: Vocabulary
  sha256: str

  @property
  def tokens(self) -> UInt8[np.ndarray, " N"]:
    """The whole text as tokens, uint8 [N], one per byte. Every access encodes the text again."""
    return self.vocabulary.encode(self.text)


def load_corpus(source: str | Path = STANDARD_LIBRARY) -> Corpus:
  """Loads a text as a Corpus.

  A file is memory-mapped; it is read once, in small blocks, for its hash and its vocabulary.

  Args:
    source: path of a file, or `stdlib` for the source of this Python's standard library, about
      11 MB. That text is always available offline, but differs between Python versions;
      `Corpus.sha256` identifies the version.
  Raises:
    TypeError: if `source` is not a path.
    ValueError: if the file is missing, empty, a folder or a pipe, or cannot be read.
  """
  if not isinstance(source, str | Path):
    raise TypeError(f"corpus must be a path, or '{STANDARD_LIBRARY}', got {source!r:.60}.")
  if str(source) == STANDARD_LIBRARY:
    whole = _standard_library()
    return _corpus(STANDARD_LIBRARY, np.frombuffer(whole, np.uint8), io.BytesIO(whole))
  path = Path(source)
  with checks.readable_file("corpus", path) as status:
    if status.st_size == 0:
      raise ValueError(f"corpus must not be empty, got {path}.")
    text = np.asarray(np.memmap(path, np.uint8, mode="r"))
    with path.open("rb") as file:
      return _corpus(str(source), text, file)


def _corpus(name: str, text: UInt8[np.ndarray, " N"], file: io.BufferedIOBase) -> Corpus:
  """Builds the Corpus of a text; `file` must hold the same bytes as `text`.

  The hash and the character counts are computed from `file`, because reading `text`, which may be a
  memory map, would leave all its pages in memory.
  """
  digest, counts = hashlib.sha256(), np.zeros(256, np.int64)
  while block := file.read(BLOCK):
    digest.update(block)
    counts += histogram(np.frombuffer(block, np.uint8), 256)
  return Corpus(name, text, vocabulary_of_counts(counts), digest.hexdigest())


def lanes(
  tokens: Shaped[np.ndarray, " N"], batch_size: int
) -> Shaped[np.ndarray, "steps batch_size"]:
  """Cuts one long text into `batch_size` contiguous parts, the lanes, to be read in parallel.

  Args:
    tokens: the text's tokens [N].
    batch_size: B, number of lanes.
  Returns:
    Tokens [N // B, B]: column b is the b-th lane. The last N mod B tokens are left out.
  Raises:
    TypeError, ValueError: if `batch_size` is not an integer of at least 1, or `tokens` does not
      have the shape [N] with N ≥ B.
  """
  checks.integer("batch_size", batch_size)
  tokens = np.asarray(tokens)
  if tokens.ndim != 1:
    raise ValueError(f"tokens must be [N], got {list(tokens.shape)}.")
  length = len(tokens) // batch_size
  if length == 0:
    raise ValueError(f"batch_size must be at most the {len(tokens)} tokens, got {batch_size}.")
  return tokens[: length * batch_size].reshape(batch_size, length).T


def standard_library_files() -> tuple[Path, list[Path]]:
  """Returns the folder of this Python's standard library, and its source files except tests.

  Raises:
    ValueError: if the folder has no source files.
  """
  root = Path(sysconfig.get_path("stdlib"))
  skipped = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
  files: list[Path] = []
  for folder, inside, names in os.walk(root):
    inside[:] = set(inside) - skipped  # os.walk visits only the folders left in this list
    files += [Path(folder, name) for name in names if name.endswith(".py")]
  if not files:
    raise ValueError(f"corpus 'stdlib' needs the standard library's source, but {root} has none.")
  return root, sorted(files)


def _standard_library() -> bytes:
  _, files = standard_library_files()
  try:
    return b"".join(p.read_bytes() for p in files)
  except OSError as error:
    raise ValueError(f"corpus 'stdlib' must be readable, got {error}.") from None
