"""Python source as tagged text: which kind of token each character is part of."""

from __future__ import annotations

import io
import itertools
import keyword
import tokenize
from typing import NamedTuple

import numpy as np

CLASSES = ("space", "keyword", "name", "number", "string", "comment", "operator")

_SPACE, _KEYWORD, _NAME, _NUMBER, _STRING, _COMMENT, _OPERATOR = (
  bytes([i]) for i in range(len(CLASSES))
)
_CLASS_OF = {
  tokenize.NAME: _NAME,
  tokenize.NUMBER: _NUMBER,
  tokenize.STRING: _STRING,
  tokenize.COMMENT: _COMMENT,
  tokenize.OP: _OPERATOR,
}
# The tokens around f-strings, by the part of their names that they share with those of t-strings.
_STARTS, _ENDS = (
  {number for number, name in tokenize.tok_name.items() if name.endswith(ending)}
  for ending in ("STRING_START", "STRING_END")
)
# A row of these alone is a comment, or empty; NL ends it, as it ends the rows inside brackets.
_BLANK = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


class TaggedLine(NamedTuple):
  """A logical line of Python, indentation and final newline included.

  Attributes:
    text: UTF-8.
    classes: uint8, one a byte: its place in `CLASSES`.
  """

  text: bytes
  classes: np.ndarray


def tagged_lines(source: bytes) -> list[TaggedLine]:
  """The logical lines of Python source, each byte with the class of the token that it is in.

  Lines are cut as the standard library's `tokenize` does it: an expression in brackets, or a string
  in triple quotes, is one line however many rows it takes; so is a comment on a row of its own.
  Empty lines are left out. Of the classes, `operator` holds brackets and all other signs, `name`
  the words that are keywords in some places only (`match`), `string` all of an f-string, what is in
  its braces too, and `space` whatever is between tokens.

  Args:
    source: a file's bytes, in the encoding that it declares.
  Returns:
    The lines, in order.
  Raises:
    ValueError: it is no Python that can be tokenised.
  """
  try:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    text = source.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    # The end of a last line without one would be a token that is not in the text.
    text += "" if text.endswith("\n") else "\n"
    classes, ends = _tokenised(text)
  except (tokenize.TokenError, SyntaxError, ValueError) as error:
    reason = error.args[0] if isinstance(error, tokenize.TokenError) else error
    raise ValueError(f"text must be Python source, and is none: {reason}.") from None
  widths = _widths(text)
  data, classes = text.encode(), np.repeat(classes, widths)
  cuts = np.concatenate([[0], np.cumsum(widths)])[[0, *ends]].tolist()
  lines = (TaggedLine(data[a:b], classes[a:b]) for a, b in itertools.pairwise(cuts))
  return [line for line in lines if line.text.strip()]


def _tokenised(text: str) -> tuple[np.ndarray, list[int]]:
  """The class of each character, and where the logical lines end."""
  rows = [0, *itertools.accumulate(len(row) + 1 for row in text.split("\n"))]
  classes = bytearray(_SPACE * len(text))
  ends: list[int] = []
  begun = False  # a line with more than a comment
  opened: list[int] = []  # where f-strings began that have not ended
  for kind, string, (row, column), (end_row, end_column), _ in tokenize.generate_tokens(
    io.StringIO(text).readline
  ):
    start, end = rows[row - 1] + column, rows[end_row - 1] + end_column
    if kind == tokenize.ERRORTOKEN:
      raise ValueError(f"unexpected {string!r} in line {row}")
    if kind in _STARTS:
      opened.append(start)
    elif kind in _ENDS:
      # Comes after all that is inside, and so writes over it.
      start = opened.pop()
      classes[start:end] = _STRING * (end - start)
    elif kind in _CLASS_OF:
      word = kind == tokenize.NAME and keyword.iskeyword(string)
      classes[start:end] = (_KEYWORD if word else _CLASS_OF[kind]) * (end - start)
    begun = begun or kind not in _BLANK
    if kind == tokenize.NEWLINE or (kind == tokenize.NL and not begun):
      ends.append(end)
      begun = False
  return np.frombuffer(classes, np.uint8), ends


def _widths(text: str) -> np.ndarray:
  """Bytes of each character in UTF-8."""
  points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
  return 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
