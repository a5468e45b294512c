"""Interleaved timing of several programs, and the dependency limit of stacked layers.

The dependency limit is the time that the layers' matrix products alone take, in the order that the
recurrence requires.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.benchmark.cases import NUM_GATES, Row, compiled
from rnn_jax.types import Array

_ROUNDS = 4  # largest number of rounds
_SLOW = 0.1  # seconds; programs that take longer need no untimed warm-up
_TOO_LONG = 8.0  # seconds; if one call of each program takes longer, no more calls follow
# Seconds for timing each matrix product of the dependency limit; a chain of products is timed three
# times as long.
_PIECE = 0.15


Name = TypeVar("Name", bound=Hashable)
T = TypeVar("T")


def clock(call: Callable[[], T]) -> tuple[float, T]:
  """Returns the seconds that one call took, and its result."""
  start = time.perf_counter()
  result = call()
  return time.perf_counter() - start, result


def interleave(
  calls: Mapping[Name, Callable[[], object]], budget: float
) -> dict[Name, list[float]]:
  """Times several programs in turn, so that disturbances of the machine affect all of them.

  Every round calls the programs in a new random order, each for an equal share of the budget, at
  least once. The first third of a fast program's calls is not timed, because the previous program
  leaves its threads spinning and its data in the caches. There are four rounds, or fewer if the
  programs are slow. If one call of each program takes more than 8 s in total, these calls are the
  only ones.

  Args:
    calls: the programs by name. A call must return only when its computation is done. Each program
      must have been called once before.
    budget: seconds for all programs together; exceeded if a single round takes longer.
  Returns:
    The seconds of each timed call, by name.
  """
  turn = budget / (_ROUNDS * len(calls))
  typical = {name: clock(call)[0] for name, call in calls.items()}
  total = sum(typical.values())
  rounds = 0 if total > _TOO_LONG else max(1, min(_ROUNDS, round(budget / total)))
  kept = {name: rounds == 0 or seconds > turn for name, seconds in typical.items()}
  seconds = {name: [typical[name]] if kept[name] else [] for name in calls}
  random = np.random.default_rng(0)
  for _ in range(rounds):
    for i in random.permutation(len(calls)):
      name, call = list(calls.items())[i]
      repeats = max(1, round(turn / typical[name]))
      untimed = math.ceil(repeats / 3) if typical[name] < _SLOW else 0
      for _ in range(untimed):
        call()
      seconds[name] += [clock(call)[0] for _ in range(max(1, repeats - untimed))]
  return seconds


def fastest(calls: Sequence[Callable[[], object]], budget: float) -> float:
  """Returns the seconds of the fastest of all calls.

  Each function in `calls` is called repeatedly; `budget` is the number of seconds for all of them.
  """
  best = math.inf
  for call in calls:
    call()
    end = time.perf_counter() + budget / len(calls)
    while True:
      best = min(best, clock(call)[0])
      if time.perf_counter() > end:
        break
  return best


def dependency_limit(row: Row) -> tuple[float, float]:
  """Returns the seconds of a row's matrix products: forward pass, and forward and backward pass.

    forward   xs W_x, then T times h ← h U
    backward  T times g ← g Uᵀ, the gradients of W_x and U, and above the first layer that of xs

  Each product has the shape that it has in the layer, and runs in the faster of XLA and torch.
  Elementwise operations count as free.
  """
  batch, steps, _, hidden = row.shape
  tokens, wide = steps * batch, NUM_GATES[row.cell] * hidden
  forward = backward = 0.0
  for i, inputs in enumerate(row.input_sizes):
    forward += _product(tokens, inputs, wide) + _chain(steps, batch, hidden, wide)
    backward += _product(inputs, tokens, wide, "left") + _product(hidden, tokens, wide, "left")
    backward += _chain(steps, batch, hidden, wide, backward=True)
    if i > 0:
      backward += _product(tokens, wide, inputs, "right")
  return forward, forward + backward


@functools.cache
def _product(rows: int, inner: int, columns: int, transposed: str = "") -> float:
  """Returns the seconds of the matrix product [rows, inner] × [inner, columns].

  `transposed` names the operand that is stored as its transpose: `left`, `right`, or '' for none.
  """
  left = _normal(inner, rows) if transposed == "left" else _normal(rows, inner)
  right = _normal(columns, inner) if transposed == "right" else _normal(inner, columns)

  def product(a: Any, b: Any) -> Any:  # a and b are matrices of JAX or torch
    return (a.T if transposed == "left" else a) @ (b.T if transposed == "right" else b)

  a, b = jnp.asarray(left), jnp.asarray(right)
  executable, _, _ = compiled(product, a, b)
  calls: list[Callable[[], object]] = [lambda: jax.block_until_ready(executable(a, b))]
  if torch_is_installed():
    from experiments.benchmark import torch_baselines

    calls.append(torch_baselines.product(product, left, right))
  return fastest(calls, _PIECE)


@functools.cache
def _chain(steps: int, batch: int, hidden: int, wide: int, backward: bool = False) -> float:
  """Returns the seconds of `steps` matrix products, each of which needs the previous result.

    forward   h ← (h U)[:, :H], where h is [B, H] and U is [H, G·H]
    backward  g ← [g Uᵀ, 0, …], where g is [B, G·H]

  `wide` is G·H.
  """
  # Each gate's block of the kernel is orthogonal, so that the values neither vanish nor explode.
  square = np.linalg.qr(_normal(hidden, hidden).astype(float))[0].astype(np.float32)
  kernel = np.tile(square, (1, wide // hidden))
  start = _normal(batch, hidden)

  def forward_step(h: Float[Array, "B H"], u: Float[Array, "H GH"]) -> Float[Array, "B H"]:
    # Without the barrier, XLA would compute only the columns that are kept.
    return jax.lax.optimization_barrier(h @ u)[:, :hidden]

  def backward_step(g: Float[Array, "B GH"], u: Float[Array, "H GH"]) -> Float[Array, "B GH"]:
    return g.at[:, :hidden].set(g @ u.T)

  step = backward_step if backward else forward_step
  if backward:
    start = np.concatenate([start, np.zeros((batch, wide - hidden), np.float32)], axis=1)

  def chain(unroll: int) -> Callable[[], object]:
    def run(h: Float[Array, "B W"], u: Float[Array, "H GH"]) -> Float[Array, "B W"]:
      return jax.lax.scan(lambda h, _: (step(h, u), None), h, length=steps, unroll=unroll)[0]

    h, u = jnp.asarray(start), jnp.asarray(kernel)
    executable, _, _ = compiled(run, h, u)
    return lambda: jax.block_until_ready(executable(h, u))

  calls = [chain(unroll) for unroll in (1, 4, 8)]
  if torch_is_installed():
    from experiments.benchmark import torch_baselines

    calls.append(torch_baselines.chain(steps, start, kernel, backward))
  return fastest(calls, 3 * _PIECE)


def torch_is_installed() -> bool:
  """Returns whether torch is installed."""
  return importlib.util.find_spec("torch") is not None


def _normal(rows: int, columns: int) -> Float[np.ndarray, "{rows} {columns}"]:
  return np.random.default_rng(0).standard_normal((rows, columns), np.float32)
