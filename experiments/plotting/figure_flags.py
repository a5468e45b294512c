"""Flags of the commands that draw figures for papers."""

from __future__ import annotations

from experiments.cli import parsers
from experiments.cli.flag_table import Flag
from experiments.plotting.style import FORMATS

WIDTH = Flag(
  "width",
  "auto",
  parsers.number("width", "a number from 2.5 to 40", lambda v: 2.5 <= v <= 40, none="auto"),
  "Width of the figures in inches, such as 3.25 for a column of a page; auto for the width that "
  "the panels need.",
)
FORMAT = Flag(
  "format",
  "png,svg",
  parsers.several("format", parsers.choice("format", FORMATS)),
  "Formats of the files, as a comma list of png, svg and pdf.",
)
