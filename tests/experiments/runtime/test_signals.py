"""Tests of the signal handler that records requests to stop."""

from __future__ import annotations

import signal

import pytest

from experiments.runtime import signals


def test_a_signal_requests_a_stop_though_the_terminal_is_closed(monkeypatch):
  with open("/dev/full", "w") as full:
    monkeypatch.setattr(signals.sys, "stderr", full)
    with signals.caught() as stop:
      signal.raise_signal(signal.SIGTERM)
  assert stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_requests_a_stop_and_prints_what_follows(number, capfd):
  before = signal.getsignal(number)
  with signals.caught() as stop:
    assert not stop()
    signal.raise_signal(number)
    assert stop() and stop.number == number
  assert signal.getsignal(number) is before
  assert capfd.readouterr().err == (
    "\nFinishing the current batch of steps, then checkpointing. Press Ctrl-C again to quit "
    "immediately.\n"
  )
