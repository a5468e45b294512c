"""Benchmark cases: the layers to time, their params and inputs, and their compiled programs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PyTree

import rnn_jax
from rnn_jax.types import Params

LEARNING_RATE, CLIP_NORM = 1e-3, 1.0
NUM_GATES: Mapping[str, int] = {"elman": 1, "gru": 3, "lstm": 4}

# The four computations that are timed: the forward pass; the gradient of the loss mean(y²); that
# gradient together with the norms ‖dL/dh_t‖; and a training step.
FORWARD, GRADIENT, NORMS, TRAINING = "forward", "gradient", "norms", "training"
MEASURES = (FORWARD, GRADIENT, NORMS, TRAINING)


class Shape(NamedTuple):
  """The sizes of a layer: batch B, time steps T, input D and hidden state H."""

  batch: int
  steps: int
  inputs: int
  hidden: int

  def __str__(self) -> str:  # noqa: D105
    return "x".join(map(str, self))


class Row(NamedTuple):
  """One row of the comparison: `depth` stacked layers of one cell, on inputs of one shape."""

  cell: str
  shape: Shape
  depth: int

  def __str__(self) -> str:  # noqa: D105
    return f"{self.cell} {self.shape} depth {self.depth}"

  @property
  def input_sizes(self) -> list[int]:
    """The input size D of each layer."""
    return [self.shape.inputs] + [self.shape.hidden] * (self.depth - 1)


class Program(NamedTuple):
  """A computation to time.

  Attributes:
    call: runs the computation to completion and returns its result.
    compile_seconds: time of tracing and compilation; 0 if nothing is compiled.
    temporaries: bytes of memory needed in addition to arguments and results; None if unknown.
  """

  call: Callable[[], PyTree]
  compile_seconds: float = 0.0
  temporaries: int | None = None


class Implementation(NamedTuple):
  """One library's implementation of a row's layers, ours or a baseline's, ready to be timed.

  Attributes:
    programs: one program for each of MEASURES that the library supports.
    ys: converts the result of the program `forward` to a NumPy array [T, B, H].
    gradients: converts the result of the program `gradient` to NumPy gradients in the layout of our
      params, one dict per layer.
    other: how the function that the library's layers compute differs from ours; empty if it does
      not.
  """

  programs: dict[str, Program]
  ys: Callable[[PyTree], Float[np.ndarray, "T B H"]]
  gradients: Callable[[PyTree], list[Params]]
  other: str = ""


def data(row: Row, seed: int = 0) -> tuple[list[Params], Float[np.ndarray, "T B D"]]:
  """Returns random params for each layer, in our layout, and random xs.

  Biases are not zero, so that a comparison of implementations covers them.
  """
  random = np.random.default_rng(seed)
  cell = rnn_jax.make_cell(row.cell, row.shape.hidden)
  params = []
  for i, size in enumerate(row.input_sizes):
    layer = jax.device_get(cell.init(jax.random.key(seed + i), size))
    bias = layer["b"] + 0.1 * random.standard_normal(layer["b"].shape, np.float32)
    params.append({**layer, "b": bias})
  shape = (row.shape.steps, row.shape.batch, row.shape.inputs)
  return params, random.standard_normal(shape, np.float32)


def compiled(
  function: Callable[..., PyTree], *args: PyTree, donate: tuple[int, ...] = ()
) -> tuple[jax.stages.Compiled, float, int | None]:
  """Compiles a function ahead of time, for the shapes and dtypes of `args`.

  Returns:
    The executable, the seconds of tracing and compilation, and the bytes of temporaries or None.
  """
  start = time.perf_counter()
  executable = jax.jit(function, donate_argnums=donate).lower(*args).compile()
  seconds = time.perf_counter() - start
  analysis = executable.memory_analysis()
  return executable, seconds, None if analysis is None else analysis.temp_size_in_bytes


def program(function: Callable[..., PyTree], *args: PyTree) -> Program:
  """Compiles a function, and returns a program that calls it on `args`."""
  executable, seconds, temporaries = compiled(function, *args)
  return Program(lambda: jax.block_until_ready(executable(*args)), seconds, temporaries)


@functools.cache
def flops_per_step(row: Row) -> int:
  """Returns the floating-point operations of all matrix products in one forward time step.

  For a batch of B examples and cells with G gates: Σ_layers 2·B·G·H·(D + H). Forward and backward
  together need three times as many.
  """
  gates, (batch, _, _, hidden) = NUM_GATES[row.cell], row.shape
  return sum(2 * batch * gates * hidden * (inputs + hidden) for inputs in row.input_sizes)
