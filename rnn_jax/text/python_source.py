"""Tagged Python source: lines of code with the token class (keyword, name, …) of each byte."""

from __future__ import annotations

import io
import itertools
import keyword
import tokenize
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

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
# The tokens that start and end f-strings and t-strings, e.g. FSTRING_START and TSTRING_END.
_STARTS, _ENDS = (
  {number for number, name in tokenize.tok_name.items() if name.endswith(ending)}
  for ending in ("STRING_START", "STRING_END")
)
# The types of the tokens in a row without code, i.e. an empty row or a comment. An NL token alone
# does not identify such a row, because NL also ends a row inside brackets.
_BLANK = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


class TaggedLine(NamedTuple):
  """A logical line of Python, with its indentation and its final newline.

  Attributes:
    text: the line's bytes, in UTF-8.
    classes: uint8 [bytes], the class of each byte as an index into `CLASSES`.
  """

  text: bytes
  classes: UInt8[np.ndarray, " bytes"]


def tagged_lines(source: bytes) -> list[TaggedLine]:
  """Returns the logical lines of Python source, with the token class of each byte.

  Lines end where the standard library's `tokenize` ends them. An expression in brackets or a string
  in triple quotes does not end a line, even if it spans several rows; a comment on a row of its own
  is a line. Empty lines are left out. Some of the classes hold more than their name says:

    operator   also brackets and all other punctuation
    name       also soft keywords such as `match`
    string     also the expressions in the braces of an f-string
    space      everything between tokens

  Args:
    source: the bytes of a file, in the encoding that the file declares.
  Raises:
    TypeError, ValueError: if `source` is not bytes, or cannot be tokenized as Python.
  """
  if not isinstance(source, bytes):
    raise TypeError(f"source must be bytes, got {source!r:.60}.")
  try:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    text = source.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    # Without a final newline, `tokenize` would report a newline token that is not in the text.
    text += "" if text.endswith("\n") else "\n"
    classes, ends = _tokenized(text)
  except (tokenize.TokenError, SyntaxError, ValueError) as error:
    reason = error.args[0] if isinstance(error, tokenize.TokenError) else error
    raise ValueError(f"text must be Python source: {reason}.") from None
  widths = _widths(text)
  data, classes = text.encode(), np.repeat(classes, widths)
  cuts = np.concatenate([[0], np.cumsum(widths)])[[0, *ends]].tolist()
  lines = (TaggedLine(data[a:b], classes[a:b]) for a, b in itertools.pairwise(cuts))
  return [line for line in lines if line.text.strip()]


def _tokenized(text: str) -> tuple[UInt8[np.ndarray, " characters"], list[int]]:
  """Returns the class of each character, and the indices at which logical lines end."""
  rows = [0, *itertools.accumulate(len(row) + 1 for row in text.split("\n"))]
  classes = bytearray(_SPACE * len(text))
  ends: list[int] = []
  begun = False  # whether the current line has a token that is not in _BLANK
  opened: list[int] = []  # start indices of the f-strings that are still open
  for kind, string, (row, column), (end_row, end_column), _ in tokenize.generate_tokens(
    io.StringIO(text).readline
  ):
    start, end = rows[row - 1] + column, rows[end_row - 1] + end_column
    if kind == tokenize.ERRORTOKEN:
      raise ValueError(f"unexpected {string!r} in line {row}")
    if kind in _STARTS:
      opened.append(start)
    elif kind in _ENDS:
      # Overwrites the classes of the tokens inside the f-string, which precede its end token.
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


def _widths(text: str) -> Int[np.ndarray, " characters"]:
  """Returns the number of bytes of each character in UTF-8."""
  points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
  return 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
