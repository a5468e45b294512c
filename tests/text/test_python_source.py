"""Tests of `tagged_lines`, which finds the token class of each character of Python source."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import pytest

from rnn_jax.text.python_source import CLASSES, tagged_lines

# The sign that stands for each token class in TAGGED below.
LETTER = {
  ".": "space",
  "k": "keyword",
  "n": "name",
  "0": "number",
  "s": "string",
  "c": "comment",
  "o": "operator",
}

# Lines of Python, each with a sign for every character's class.
TAGGED = [
  ("def f(x):\n", "kkk.nonoo."),
  ("  return x_1 + 0.5e3  # half\n", "..kkkkkk.nnn.o.00000..cccccc."),
  ("# é, alone\n", "cccccccccc."),
  ("match = 'é'\n", "nnnnn.o.sss."),
  ("y = [f(1),  # one\n   2]\n", "n.o.ono0oo..ccccc....0o."),
  ('t = f"a{x + 1}b{f(2)}" in (None,)\n', "n.o.ssssssssssssssssss.kk.okkkkoo."),
  ('"""two\n  rows"""\n', "ssssssssssssssss."),
  ("a \\\n  = b'0'\n", "n.....o.ssss."),
]


def in_bytes(text, letters):
  """Returns the class name of each byte of `text`, given a sign of LETTER for each character."""
  return [
    LETTER[letter]
    for character, letter in zip(text, letters, strict=True)
    for _ in character.encode()
  ]


def test_every_character_has_the_class_of_its_token():
  # Empty lines, which `tagged_lines` leaves out, are added inside the function and after it.
  rows = [text for text, _ in TAGGED]
  source = rows[0] + "\n" + rows[1] + "\n" + "".join(rows[2:])
  lines = tagged_lines(source.encode())
  assert [line.text.decode() for line in lines] == rows
  for line, tagged in zip(lines, TAGGED, strict=True):
    assert [CLASSES[i] for i in line.classes] == in_bytes(*tagged)


@pytest.mark.parametrize(
  "source",
  [
    b"x = 1\ny = 2",  # without a final newline
    b"x = 1\r\ny = 2\r\n",
    b"\xef\xbb\xbfx = 1\n\n \n\ny = 2\n\n",  # with a byte order mark and empty lines
  ],
)
def test_lines_do_not_depend_on_line_endings(source):
  assert [line.text for line in tagged_lines(source)] == [b"x = 1\n", b"y = 2\n"]
  assert [CLASSES[i] for i in tagged_lines(source)[1].classes] == in_bytes("y = 2\n", "n.o.0.")


def test_declared_encodings_are_read():
  _, line = tagged_lines("# coding: latin-1\né = 'à'\n".encode("latin-1"))
  assert line.text == "é = 'à'\n".encode()
  assert [CLASSES[i] for i in line.classes] == in_bytes("é = 'à'\n", "n.o.sss.")


def test_lines_of_a_file_are_in_order_with_nothing_but_white_space_between():
  rest = Path(sysconfig.get_path("stdlib"), "textwrap.py").read_bytes()
  for line in tagged_lines(rest):
    between, _, rest = rest.partition(line.text)
    assert not between.strip()
    assert (len(line.classes), line.classes.dtype) == (len(line.text), np.uint8)
  assert not rest.strip()


@pytest.mark.parametrize("source", [b"", b"\n \n"])
def test_text_without_lines_has_none(source):
  assert tagged_lines(source) == []


@pytest.mark.parametrize(
  "source",
  [b"x = (1\n", b"x = '''a\n", b"\xff\n", b"if x:\n  a\n b\n", b"# coding: no-such\n", b"\0"],
)
def test_source_that_is_not_python_is_refused(source):
  with pytest.raises(ValueError, match="text must be Python source: "):
    tagged_lines(source)
