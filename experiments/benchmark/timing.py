"""How times are taken: interleaved rounds, and the limit that dependent products set."""

from __future__ import annotations

import functools
import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.candidates import NUM_GATES, Row, compiled
from rnn_jax.types import Array

_ROUNDS = 4
_SLOW = 0.1  # s: from here on a call outlasts what came before it
_TOO_LONG = 8.0  # s
_PIECE = 0.15  # s for one product or chain of the dependency limit


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
  """Seconds of one call, and what it returned."""
  start = time.perf_counter()
  result = call()
  return time.perf_counter() - start, result


def interleave(calls: Mapping[Any, Callable[[], Any]], budget: float) -> dict[Any, list[float]]:
  """Times candidates in turn, in another order each round, so that a disturbance meets all.

  A turn is calls for an equal share of the budget, one at least. The first third of a fast
  candidate's calls is not timed: what ran before has left its threads spinning and its data in the
  caches. The slower the candidates, the fewer the rounds, from four down to one; where a call of
  each takes more than 8 s together, that is all.

  Args:
    calls: by name; each blocks until it is done, and was called before.
    budget: seconds for all together, more where one round takes longer.
  Returns:
    Seconds of each call, by name.
  """
  turn = budget / (_ROUNDS * len(calls))
  typical = {name: clock(call)[0] for name, call in calls.items()}
  seconds = {name: [typical[name]] if typical[name] > turn else [] for name in calls}
  total = sum(typical.values())
  rounds = 0 if total > _TOO_LONG else max(1, min(_ROUNDS, round(budget / total)))
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


def fastest(calls: Sequence[Callable[[], Any]], budget: float = _PIECE) -> float:
  """Seconds of the fastest call of all, each called for about `budget` seconds."""
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
  """What products and their order alone take: seconds of forward, and of forward and backward.

    forward   xs W_x + T · (h ← h U)
    backward  the gradients of W_x and U, of xs in layers above the first, + T · (g ← g Uᵀ)

  Every product has its exact shape and the best library that is there; nothing elementwise counts.
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
  """Seconds of [rows, inner] × [inner, columns], an operand given as its transpose."""
  left = _normal(inner, rows) if transposed == "left" else _normal(rows, inner)
  right = _normal(columns, inner) if transposed == "right" else _normal(inner, columns)

  def product(a: Any, b: Any) -> Any:
    return (a.T if transposed == "left" else a) @ (b.T if transposed == "right" else b)

  a, b = jnp.asarray(left), jnp.asarray(right)
  executable, _, _ = compiled(product, a, b)
  calls: list[Callable[[], Any]] = [lambda: jax.block_until_ready(executable(a, b))]
  if torch_is_installed():
    from experiments.benchmark import torch_peers

    calls.append(torch_peers.product(product, left, right))
  return fastest(calls)


@functools.cache
def _chain(steps: int, batch: int, hidden: int, wide: int, backward: bool = False) -> float:
  """Seconds of `steps` products of which each needs the one before.

  Forward h ← (h U)[:, :H] with U [H, G·H]; backward g ← [g Uᵀ, 0, …] with g [B, G·H].
  """
  # Orthogonal, so that the numbers neither vanish nor explode.
  square = np.linalg.qr(_normal(hidden, hidden).astype(float))[0].astype(np.float32)
  kernel = np.tile(square, (1, wide // hidden))
  start = _normal(batch, hidden)

  def forward_step(h: Array, u: Array) -> Array:
    # The barrier keeps XLA from making the columns only that are kept.
    return jax.lax.optimization_barrier(h @ u)[:, :hidden]

  def backward_step(g: Array, u: Array) -> Array:
    return g.at[:, :hidden].set(g @ u.T)

  step = backward_step if backward else forward_step
  if backward:
    start = np.concatenate([start, np.zeros((batch, wide - hidden), np.float32)], axis=1)

  def chain(unroll: int) -> Callable[[], Any]:
    def run(h: Array, u: Array) -> Array:
      return jax.lax.scan(lambda h, _: (step(h, u), None), h, length=steps, unroll=unroll)[0]

    h, u = jnp.asarray(start), jnp.asarray(kernel)
    executable, _, _ = compiled(run, h, u)
    return lambda: jax.block_until_ready(executable(h, u))

  calls = [chain(unroll) for unroll in (1, 4, 8)]
  if torch_is_installed():
    from experiments.benchmark import torch_peers

    calls.append(torch_peers.chain(steps, start, kernel, backward))
  return fastest(calls, 3 * _PIECE)


def torch_is_installed() -> bool:
  """Whether torch can be imported."""
  return importlib.util.find_spec("torch") is not None


def _normal(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).standard_normal(shape, np.float32)
