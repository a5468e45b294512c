"""Tests of flags that are defined by a table."""

from __future__ import annotations

import functools

import pytest
from absl import flags

from experiments.cli import flag_table, parsers
from experiments.cli.flag_table import Flag

TABLE = (
  Flag("steps", "1", parsers.integer("steps"), "Steps."),
  Flag("sizes", "none", parsers.sizes("sizes"), "Sizes.", "list"),
  Flag("dry", "false", None, "Dry."),
  Flag("name", None, str, "Name."),
)
AXES = (
  Flag("cell", "gru", parsers.choice("cell", ["gru", "lstm"]), "Cell.", "axis"),
  Flag("seed", "0", parsers.integer("seed", minimum=0), "Seed.", "axis"),
)
NO_AXES = "This command has no axes; experiments.sweep trains with each of several values."


@pytest.fixture
def parsed(monkeypatch):
  """Returns a function: (table, arguments) -> parsed flags."""
  define = flags.DEFINE

  def parse(table, *arguments):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(flags, "DEFINE", functools.partial(define, flag_values=values))
    flag_table.define(table)
    values(["program", *arguments])
    return values

  return parse


def test_flags_have_the_values_of_their_kind(parsed):
  values = parsed(TABLE + AXES, "--sizes=3,3", "--cell=lstm,gru", "--dry")
  assert (values.steps, values.sizes, values.dry, values.name) == (1, (3, 3), True, None)
  assert (values.cell, values.seed) == (("lstm", "gru"), (0,))
  assert parsed(TABLE, "--dry", "--nodry", "--name=a,b").dry is False


@pytest.mark.parametrize(
  ("table", "argument", "message"),
  [
    (
      TABLE,
      "--steps=1,2",
      f"steps must be one value, since it is not an axis, got '1,2'. {NO_AXES}",
    ),
    (
      TABLE,
      "--dry=true,false",
      f"dry must be one value, since it is not an axis, got 'true,false'. {NO_AXES}",
    ),
    (
      TABLE,
      "--steps=1..3",
      f"steps must be one value, since it is not an axis, got '1..3'. {NO_AXES}",
    ),
    (
      TABLE + AXES,
      "--steps=1, 2",
      "steps must be one value, since it is not an axis, got '1, 2'. The axes, which take several, "
      "are cell, seed.",
    ),
    (TABLE, "--dry= true", "dry must be true or false, got ' true'."),
    (TABLE + AXES, "--steps=1,x", "steps must be an integer from 1 to 2147483647, got '1,x'."),
    (TABLE, "--sizes=3,none", "sizes must be an integer from 1 to 2147483647, got 'none'."),
    (TABLE + AXES, "--cell=gru,x", "Unknown cell 'x'. Choose one of: gru, lstm."),
  ],
)
def test_a_comma_list_where_there_is_no_axis_names_the_axes(table, argument, message, parsed):
  with pytest.raises(flags.IllegalFlagValueError) as error:
    parsed(table, argument)
  assert str(error.value) == f"flag {argument}: {message}"
