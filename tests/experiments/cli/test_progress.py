from __future__ import annotations

import io

from rich.console import Console

from experiments.cli import progress


def test_without_a_terminal_progress_is_plain_lines(capsys):
  with progress.show(36, 6, Console(file=io.StringIO(), force_terminal=False)) as report:
    report("gru, depth 2: compiling", 6, None)
    report("gru, depth 2", 6.5, 2.5)
    report("gru, depth 2", 6.6, 2.4)  # prints nothing: too soon after the line before
    report("lstm, depth 1", 8.0, 2.25)
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(": ")[0] for line in lines] == [
    "gru, depth 2",
    "gru, depth 2",
    "lstm, depth 1",
  ]
  assert "6/36 runs, loss -" in lines[0]
  assert "8/36 runs, loss 2.25" in lines[2]
  assert "runs/s" in lines[2] and "s left" in lines[2]


def test_on_a_terminal_progress_is_a_live_bar():
  screen = io.StringIO()
  console = Console(file=screen, force_terminal=True, width=120)
  with progress.show(4, 0, console) as report:
    report("gru, depth 2", 1.5, 2.5)
  assert "1/4 runs, loss 2.5" in screen.getvalue()
  assert "gru, depth 2" in screen.getvalue()
