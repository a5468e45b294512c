"""Tests of corpora from files and from the standard library, and of cutting a text into lanes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

from rnn_jax.text import STANDARD_LIBRARY, counts, lanes, load_corpus


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
  # `unreadable` is a path below a file, because root may read any file, whatever its permissions.
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
  root = tmp_path / "test" / "lib"  # `test` is above the root, so it is not excluded
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


@pytest.mark.parametrize(("num_tokens", "batch_size"), [(12, 3), (14, 3), (5, 5), (7, 1)])
def test_lanes_are_contiguous(num_tokens, batch_size):
  tokens = np.arange(num_tokens)
  side_by_side = lanes(tokens, batch_size)
  length = num_tokens // batch_size
  assert side_by_side.shape == (length, batch_size)
  np.testing.assert_array_equal(side_by_side.T.ravel(), tokens[: length * batch_size])
  np.testing.assert_array_equal(np.diff(side_by_side, axis=0), 1)
