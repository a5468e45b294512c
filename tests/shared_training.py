"""A run that is trained by several devices, each of which computes a share of every batch.

Run as a program, this file is one of two processes that train such a run together. The program also
tests `experiments.runtime.hosts`.
"""

from __future__ import annotations

import functools
import os
import pickle
import signal
from pathlib import Path

import jax
import numpy as np
from training_problem import MODEL, batch_of, start

from experiments.cli import command_line, flag_table
from experiments.runtime import hosts
from experiments.sweep.config import engine_flags
from rnn_jax.losses import squared_error
from rnn_jax.optimizers import make_optimizer
from rnn_jax.parallel import fetch, map_runs, psum, shard, spread
from rnn_jax.training import update

OPTIMIZER = make_optimizer("adam", 0.1, 0.1)


def trained(devices):
  """Trains a run in two calls of the compiled program, with three updates each.

  Args:
    devices: the devices that share each batch.
  Returns:
    (state, metrics) after each call, leaves [devices of this process, ...].
  """
  count = len(devices)
  total = functools.partial(psum, count=count)

  def train(rate, state, batches):
    def body(state, batch):
      batch = shard(batch._replace(xs=rate * batch.xs), count)
      state, _, metrics = update(MODEL, OPTIMIZER, squared_error, state, batch, psum=total)
      return state, metrics

    return jax.lax.scan(body, state, batches)

  batches = [batch_of(batch_size=8, seed=seed) for seed in range(6)]
  halves = [jax.tree.map(lambda *a: np.stack(a), *batches[i : i + 3]) for i in (0, 3)]
  state = jax.tree.map(lambda a: np.stack([a] * count), start(OPTIMIZER))
  rate, state = spread((np.full(count, 0.5, batches[0].xs.dtype), state), devices)
  program = map_runs(train, devices).lower(rate, state, halves[0]).compile()
  state, first = program(rate, state, halves[0])
  # Wait for the first call's results, because devices that share a batch may deadlock if two calls
  # are in flight.
  first = fetch(first)
  return first, fetch(program(rate, state, halves[1]))


def main(arguments):
  with hosts.joined(engine_flags.processes()):
    here, devices = jax.process_index(), jax.devices()
    one_each = [jax.local_devices(i)[0] for i in range(2)]
    results = trained(one_each), trained(devices)

    value = {"a": np.array([-0.0, np.nan, 1e-45]), "b": ("text", None, here)}
    got = hosts.broadcast(value)
    assert got["a"].tobytes() == value["a"].tobytes() and got["b"] == ("text", None, 0)
    assert hosts.by_writer(lambda: here) == 0
    try:
      hosts.by_writer(Path(f"/{here}/nowhere").read_text)
    except (FileNotFoundError, ValueError) as error:
      assert isinstance(error, ValueError) == (here == 1) and "/0/nowhere" in str(error)
    else:
      raise AssertionError
    assert not hosts.any_of(False) and hosts.any_of(here == 1)
    assert hosts.is_writer() == (here == 0)
    Path(arguments[0]).write_bytes(pickle.dumps(results))
    if hosts.any_of(True) and here == 0:
      os.kill(os.getpid(), signal.SIGKILL)
    while True:
      hosts.any_of(False)


if __name__ == "__main__":
  flag_table.define(engine_flags.PROCESSES)
  command_line.run(main)
