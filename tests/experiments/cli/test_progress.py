"""Tests of the display of training progress."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from experiments.cli import progress

GRU, LSTM = "gru, depth 2", "lstm, depth 1"


@pytest.fixture
def clock(monkeypatch):
  """Replaces the clock; returns a list that holds the time in seconds."""
  now = [1000.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  return now


def plain():
  return Console(file=io.StringIO(), force_terminal=False)


def test_without_a_terminal_progress_is_plain_lines(capsys, clock):
  with progress.show(36, 6, plain()) as report:
    report("compiling", 6, None, GRU)
    report("training", 6.5, 2.5, GRU)
    report("training", 6.6, 2.4, GRU)  # prints nothing: too soon after the line before
    clock[0] += 6
    report("training", 8.6, None, GRU)
    report("training", 9.0, 2.25, LSTM)
  assert capsys.readouterr().out.splitlines() == [
    "gru, depth 2: compiling: 6/36 runs, loss -, ? left",
    "gru, depth 2: 6/36 runs, loss 2.5, ? left",
    "gru, depth 2: 8/36 runs, loss 2.4, 0.35 runs/s, 0:01:18 of training left",
    "lstm, depth 1: 9/36 runs, loss 2.25, 0.417 runs/s, 0:01:05 of training left",
  ]


def test_the_time_left_is_estimated_from_training_alone(capsys, clock):
  def after(seconds, *reported):
    clock[0] += seconds
    report(*reported)
    return capsys.readouterr().out.rstrip().split(", ")[-1]

  with progress.show(100, 0, plain(), unit="updates") as report:
    assert after(0, "compiling", 0, None, GRU) == "? left"
    assert after(300, "training", 0, None, GRU) == "? left"  # 300 s of compilation
    assert (
      after(10, "training", 5, 1.0, GRU) == "0:03:10 of training left"
    )  # 0.5 updates per second
    assert after(10, "compiling", 5, None, LSTM) == "0:03:10 of training left"
    assert after(300, "resuming", 45, None, LSTM) == "0:01:50 of training left"
    assert after(1, "training", 45, None, LSTM) == "0:01:50 of training left"
    assert after(80, "training", 46, 1.0, LSTM) == "0:13:30 of training left"  # 6 updates in 90 s
  with progress.show(10**6, 0, plain()) as report:
    after(0, "training", 0, None, GRU)
    assert after(1, "training", 1, None, LSTM) == "277:46:39 of training left"


def test_on_a_terminal_progress_is_a_live_bar():
  screen = io.StringIO()
  console = Console(file=screen, force_terminal=True, width=120)
  with progress.show(4, 0, console) as report:
    report("training", 1.5, 2.5, GRU)
  assert "1/4 runs, loss 2.5" in screen.getvalue()
  assert GRU in screen.getvalue()
