"""Time and memory of every gradient estimator, for short and for long sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key, PyTree

from experiments.benchmark import timing
from experiments.benchmark.cases import GRADIENT, Program, Row, Shape, program
from experiments.benchmark.targets import Measurement
from rnn_jax.cells import make_cell
from rnn_jax.estimators import make_estimator
from rnn_jax.types import Array, Params

# An Elman network, an LSTM, and a cell whose step Jacobian is diagonal.
CELLS = ("elman", "lstm", "indrnn")
ESTIMATORS = (
  *("bptt", "tbptt16", "artbp0.1", "h_detach0.25", "fptt"),
  *("rtrl", "snap1", "rflo", "uoro1", "kf_rtrl"),
)
SHAPES = (Shape(4, 64, 8, 16), Shape(4, 512, 8, 16))
_UNSUPPORTED = {("indrnn", "kf_rtrl")}  # kf_rtrl needs a plain recurrent kernel
_SECONDS = 20.0  # for timing all calls


def measure(
  cells: Sequence[str] = CELLS,
  estimators: Sequence[str] = ESTIMATORS,
  shapes: Sequence[Shape] = SHAPES,
) -> Iterator[Measurement]:
  """Times the gradient of mean(y²) of one layer by every estimator, interleaved.

  Yields:
    Measurements whose `implementation` is the estimator's name.
  """
  programs: dict[tuple[str, str, Shape], Program] = {}
  for cell in cells:
    for name in estimators:
      for shape in shapes:
        if (cell, name) not in _UNSUPPORTED:
          programs[cell, name, shape] = _program(cell, name, shape)
          programs[cell, name, shape].call()
  times = timing.interleave({key: p.call for key, p in programs.items()}, _SECONDS)
  for (cell, name, shape), p in programs.items():
    row, seconds = Row(cell, shape, 1), times[cell, name, shape]
    yield Measurement(row, name, GRADIENT, seconds, p.compile_seconds, p.temporaries)


def _program(cell_name: str, name: str, shape: Shape) -> Program:
  """Compiles the estimate of the gradient of mean(y²) with respect to the params."""
  cell, estimator = make_cell(cell_name, shape.hidden), make_estimator(name)
  params = cell.init(jax.random.key(0), shape.inputs)
  xs = jax.random.normal(jax.random.key(1), (shape.steps, shape.batch, shape.inputs))

  def gradient(params: Params, xs: Float[Array, "T B D"], key: Key[Array, ""]) -> PyTree:
    return estimator(cell, params, xs, lambda ys: jnp.mean(ys**2), key)

  return program(gradient, params, xs, jax.random.key(2))
