"""Tests of the features of texts, against values written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.states.languages import LANGUAGES
from experiments.states.text_features import text_features

# A feature, a text, and marks below the characters after which the feature holds.
PYTHON = [
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


C = [
  ("inside quotes", "c = '\\'' + \"a'//\\\"b\" + L'x'", "    ^^^    ^^^^^^^^     ^^ "),
  ("inside quotes", '1\'000 can\'t "ab\n"c\\\nd"', "            ^^^ ^^^^^ "),
  ("inside a comment", "a / b // c\\\n'd\n# e", "       ^^^^^^^    "),
  ("inside a comment", "/*/ ' // *// b", " ^^^^^^^^^     "),
  ("inside a comment", '#a "/*" /* b', "         ^^^"),
  ("inside a directive", "#if a\\\n  b\nc # d\n  #e", "^^^^^^^^^^         ^^"),
  ("inside brackets", "f(a[0]) { b }", " ^^^^^       "),
  ("inside a number", "x1 = 0x1F", "     ^^^^"),
]
LATEX = [
  ("inside a comment", "a \\% b % \\% $c\nd \\\\% e", "       ^^^^^^^     ^^^"),
  ("inside math", "\\$5 $a\\$b$ $$c$ d$$ e", "    ^^^^^  ^^^^^^^   "),
  ("inside math", "\\(a\\) \\[b\\] \\\\[1pt]", " ^^^   ^^^         "),
  ("inside math", "$a\n\nb $c$", "^^^   ^^ "),
  ("inside displayed math", "$a$ $$b$$ \\[c\\]", "     ^^^   ^^^ "),
  ("inside math", "\\begin{align*}$\\end{align*}$", " " * 13 + "^" * 13 + " ^"),
  ("inside math", "\\begin{verbatim}$%\\end{verbatim}$", " " * 32 + "^"),
  ("inside math", "\\verb|$%| $", " " * 10 + "^"),
  ("environment depth", "\\begin{a}b\\end{a}", "        ^^^^^^^^ "),
  ("inside a command", "\\ab1 \\,c", "^^^  ^^ "),
  ("inside braces", "\\{ a{b{c}}d", "    ^^^^^ "),
]
ENGLISH = [
  ("inside quotes", "don't the dogs' 'tis", ""),
  ("inside quotes", 'a "b don\'t" 6" c', "  ^^^^^^^^     "),
  ("inside quotes", "“a ‘don’t,’ b” c’s", "^^^^^^^^^^^^^     "),
  ("inside quotes", "‘dogs’ ’tis ‘’tis.’ it’s", "^^^^^^      ^^^^^^      "),
  ("inside quotes", "“a\nb\n \nc “d”", "^^^^^^   ^^ "),
  ("inside parentheses", "(a [b] c) d)", "^^^^^^^^    "),
  ("inside a word", "It's O’Neil, 42", "^^^^ ^^^^^^    "),
  ("inside a capitalized word", "It's o’Neil, 42", "^^^^           "),
  ("inside a number", "It's o’Neil, 42", "             ^^"),
]
MARKED = [
  (language, *marked)
  for language, all_marked in zip(
    ("python", "c", "latex", "english"), (PYTHON, C, LATEX, ENGLISH), strict=True
  )
  for marked in all_marked
]


@pytest.mark.parametrize(("language", "feature", "text", "marks"), MARKED)
def test_features_are_nonzero_exactly_at_the_marked_characters(language, feature, text, marks):
  got = text_features(list(text), language)[feature]
  assert "".join("^" if value else " " for value in got) == marks.ljust(len(text))[: len(text)]


def test_position_depth_and_indentation():
  text = "a\n  (b\n\t[\n"
  got = text_features(list(text), "python")
  np.testing.assert_array_equal(80 * got["position in the line"], [1, 0, 1, 2, 3, 4, 0, 1, 2, 0])
  np.testing.assert_array_equal(4 * got["indentation"], [0, 0, 1, 2, 2, 2, 0, 4, 4, 0])
  np.testing.assert_array_equal(got["bracket depth"], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
  assert text_features(["a"] * 100, "python")["position in the line"][-1] == 1


def test_pieces_of_several_characters_or_none():
  got = text_features(["print ", "( ", "' ", "a ", "' ", ") ", "\n"], "python")
  np.testing.assert_array_equal(got["inside brackets"], [0, 1, 1, 1, 1, 0, 0])
  np.testing.assert_array_equal(got["inside quotes"], [0, 0, 1, 1, 0, 0, 0])
  # A letter's bytes before the last one are empty pieces, which keep the features as they were.
  got = text_features(["", "é", "(", "", "é"], "python")
  np.testing.assert_array_equal(got["inside brackets"], [0, 0, 1, 1, 1])
  np.testing.assert_array_equal(80 * got["position in the line"], [0, 1, 2, 2, 3])


def test_spaces_after_the_punctuation_marks_of_a_word_model_are_ignored():
  got = text_features(["a ", "/ ", "/ ", "b ", "\n", "c "], "c")
  np.testing.assert_array_equal(got["inside a comment"], [0, 0, 1, 1, 0, 0])
  got = text_features(["\\ ", "begin ", "{ ", "align ", "} ", "\\ ", "% ", "$ "], "latex")
  np.testing.assert_array_equal(got["inside displayed math"], [0, 0, 0, 0, 1, 1, 1, 1])
  got = text_features(["don ", "’ ", "t ", "“ ", "a ", ". ", "” ", '" ', "b ", '" '], "english")
  np.testing.assert_array_equal(got["inside quotes"], [0, 0, 0, 1, 1, 1, 0, 1, 1, 0])


@pytest.mark.parametrize("language", LANGUAGES)
def test_carriage_returns_and_combining_marks_change_nothing(language):
  text = "a'b' # \"c\\\n\n“a\nb // c\\\n$d\n\ne{(f\n\t#g"
  odd = text.replace("\n", "\r\n").replace("b", "b\u0301")
  got, expected = text_features(list(odd), language), text_features(list(text), language)
  kept = [i for i, c in enumerate(odd) if c not in "\r\u0301"]
  for name, values in expected.items():
    np.testing.assert_array_equal(got[name][kept], values, err_msg=name)


@pytest.mark.parametrize("language", LANGUAGES)
def test_any_text_is_accepted(language):
  rng = np.random.default_rng(0)
  for size in (0, 1, 5, 300):
    text = rng.choice(list("a1 _.'\"\\#()[]{}\n\t\r\0é</*%$“”‘’\u202e\udcff"), size)
    got = text_features(list(text), language)
    assert tuple(got) == tuple(LANGUAGES[language].legends)
    for values in got.values():
      assert values.shape == (size,) and np.isfinite(values).all() and (values >= 0).all()
