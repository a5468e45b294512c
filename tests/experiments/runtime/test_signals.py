"""Tests of the signal handler that records requests to stop."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

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


def test_a_second_signal_can_be_left_to_the_handler_from_before(capfd):
  with pytest.raises(KeyboardInterrupt), signals.caught(quits=False) as stop:
    signal.raise_signal(signal.SIGINT)
    assert stop()
    signal.raise_signal(signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_thread_catches_no_signals():
  def stops():
    with signals.caught() as stop:
      return stop()

  with ThreadPoolExecutor(1) as thread:
    assert thread.submit(stops).result() is False
