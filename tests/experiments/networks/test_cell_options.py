"""Tests of `--cell_option`: parsing it, and applying it to the selected cells."""

from __future__ import annotations

import math

import pytest

from experiments.networks.cell_options import (
  as_flags,
  by_cell,
  options_text,
  parse,
  value_of,
  value_text,
)
from rnn_jax.cells import CELLS, make_cell

WITH_OWN = ("recurrent_gain", "forget_bias")


@pytest.fixture
def clock(monkeypatch):
  """Registers a cell, `clock`, with one option of each type that a command line can hold."""

  def clock(hidden_size, *, modules=8, rate=0.5, masked=True, longest=None, order="up"):
    del modules, rate, masked, longest, order
    return make_cell("elman", hidden_size)

  monkeypatch.setitem(CELLS, "clock", clock)


@pytest.mark.parametrize(
  ("text", "value"),
  [
    *(("3", 3), ("-2", -2), ("0.5", 0.5), ("1e3", 1000.0)),
    *(("2147483647", 2**31 - 1), ("2147483648", 2.0**31), ("9" * 5000, math.inf)),
    *(("true", True), ("False", False), ("none", None), ("relu", "relu"), ("3x", "3x")),
  ],
)
def test_values_parse_to_their_type_and_back(text, value):
  found = value_of(text)
  assert found == value and type(found) is type(value)
  assert value_of(value_text(found)) == found


@pytest.mark.parametrize(
  "text", ["activation=tanh,relu", "clock.modules=4,8", "rate=0.1,0.2", "masked=true,false,none"]
)
def test_an_option_is_printed_as_it_was_parsed(text):
  assert str(parse(text)) == text


def test_an_option_applies_to_every_cell_that_accepts_it_or_to_one():
  given = [parse("recurrent_kernel=identity"), parse("elman.activation=relu,tanh")]
  found = by_cell(given, ("elman", "lstm", "gru"), WITH_OWN)
  kernel = {"recurrent_kernel": ("identity",)}
  assert found == {
    "elman": {"activation": ("relu", "tanh"), **kernel},
    "lstm": kernel,
    "gru": kernel,
  }
  assert list(found["elman"]) == ["activation", "recurrent_kernel"]


def test_none_is_a_string_if_the_default_is_one(clock):
  found = by_cell([parse("order=none"), parse("longest=none"), parse("masked=none")], ["clock"])
  assert found["clock"] == {"longest": (None,), "masked": (None,), "order": ("none",)}


def test_an_option_with_its_own_flag_is_refused():
  with pytest.raises(ValueError, match=r"its own flag, --recurrent_gain, got 'recurrent_gain"):
    by_cell([parse("recurrent_gain=2")], ["elman"], WITH_OWN)
  assert by_cell([parse("recurrent_gain=2")], ["elman"]) == {"elman": {"recurrent_gain": (2,)}}


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (
      ["activaton=relu"],
      "Unknown --cell_option 'activaton'; did you mean 'activation'? Choose one",
    ),
    (["gru.activation=relu"], "Unknown --cell_option of cell gru 'activation'. Choose one of:"),
    (
      ["lstm.forget=1"],
      "--cell_option must be for a selected cell, elman, gru, got 'lstm.forget=1'.",
    ),
    (["activation=relu", "activation=tanh"], "must not give activation of elman twice"),
    (["activation=relu", "elman.activation=tanh"], "again in 'elman.activation=tanh'"),
  ],
)
def test_an_option_that_no_selected_cell_accepts_is_refused(given, message):
  with pytest.raises(ValueError) as error:
    by_cell([parse(text) for text in given], ("elman", "gru"), WITH_OWN)
  assert message in str(error.value)


def test_an_option_for_cells_without_options_is_refused(monkeypatch):
  monkeypatch.setitem(CELLS, "bare", lambda hidden_size, *, forget_bias=1.0: None)
  with pytest.raises(ValueError, match=r"for cells with options, got 'x=1' for bare\."):
    by_cell([parse("x=1")], ["bare"], WITH_OWN)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("activation", "must be name=value or cell.name=value, got 'activation'."),
    ("=relu", "must be name=value"),
    ("a.b.c=1", "must be name=value"),
    (".c=1", "must be name=value"),
    ("activation=", "must be a comma list without empty entries, got 'activation='."),
    ("a=1,,2", "without empty entries"),
    ("a=1,1.0", "must not hold a value twice, got 1.0 in 'a=1,1.0'."),
  ],
)
def test_malformed_options_are_refused(text, message):
  with pytest.raises(ValueError) as error:
    parse(text)
  assert message in str(error.value)
  assert parse("a=1,true").values == (1, True)


def test_a_cell_with_options_is_printed_as_text_and_as_flags():
  options = (("activation", "relu"), ("masked", True))
  assert options_text(options) == "activation=relu, masked=true" and options_text(()) == ""
  flags = "--cell=elman --cell_option=activation=relu --cell_option=masked=true"
  assert as_flags("elman", options) == flags
