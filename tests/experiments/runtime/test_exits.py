"""Tests of messages: each is one line that a terminal shows as it is."""

from __future__ import annotations

import pytest

from experiments.runtime import exits


def test_control_characters_are_escaped_in_messages(capsys):
  hostile = "é \x1b]0;title\x07\x9b2J\u202e\udcff\nnext"
  shown = r"é \x1b]0;title\x07\x9b2J\u202e\udcff next"
  exits.warn(hostile)
  with pytest.raises(SystemExit):
    exits.fail(hostile)
  assert capsys.readouterr().err == f"warning: {shown}\nerror: {shown}\n"


def test_an_unwritable_standard_error_is_ignored(monkeypatch):
  with open("/dev/full", "w") as full:
    monkeypatch.setattr(exits.sys, "stderr", full)
    exits.warn("said to nobody")
    with pytest.raises(SystemExit) as ended:
      exits.fail("nor this")
  assert ended.value.code == 2
