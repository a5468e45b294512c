"""Tests of the features of texts, against values written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.states.text_features import FEATURES, text_features

# A feature, a text, and marks below the characters after which the feature holds.
MARKED = [
  ("inside quotes", 'x = \'ab\' + "c\\"d"', "    ^^^    ^^^^^"),
  ("inside quotes", "don't rb'x' 'y", "        ^^  ^^"),
  ("inside quotes", "'\\'''x'", "^^^ ^^ "),
  ("inside quotes", "'a # b' # 'c'", "^^^^^^       "),
  ("inside quotes", "'ab\n'c'\n", "^^^ ^^  "),
  ("inside quotes", "'a\\\nb' '\\\\' c", "^^^^^  ^^^   "),
  ("inside quotes", "'' '' \"\"\"", "^  ^  ^ ^"),
  ("inside quotes", '"""a"b""c\n"""d', "^ ^^^^^^^^^^  "),
  ("inside triple quotes", '"""a"b\n"" """ "c"', "  ^^^^^^^^^^"),
  ("inside triple quotes", '"""\\""""" x', "  ^^^^^"),
  ("inside triple quotes", '"" "a" """"', "         ^^"),
  ("inside a comment", "a # b ' c\n'#'", "  ^^^^^^^    "),
  ("inside brackets", "f(a[0])}) {'}'}", " ^^^^^    ^^^^ "),
  ("inside a name", "a_1 = b.c + 1.5e3 # d", "^^^   ^ ^            "),
  ("inside a number", "a_1 = b.c + 1.5e3 # 2", "            ^^^^^    "),
]


@pytest.mark.parametrize(("feature", "text", "marks"), MARKED)
def test_marked_characters(feature, text, marks):
  got = text_features(list(text))[feature]
  assert "".join("^" if value else " " for value in got) == marks.ljust(len(text))[: len(text)]


def test_position_depth_and_indentation():
  text = "a\n  (b\n\t[\n"
  got = text_features(list(text))
  np.testing.assert_array_equal(80 * got["position in the line"], [1, 0, 1, 2, 3, 4, 0, 1, 2, 0])
  np.testing.assert_array_equal(4 * got["indentation"], [0, 0, 1, 2, 2, 2, 0, 4, 4, 0])
  np.testing.assert_array_equal(got["bracket depth"], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
  assert text_features(["a"] * 100)["position in the line"][-1] == 1


def test_pieces_of_several_characters_or_none():
  got = text_features(["print ", "( ", "' ", "a ", "' ", ") ", "\n"])
  np.testing.assert_array_equal(got["inside brackets"], [0, 1, 1, 1, 1, 0, 0])
  np.testing.assert_array_equal(got["inside quotes"], [0, 0, 1, 1, 0, 0, 0])
  # A letter's bytes before the last one are empty pieces, which keep the features as they were.
  got = text_features(["", "é", "(", "", "é"])
  np.testing.assert_array_equal(got["inside brackets"], [0, 0, 1, 1, 1])
  np.testing.assert_array_equal(80 * got["position in the line"], [0, 1, 2, 2, 3])


def test_any_text_is_accepted():
  rng = np.random.default_rng(0)
  for size in (0, 1, 5, 300):
    text = rng.choice(list("a1 _.'\"\\#()[]{}\n\t\r\0é<"), size)
    got = text_features(list(text))
    assert tuple(got) == FEATURES
    for values in got.values():
      assert values.shape == (size,) and np.isfinite(values).all() and (values >= 0).all()
