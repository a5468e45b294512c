"""Tests of readers: the windows that they read are compared with the text."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rnn_jax.text import (
  READINGS,
  Corpus,
  Source,
  build_vocabulary,
  build_word_vocabulary,
  evaluation_windows,
  line_spans,
  make_reader,
  make_source,
  split,
)

COUNTING = Source(np.arange(100, dtype=np.int32), lambda tokens: tokens, None)


def counting(size):
  return COUNTING._replace(symbols=np.arange(size, dtype=np.int32))


def corpus_of(text):
  return Corpus("tiny", np.frombuffer(text, np.uint8), build_vocabulary(text), "")


def lines_of(text):
  corpus = corpus_of(text)
  return make_source(corpus, corpus.vocabulary)


def apart(windows, window):
  """Splits the time axis of Windows: leaves [n·k, B] -> [n, k, B], with window k."""
  return jax.tree.map(lambda a: a.reshape(-1, window, a.shape[1]), windows)


LINES = b"first\nsecond line\n\nfour\nlonger than a window is\nlast"
NAMES = sorted(READINGS)


@pytest.mark.parametrize("name", NAMES)
def test_every_reading_has_the_same_shapes_and_dtypes(name):
  windows = make_reader(name, lines_of(LINES), 3, 12, 4, 0)(0)
  for part, dtype in zip(windows, (np.int32, np.int32, bool, bool), strict=True):
    assert (part.shape, part.dtype) == ((4 * 12, 3), dtype)
  whole = list(evaluation_windows(lines_of(LINES), 3, 12, 4))
  assert jax.tree.map(np.shape, whole[0]) == jax.tree.map(np.shape, windows)


@pytest.mark.parametrize("name", NAMES)
def test_windows_depend_on_the_seed_and_the_number_alone(name):
  source = lines_of(LINES * 5)
  first, same, other = (make_reader(name, source, 3, 12, 4, seed) for seed in (0, 0, 1))
  later = same(7)
  for a, b in zip(first(7), later, strict=True):
    np.testing.assert_array_equal(a, b)
  assert not np.array_equal(first(7).tokens, first(8).tokens)
  assert not np.array_equal(first(7).tokens, other(7).tokens)


def test_stream_is_contiguous_lanes_with_a_random_offset_each_pass():
  batch_size, window, count = 4, 5, 3
  read = make_reader("stream", counting(100), batch_size, window, count, seed=3)
  lane = (100 - window) // batch_size
  in_pass = lane // window
  windows = apart(jax.tree.map(lambda *a: np.concatenate(a), *map(read, range(40))), window)
  np.testing.assert_array_equal(windows.targets, windows.tokens + 1)
  assert windows.mask.all()
  offsets = []
  for number, (tokens, resets) in enumerate(zip(windows.tokens, windows.resets, strict=True)):
    if number % in_pass == 0:
      offsets.append(tokens[0, 0])
    start = offsets[-1] + number % in_pass * window
    expected = start + np.arange(window)[:, None] + lane * np.arange(batch_size)
    np.testing.assert_array_equal(tokens, expected)
    assert resets[0].all() == resets.any() == (number % in_pass == 0)
  assert set(offsets) == set(range(window))
  assert windows.targets.max() < 100


def test_stream_reads_the_shortest_text_whole():
  windows = make_reader("stream", counting(13), 3, 4, 2, 0)(5)  # 13 tokens = B·k + 1
  np.testing.assert_array_equal(windows.tokens[:4].T, np.arange(12).reshape(3, 4))
  np.testing.assert_array_equal(windows.tokens[4:], windows.tokens[:4])
  np.testing.assert_array_equal(np.flatnonzero(windows.resets[:, 0]), [0, 4])


def test_windows_are_at_random_positions_and_start_from_a_new_carry():
  windows = apart(make_reader("windows", counting(12), 50, 8, 10, 0)(0), 8)
  np.testing.assert_array_equal(np.diff(windows.tokens, axis=1), 1)
  np.testing.assert_array_equal(windows.targets, windows.tokens + 1)
  assert set(windows.tokens[:, 0].ravel()) == {0, 1, 2, 3}  # so targets reach the last token, 11
  assert windows.resets[:, 0].all() and not windows.resets[:, 1:].any()
  assert windows.mask.all()


@pytest.mark.parametrize("text", [LINES, LINES + b"\n"], ids=["end", "newline"])
def test_lines_are_whole_from_one_eos_to_the_next(text):
  window, source = 12, lines_of(text)
  windows = apart(make_reader("lines", source, 20, window, 10, 0)(0), window)
  assert windows.resets[:, 0].all() and not windows.resets[:, 1:].any()
  seen = set()
  decode, eos = build_vocabulary(text).decode, source.eos
  for tokens, targets, mask in zip(
    *(np.moveaxis(part, 1, 2).reshape(-1, window) for part in windows[:3]), strict=True
  ):
    length = mask.sum()
    assert mask[:length].all()
    assert tokens[0] == targets[length - 1] == eos
    np.testing.assert_array_equal(tokens[1:length], targets[: length - 1])
    assert eos not in tokens[1:length]
    seen.add(decode(targets[:length]))
  assert seen == {b"first\n", b"second line\n", b"\n", b"four\n", b"last\n"}


def test_lines_can_be_read_as_words():
  text = b"a b c\n\nb\na b c d e f\n"
  corpus = corpus_of(text)
  vocabulary = build_word_vocabulary(text)
  windows = make_reader("lines", make_source(corpus, vocabulary), 30, 4, 1, 0)(0)
  found = {vocabulary.decode(t[m]) for t, m in zip(windows.targets.T, windows.mask.T, strict=True)}
  assert found == {b"a b c\n", b"\n", b"b\n"}


@pytest.mark.parametrize(
  ("text", "lines"),
  [
    (LINES, LINES.split(b"\n")),
    (LINES + b"\n", LINES.split(b"\n")),
    (b"\n", [b""]),
    (b"\n\na\r\n", [b"", b"", b"a\r"]),
  ],
)
def test_line_spans_are_those_of_the_text(monkeypatch, text, lines):
  monkeypatch.setattr("rnn_jax.text.counts.BLOCK", 4)
  starts, lengths = line_spans(lines_of(text))
  assert [text[s : s + n - 1] for s, n in zip(starts, lengths, strict=True)] == lines


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("size", [23, 25, 50])
def test_evaluation_targets_every_token_once(size, batch_size):
  window, count = 4, 2
  lane = (size - 1) // batch_size
  targets, last = [], None
  for number, windows in enumerate(evaluation_windows(counting(size), batch_size, window, count)):
    assert windows.resets[0].all() == (number == 0)
    assert not windows.resets[1:].any()
    np.testing.assert_array_equal(windows.targets, windows.tokens + 1)
    if last is not None:  # these windows continue where the previous ones ended
      np.testing.assert_array_equal(windows.tokens[0], last)
    last = windows.targets[-1]
    targets += windows.targets[windows.mask].tolist()
  assert number == (lane - 1) // (window * count)
  assert sorted(targets) == list(range(1, lane * batch_size + 1))
  assert size - 1 - len(targets) == (size - 1) % batch_size


@pytest.mark.parametrize("batch_size", [1, 2])
def test_evaluation_by_line_starts_every_line_from_eos_with_a_new_carry(batch_size):
  source = lines_of(LINES)
  read = list(evaluation_windows(source, batch_size, 5, 3, by_line=True))
  tokens, targets, mask, resets = (np.concatenate(parts) for parts in zip(*read, strict=True))
  lane = len(LINES) // batch_size
  text = source.encode(source.symbols)[: lane * batch_size]
  np.testing.assert_array_equal(targets.T[mask.T], text)
  np.testing.assert_array_equal(tokens.T[mask.T], [source.eos, *text[:-1]])
  starts = np.arange(len(tokens))[:, None] == 0
  np.testing.assert_array_equal(resets, starts | (tokens == source.eos))


def test_split_holds_out_the_last_share():
  for share, held_out in ((0.0, 0), (0.25, 25), (0.099, 9), (0.999, 99)):
    parts = split(COUNTING.symbols, share)
    assert len(parts[1]) == held_out
    np.testing.assert_array_equal(np.concatenate(parts), COUNTING.symbols)


@pytest.mark.parametrize(
  "text", [bytes(range(256)) * 2, b"aaaaaaaaaaaa", b"\xff\xfe\x00\xff\n" * 4]
)
def test_arbitrary_bytes_are_read_unchanged(text):
  source = lines_of(text)
  windows = make_reader("windows", source, 3, 10, 2, 0)(0)
  for tokens in windows.tokens[:10].T:
    assert build_vocabulary(text).decode(tokens) in text


def test_source_accepts_another_vocabulary_that_has_all_characters():
  corpus, larger = corpus_of(b"cab"), build_vocabulary(b"abcd")
  source = make_source(corpus, larger)
  np.testing.assert_array_equal(source.encode(source.symbols), [2, 0, 1])
  with pytest.raises(ValueError, match="text holds 'c' at byte 0, not in the vocabulary"):
    make_source(corpus, build_vocabulary(b"ab"))


def reader(name, size=20, batch_size=2, window=5, count=1, seed=0):
  return make_reader(name, counting(size), batch_size, window, count, seed)


def test_the_largest_allowed_sizes_are_accepted():
  reader("stream", 11)(0)
  reader("windows", 6)(0)
  make_reader("lines", lines_of(b"abc\n"), 2, 4, 1, 0)(0)
  assert len(list(evaluation_windows(counting(5), 4, 2, 1))) == 1
