"""Tests of the signal handler that records requests to stop."""

from __future__ import annotations

import signal

import pytest

from experiments.runtime import signals


def test_a_signal_requests_a_stop_even_if_the_terminal_is_closed(monkeypatch):
  with open("/dev/full", "w") as full:
    monkeypatch.setattr(signals.sys, "stderr", full)
    with signals.caught() as stop:
      signal.raise_signal(signal.SIGTERM)
  assert stop()


def test_an_ignored_signal_stays_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with signals.caught() as stop:
      signal.raise_signal(signal.SIGINT)
    assert not stop()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


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
