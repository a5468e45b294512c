"""Times of our implementation of every cell; other libraries have few of these cells."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

import rnn_jax
from experiments.benchmark import timing
from experiments.benchmark.cases import FORWARD, GRADIENT, NORMS, Program, Row, Shape, program
from experiments.benchmark.targets import Measurement
from rnn_jax.cells import CELLS, make_cell
from rnn_jax.types import Array, Params

SHAPE = Shape(32, 128, 128, 128)
_SECONDS = {FORWARD: 8.0, GRADIENT: 16.0, NORMS: 16.0}  # budget for all cells together


def measure_cells(shape: Shape = SHAPE) -> Iterator[Measurement]:
  """Times one layer of every cell, interleaved.

  Cells with a linear recurrence are timed with both methods of `unroll`.

  Yields:
    Measurements in the order of CELLS. Their `implementation` is the argument `method` of `unroll`:
    `loop` or `associative`.
  """
  programs: dict[tuple[str, str, str], Program] = {}
  for name in CELLS:
    for method in ("loop", "associative"):
      if method == "loop" or make_cell(name, shape.hidden).linear is not None:
        for measure, compiled in _programs(name, method, shape).items():
          programs[name, method, measure] = compiled
          compiled.call()
  times: dict[tuple[str, str, str], list[float]] = {}
  for measure, seconds in _SECONDS.items():
    calls = {key: p.call for key, p in programs.items() if key[2] == measure}
    times |= timing.interleave(calls, seconds)
  for (name, method, measure), p in programs.items():
    row, seconds_of = Row(name, shape, 1), times[name, method, measure]
    yield Measurement(row, method, measure, seconds_of, p.compile_seconds, p.temporaries)


def _programs(name: str, method: str, shape: Shape) -> dict[str, Program]:
  """Compiles one layer's programs: forward, gradient of mean(y²), gradient with ‖dL/dh_t‖."""
  cell = make_cell(name, shape.hidden)
  params = cell.init(jax.random.key(0), shape.inputs)
  xs = jax.random.normal(jax.random.key(1), (shape.steps, shape.batch, shape.inputs))
  run = functools.partial(rnn_jax.unroll, cell, method=method)

  def forward(params: Params, xs: Float[Array, "T B D"]) -> Float[Array, "T B H"]:
    return run(params, xs)[1]

  def loss(params: Params, probe: PyTree, xs: Float[Array, "T B D"]) -> Float[Array, ""]:
    return jnp.mean(run(params, xs, probe=probe)[1] ** 2)

  def gradient(params: Params, xs: Float[Array, "T B D"]) -> PyTree:
    return jax.value_and_grad(loss)(params, None, xs)

  def norms(params: Params, xs: Float[Array, "T B D"]) -> PyTree:
    probe = rnn_jax.gradient_probe(cell, shape.steps, shape.batch)
    return jax.value_and_grad(loss, argnums=(0, 1))(params, probe, xs)

  functions = {FORWARD: forward, GRADIENT: gradient, NORMS: norms}
  return {measure: program(function, params, xs) for measure, function in functions.items()}
