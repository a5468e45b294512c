"""The reference sweep written as plain training loops in PyTorch and Flax.

The reference sweep is defined by `flagfiles/gradient_decay.flags`. As in our sweep, each core
trains one run at a time; here, each core has a process with a single thread.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

FLAGFILE = Path(__file__).parents[1] / "flagfiles" / "gradient_decay.flags"


class Run(NamedTuple):
  """The settings of one training run of the sweep.

  Attributes:
    cell: elman, gru or lstm.
    depth: number of layers.
    truncation: number of steps after which the gradient is cut; None for full backpropagation.
    seed: seed of the params and batches.
    steps: number of training steps.
    log_every: number of training steps between records of gradient norms.
  """

  cell: str
  depth: int
  truncation: int | None
  seed: int
  steps: int
  log_every: int


def settings() -> dict[str, str]:
  """Returns the values of the reference sweep's flags as text, by name."""
  lines = FLAGFILE.read_text(encoding="utf-8").splitlines()
  return dict(line.removeprefix("--").split("=", 1) for line in lines if line.startswith("--"))


def runs(steps: int, log_every: int) -> list[Run]:
  """Returns the runs of the reference sweep, with `steps` training steps each."""
  axes = (settings()[name].split(",") for name in ("cell", "depth", "truncation", "seed"))
  return [
    Run(cell, int(depth), None if k == "full" else int(k), int(seed), steps, log_every)
    for cell, depth, k, seed in itertools.product(*axes)
  ]


def seconds(train: Callable[[Run], None], runs: Sequence[Run], processes: int) -> list[float]:
  """Trains all runs with `train`, in a pool of `processes` processes.

  Returns:
    The seconds until all processes are ready to train, and the seconds of training.
  """
  start = time.perf_counter()
  context = multiprocessing.get_context("spawn")
  with ProcessPoolExecutor(processes, context, initializer=_one_thread) as pool:
    for future in [pool.submit(_get_ready, train) for _ in range(processes)]:
      future.result()
    ready = time.perf_counter()
    for future in [pool.submit(train, run) for run in runs]:
      future.result()
    return [ready - start, time.perf_counter() - ready]


def _one_thread() -> None:
  """Limits every library to one thread. Must run before the library is imported."""
  os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
  os.environ["OMP_NUM_THREADS"] = "1"


def _get_ready(train: Callable[[Run], None]) -> None:
  """Imports what `train` needs, so that training starts at once.

  The pool is given as many calls of this function as it has processes. Each call sleeps before it
  returns, so that its process is still busy when the pool assigns the other calls.
  """
  if train is train_torch:
    import torch

    torch.set_num_threads(1)
  else:
    import flax.linen  # noqa: F401
    import optax  # noqa: F401
  _text()
  time.sleep(0.2)


@functools.cache
def _text() -> tuple[np.ndarray, int]:
  """Returns the corpus as token indices [N], and the size of its vocabulary."""
  from rnn_jax.text import STANDARD_LIBRARY, load_corpus

  corpus = load_corpus(settings().get("corpus", STANDARD_LIBRARY))
  return corpus.tokens.astype(np.int64), corpus.vocabulary.size


def _batch(random: np.random.Generator) -> np.ndarray:
  """Returns random pieces of the corpus as token indices [T + 1, B].

  The first T tokens are inputs; the target of each is the token after it.
  """
  tokens, _ = _text()
  length, batch = (int(settings()[name]) for name in ("sequence_length", "batch_size"))
  starts = random.integers(0, len(tokens) - length - 1, batch)
  return tokens[starts[None, :] + np.arange(length + 1)[:, None]]


def train_torch(run: Run) -> None:
  """Trains a run in torch.

  Most steps call torch's fused layers on chunks of `truncation` time steps. Steps that record
  gradient norms use a Python loop over time, which retains the gradient of each hidden state.
  """
  import torch
  from torch import nn

  from experiments.benchmark import torch_layers  # its docstring says why it is imported here

  torch.manual_seed(run.seed)
  random = np.random.default_rng(run.seed)
  hidden, (_, vocabulary) = int(settings()["hidden_size"]), _text()
  rnn = torch_layers.RNNS[run.cell](vocabulary, hidden, run.depth)
  head = nn.Linear(hidden, vocabulary)
  params = [p for name, p in rnn.named_parameters() if not name.startswith("bias_hh")]
  for name, parameter in rnn.named_parameters():
    if name.startswith("bias_hh"):
      # Other libraries have one bias per gate, so torch's second bias is zero and not trained.
      nn.init.zeros_(parameter)
  params += list(head.parameters())
  optimizer = torch.optim.Adam(params, lr=float(settings()["learning_rate"]), fused=True)

  for step in range(run.steps):
    tokens = torch.from_numpy(_batch(random))
    xs = nn.functional.one_hot(tokens[:-1], vocabulary).float()
    if step % run.log_every == 0:
      ys, states = torch_layers.truncated_loop(run.cell, rnn, xs, run.truncation)
    else:
      ys, states = torch_layers.truncated(rnn, xs, run.truncation), []
    loss = nn.functional.cross_entropy(head(ys).flatten(0, 1), tokens[1:].flatten())
    for p in params:
      p.grad = None
    loss.backward()
    for layer in states:
      torch_layers.norms_of(layer).log10().mean(dim=1).numpy()
    nn.utils.clip_grad_norm_(params, float(settings()["clip_norm"]))
    optimizer.step()


def train_linen(run: Run) -> None:
  """Trains a run with `flax.linen.RNN` in a jitted step, which is compiled anew for each run.

  Backpropagation is full, whatever the run's truncation, and no gradient norms are recorded.
  """
  import flax.linen as nn
  import jax
  import optax

  from rnn_jax.types import Array, Params

  random = np.random.default_rng(run.seed)
  hidden, (_, vocabulary) = int(settings()["hidden_size"]), _text()
  cells = {"elman": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
  layers = [nn.RNN(cells[run.cell](hidden), time_major=True) for _ in range(run.depth)]
  model = nn.Sequential([*layers, nn.Dense(vocabulary)])
  optimizer = optax.chain(
    optax.clip_by_global_norm(float(settings()["clip_norm"])),
    optax.adam(float(settings()["learning_rate"])),
  )

  def loss(params: Params, tokens: Array) -> Array:
    outputs = model.apply(params, jax.nn.one_hot(tokens[:-1], vocabulary))
    return optax.softmax_cross_entropy_with_integer_labels(outputs, tokens[1:]).mean()

  def update(
    state: tuple[Params, optax.OptState], tokens: Array
  ) -> tuple[tuple[Params, optax.OptState], Array]:
    params, opt_state = state
    value, grads = jax.value_and_grad(loss)(params, tokens)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), value

  tokens = _batch(random).astype(np.int32)
  one_hot = np.zeros((*tokens[:-1].shape, vocabulary), np.float32)
  params = jax.jit(model.init)(jax.random.key(run.seed), one_hot)
  state = params, optimizer.init(params)
  step = jax.jit(update, donate_argnums=0)
  for _ in range(run.steps):
    state, value = step(state, _batch(random).astype(np.int32))
  jax.block_until_ready((state, value))
