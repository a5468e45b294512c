"""Text as tokens: nothing is lost, and whatever cannot be read says so."""

from __future__ import annotations

import hashlib
import sysconfig

import numpy as np
import pytest

from rnn_jax.text import STANDARD_LIBRARY, build_vocabulary, lanes, load_corpus

ALL_BYTES = bytes(range(256))


@pytest.mark.parametrize("text", [ALL_BYTES, ALL_BYTES[::-1] * 2, "é\n\x00".encode(), b"a"])
def test_decode_undoes_encode(text):
  vocabulary = build_vocabulary(text)
  tokens = vocabulary.encode(text)
  assert tokens.dtype == np.uint8
  assert vocabulary.decode(tokens) == text


def test_tokens_are_places_among_the_sorted_distinct_bytes():
  vocabulary = build_vocabulary(b"banana")
  assert vocabulary.symbols.tobytes() == b"abn"
  assert vocabulary.size == 3
  np.testing.assert_array_equal(vocabulary.encode(b"nab"), [2, 0, 1])
  assert vocabulary.decode([0, 1]) == b"ab"


@pytest.mark.parametrize(("text", "byte", "place"), [(b"abXaY", "X", 2), (b"\xff", r"\\xff", 0)])
def test_unknown_byte_is_named_with_its_place(text, byte, place):
  with pytest.raises(ValueError, match=rf"{byte}.* at byte {place}"):
    build_vocabulary(b"ab").encode(text)


@pytest.mark.parametrize(("num_tokens", "batch_size"), [(12, 3), (14, 3), (5, 5), (7, 1)])
def test_lanes_are_contiguous_and_follow_each_other(num_tokens, batch_size):
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
  # A file in place of a folder cannot be opened, not even by root.
  return {
    "missing": (folder / "missing", "corpus must be a file that exists, got "),
    "empty": (folder / "empty", "corpus must not be empty, got "),
    "folder": (folder, "corpus must be a file, got the folder "),
    "unreadable": (folder / "file" / "below", "corpus must be readable, got "),
  }


@pytest.mark.parametrize("case", ["missing", "empty", "folder", "unreadable"])
def test_corpus_that_cannot_be_read_says_why_and_where(tmp_path, case):
  path, message = corpus_errors(tmp_path)[case]
  with pytest.raises(ValueError, match=message) as error:
    load_corpus(path)
  assert str(path) in str(error.value)


def test_standard_library_is_real_and_the_same_every_time():
  corpus = load_corpus()
  assert corpus.name == STANDARD_LIBRARY
  assert len(corpus.tokens) > 5_000_000
  text = corpus.vocabulary.decode(corpus.tokens)
  for real in (b"class OrderedDict(dict):", b"def namedtuple(", b"import collections"):
    assert real in text
  assert corpus.sha256 == hashlib.sha256(text).hexdigest() == load_corpus().sha256


def test_standard_library_holds_neither_tests_nor_what_was_installed(tmp_path, monkeypatch):
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
  root = tmp_path / "test" / "lib"  # what lies above the root does not count
  for name, text in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text)
  monkeypatch.setattr(sysconfig, "get_path", lambda name: str(root))
  corpus = load_corpus()
  assert corpus.vocabulary.decode(corpus.tokens) == b"first\nsecond\nthird\n"


def test_standard_library_without_source_says_so(tmp_path, monkeypatch):
  monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
  with pytest.raises(ValueError, match=f"corpus 'stdlib' .*{tmp_path}"):
    load_corpus()
