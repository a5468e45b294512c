"""Corpora and vocabularies of characters: encoding, counts, and errors of unreadable files."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

from rnn_jax.text import (
  STANDARD_LIBRARY,
  build_vocabulary,
  counts,
  entropy,
  histogram,
  lanes,
  load_corpus,
)

ALL_BYTES = bytes(range(256))


@pytest.mark.parametrize("text", [ALL_BYTES, ALL_BYTES[::-1] * 2, "é\n\x00".encode(), b"a"])
def test_decode_undoes_encode(text):
  vocabulary = build_vocabulary(text)
  tokens = vocabulary.encode(text)
  assert tokens.dtype == np.uint8
  assert vocabulary.decode(tokens) == text


def test_tokens_are_indices_among_the_sorted_distinct_bytes():
  vocabulary = build_vocabulary(b"banana")
  assert vocabulary.symbols.tobytes() == b"abn"
  assert vocabulary.size == 3
  np.testing.assert_array_equal(vocabulary.encode(b"nab"), [2, 0, 1])
  assert vocabulary.decode([0, 1]) == b"ab"


@pytest.mark.parametrize(
  ("text", "named"),
  [
    (b"abXaY", "'X' at byte 2"),
    (b"\xff", r"b'\xff' at byte 0"),
    ("ab\u00e9".encode(), "'é' at byte 2"),
    ("a€a€".encode(), "'€' at byte 1"),
    ("ab\u00e9".encode()[:-1], r"b'\xc3' at byte 2"),  # half a letter
    (b"a\xa9", r"b'\xa9' at byte 1"),  # a continuation byte without a letter's first byte
    ("a\ufffd".encode(), "'\ufffd' at byte 1"),
    (b"a\0", r"'\x00' at byte 1"),
  ],
)
def test_unknown_character_is_named_with_its_index(text, named):
  with pytest.raises(ValueError) as error:
    build_vocabulary(b"ab").encode(text)
  assert str(error.value) == f"text holds {named}, not in the vocabulary."


def test_letter_is_named_if_only_its_second_byte_is_unknown(monkeypatch):
  vocabulary = build_vocabulary("aè".encode())
  for block in (counts.BLOCK, 2):  # the letter in one block, and in two
    monkeypatch.setattr(counts, "BLOCK", block)
    with pytest.raises(ValueError, match="'é' at byte 3, not"):
      vocabulary.encode("aèéé".encode())


def test_eos_is_the_newline_or_none():
  assert build_vocabulary(b"a\nb\t").eos == 1
  assert build_vocabulary(b"\n").eos == 0
  assert build_vocabulary(b"abc\r").eos is None
  assert build_vocabulary(b"\x00\x05").eos is None


def test_encoding_an_array_keeps_its_shape():
  vocabulary = build_vocabulary(b"abc")
  values = np.frombuffer(b"abccba", np.uint8)
  np.testing.assert_array_equal(vocabulary.encode(values.reshape(2, 3)), [[0, 1, 2], [2, 1, 0]])
  np.testing.assert_array_equal(build_vocabulary(values).symbols, vocabulary.symbols)
  assert len(vocabulary.encode(b"")) == 0


def test_histogram_does_not_depend_on_the_block_size(monkeypatch):
  monkeypatch.setattr(counts, "BLOCK", 3)
  values = np.array([0, 1, 1, 4, 1, 0, 4, 4], np.uint8)
  np.testing.assert_array_equal(histogram(values, 6), [2, 3, 0, 0, 3, 0])
  np.testing.assert_array_equal(histogram(values[:0], 2), [0, 0])


def test_entropy_is_that_of_the_shares():
  assert entropy(np.array([4, 0, 2, 1, 1])) == pytest.approx(1.75 * math.log(2), rel=1e-12)
  assert str(entropy(np.array([0, 7]))) == "0.0"  # not -0.0


@pytest.mark.parametrize(("num_tokens", "batch_size"), [(12, 3), (14, 3), (5, 5), (7, 1)])
def test_lanes_are_contiguous(num_tokens, batch_size):
  tokens = np.arange(num_tokens)
  side_by_side = lanes(tokens, batch_size)
  length = num_tokens // batch_size
  assert side_by_side.shape == (length, batch_size)
  np.testing.assert_array_equal(side_by_side.T.ravel(), tokens[: length * batch_size])
  np.testing.assert_array_equal(np.diff(side_by_side, axis=0), 1)


def test_corpus_of_a_file_is_its_bytes(tmp_path):
  path, text = tmp_path / "text.txt", "Ünïcode\r\nand \x00".encode()
  path.write_bytes(text)
  for source in (path, str(path)):
    corpus = load_corpus(source)
    assert corpus.name == str(path)
    assert corpus.vocabulary.decode(corpus.tokens) == text
    assert corpus.sha256 == hashlib.sha256(text).hexdigest()


def corpus_errors(folder):
  (folder / "empty").write_bytes(b"")
  (folder / "file").write_bytes(b"text")
  os.mkfifo(folder / "pipe")
  # A file in place of a folder cannot be opened, not even by root.
  return {
    "missing": (folder / "missing", "corpus must be a file that exists, got "),
    "empty": (folder / "empty", "corpus must not be empty, got "),
    "folder": (folder, "corpus must be a file, got the folder "),
    "unreadable": (folder / "file" / "below", "corpus must be readable, got "),
    "pipe": (folder / "pipe", "corpus must be a file on disk, got "),
  }


@pytest.mark.parametrize("case", ["missing", "empty", "folder", "unreadable", "pipe"])
def test_errors_name_the_unreadable_file_and_the_reason(tmp_path, case):
  path, message = corpus_errors(tmp_path)[case]
  with pytest.raises(ValueError, match=message) as error:
    load_corpus(path)
  assert str(path) in str(error.value)


def test_file_longer_than_a_block_is_read_whole(tmp_path, monkeypatch):
  path, text = tmp_path / "text.txt", bytes(range(90)) * 3
  path.write_bytes(text)
  monkeypatch.setattr("rnn_jax.text.corpus.BLOCK", 100)
  monkeypatch.setattr(counts, "BLOCK", 100)
  corpus = load_corpus(path)
  assert corpus.sha256 == hashlib.sha256(text).hexdigest()
  assert corpus.vocabulary.size == 90
  assert corpus.vocabulary.decode(corpus.tokens) == text


def test_large_file_stays_on_disk(tmp_path):
  path, size = tmp_path / "large.txt", 60_000_000
  path.write_bytes(b"0123456789abcde\n" * (size // 16))
  program = (
    "import re, sys\n"
    "from pathlib import Path\n"
    "from rnn_jax.text import load_corpus\n"
    "status = Path('/proc/self/status')\n"
    "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', status.read_text())[1])\n"
    "before = peak()\n"
    "corpus = load_corpus(sys.argv[1])\n"
    "print(len(corpus.text), corpus.text[-2:].tobytes(), peak() - before)\n"
  )
  command = (sys.executable, "-c", program, str(path))
  result = subprocess.run(command, capture_output=True, text=True, check=True)
  length, end, kilobytes = result.stdout.rsplit(maxsplit=2)
  assert (int(length), end) == (size, r"b'e\n'")
  assert int(kilobytes) < size / 1000 / 2


def test_standard_library_is_real_and_the_same_every_time():
  corpus = load_corpus()
  assert corpus.name == STANDARD_LIBRARY
  assert len(corpus.tokens) > 5_000_000
  text = corpus.vocabulary.decode(corpus.tokens)
  for real in (b"class OrderedDict(dict):", b"def namedtuple(", b"import collections"):
    assert real in text
  assert corpus.sha256 == hashlib.sha256(text).hexdigest() == load_corpus().sha256


def test_standard_library_excludes_tests_and_installed_packages(tmp_path, monkeypatch):
  files = {
    "b.py": b"second\n",
    "a.py": b"first\n",
    "json/c.py": b"third\n",
    "test/d.py": b"no",
    "unittest/test/e.py": b"no",
    "idlelib/idle_test/f.py": b"no",
    "lib2to3/tests/g.py": b"no",
    "site-packages/numpy/h.py": b"no",
    "__pycache__/i.py": b"no",
    "j.txt": b"no",
  }
  root = tmp_path / "test" / "lib"  # folders above the root are not excluded by name
  for name, text in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text)
  monkeypatch.setattr(sysconfig, "get_path", lambda name: str(root))
  corpus = load_corpus()
  assert corpus.vocabulary.decode(corpus.tokens) == b"first\nsecond\nthird\n"


def test_standard_library_without_source_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
  with pytest.raises(ValueError, match=f"corpus 'stdlib' .*{tmp_path}"):
    load_corpus()
