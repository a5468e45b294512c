"""Candidates of the benchmark: peers that hold our weights, as programs to compare and to time."""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnn_jax
from experiments.benchmark.jax_peers import LAYERS, Layer, NotAvailable
from rnn_jax.training import make_optimizer
from rnn_jax.types import Array, Params

LEARNING_RATE, CLIP_NORM = 1e-3, 1.0
NUM_GATES: Mapping[str, int] = {"elman": 1, "gru": 3, "lstm": 4}

FORWARD, GRADIENT, NORMS, TRAINING = "forward", "gradient", "norms", "training"
MEASURES = (FORWARD, GRADIENT, NORMS, TRAINING)


class Shape(NamedTuple):
  """Sizes of a layer's input and of its state: B, T, D and H."""

  batch: int
  steps: int
  inputs: int
  hidden: int

  def __str__(self) -> str:  # noqa: D105
    return "x".join(map(str, self))


class Row(NamedTuple):
  """What is compared: a stack of `depth` layers of one cell, on inputs of one shape."""

  cell: str
  shape: Shape
  depth: int

  def __str__(self) -> str:  # noqa: D105
    return f"{self.cell} {self.shape} depth {self.depth}"

  @property
  def input_sizes(self) -> list[int]:
    """D of each layer."""
    return [self.shape.inputs] + [self.shape.hidden] * (self.depth - 1)


class Program(NamedTuple):
  """Something to time.

  Attributes:
    call: runs it to its end and returns what it computed.
    compile_seconds: tracing and compilation; 0 where nothing is compiled.
    temporaries: bytes that it needs beside arguments and results; None where it is not known.
  """

  call: Callable[[], Any]
  compile_seconds: float = 0.0
  temporaries: int | None = None


class Candidate(NamedTuple):
  """A peer, ready for one row.

  Attributes:
    programs: by measure. `forward` gives ys; `gradient` gradients; `norms` gradients and norms.
    ys: a forward program's result as NumPy [T, B, H].
    gradients: a gradient program's result as NumPy params in our layout, one dict a layer.
    other: where the peer's function is another one than ours, in which way; empty if it is ours.
  """

  programs: dict[str, Program]
  ys: Callable[[Any], np.ndarray]
  gradients: Callable[[Any], list[Params]]
  other: str = ""


# Name -> the package that it needs.
PEERS: Mapping[str, str] = {
  "ours": "rnn_jax",
  "torch": "torch",
  "torch_loop": "torch",
  "torch_cells": "torch",
  "linen": "flax",
  "nnx": "flax",
  "haiku": "haiku",
  "equinox": "equinox",
  "keras": "keras",
}


def data(row: Row, seed: int = 0) -> tuple[list[Params], np.ndarray]:
  """Params of each layer, biases made random so that each is compared, and xs [T, B, D]."""
  random = np.random.default_rng(seed)
  cell = rnn_jax.make_cell(row.cell, row.shape.hidden)
  params = []
  for i, size in enumerate(row.input_sizes):
    layer = jax.device_get(cell.init(jax.random.key(seed + i), size))
    bias = layer["b"] + 0.1 * random.standard_normal(layer["b"].shape, np.float32)
    params.append({**layer, "b": bias})
  shape = (row.shape.steps, row.shape.batch, row.shape.inputs)
  return params, random.standard_normal(shape, np.float32)


def build(
  peer: str, row: Row, params: list[Params], xs: np.ndarray, measures: Sequence[str] = MEASURES
) -> Candidate:
  """A peer with our params, its programs compiled.

  Args:
    peer: a key of PEERS.
    row: which layers.
    params: of each layer, in our layout.
    xs: [T, B, D].
    measures: which programs; a peer has those of them that make sense for it.
  Returns:
    The candidate.
  Raises:
    NotAvailable: it is not installed, or has no such layer.
  """
  if importlib.util.find_spec(PEERS[peer]) is None:
    raise NotAvailable("not installed")
  try:
    if PEERS[peer] == "torch":
      from experiments.benchmark import torch_peers

      return torch_peers.build(peer, row, params, xs, measures)
    layers = [LAYERS[peer](row.cell, size, row.shape.hidden) for size in row.input_sizes]
  except ImportError as error:
    raise NotAvailable(f"could not be imported ({error})") from None
  return _build_jax(peer, row, layers, params, xs, measures)


def compiled(function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Any:
  """Compiles ahead of time; returns (compiled, seconds, bytes of temporaries)."""
  start = time.perf_counter()
  executable = jax.jit(function, donate_argnums=donate).lower(*args).compile()
  seconds = time.perf_counter() - start
  analysis = executable.memory_analysis()
  return executable, seconds, None if analysis is None else analysis.temp_size_in_bytes


def _build_jax(
  peer: str,
  row: Row,
  layers: Sequence[Layer],
  params: list[Params],
  xs: np.ndarray,
  measures: Sequence[str],
) -> Candidate:
  """Forward, gradient and training step of a stack of layers, compiled."""

  def convert(params: Sequence[Params]) -> list[Any]:
    return [layer.convert(p) for layer, p in zip(layers, params, strict=True)]

  def forward(theirs: Sequence[Any], xs: Array) -> Array:
    for layer, p in zip(layers, theirs, strict=True):
      xs = layer.apply(p, xs)
    return xs

  def loss(theirs: Sequence[Any], xs: Array) -> Array:
    return jnp.mean(forward(theirs, xs) ** 2)

  swap = layers[0].batch_major
  inputs = jnp.asarray(xs.swapaxes(0, 1) if swap else xs)
  theirs = jax.jit(convert)(params)

  programs = {}
  if FORWARD in measures:
    programs[FORWARD] = program(forward, theirs, inputs)
  if GRADIENT in measures:
    programs[GRADIENT] = program(jax.value_and_grad(loss), theirs, inputs)
  if NORMS in measures and peer == "ours":
    programs[NORMS] = program(_norms(row), theirs, inputs)
  if TRAINING in measures and peer in ("ours", "linen"):
    programs[TRAINING] = _training(peer, loss, theirs, inputs)

  def gradients(result: Any) -> list[Params]:
    (ours,) = jax.jit(lambda g: jax.vjp(convert, params)[1](g))(result[1])
    return jax.device_get(ours)

  return Candidate(
    programs,
    lambda ys: np.asarray(ys).swapaxes(0, 1) if swap else np.asarray(ys),
    gradients,
    layers[0].other,
  )


def _norms(row: Row) -> Callable[..., Any]:
  """Our gradient with ‖dL/dh_t‖ of every step, example and layer."""
  cell = rnn_jax.make_cell(row.cell, row.shape.hidden)

  def loss(params: Sequence[Params], probes: Sequence[Any], xs: Array) -> Array:
    for p, probe in zip(params, probes, strict=True):
      _, xs = rnn_jax.unroll(cell, p, xs, probe=probe)
    return jnp.mean(xs**2)

  def gradient(params: Sequence[Params], xs: Array) -> Any:
    probe = rnn_jax.gradient_probe(cell, row.shape.steps, row.shape.batch)
    return jax.value_and_grad(loss, argnums=(0, 1))(params, [probe] * row.depth, xs)

  return gradient


def remat_programs(row: Row) -> dict[str, Program]:
  """Our gradient under `remat="none"` and `remat="sqrt"`, by these names."""
  params, xs = data(row)
  cell = rnn_jax.make_cell(row.cell, row.shape.hidden)

  def loss(params: Sequence[Params], xs: Array, remat: str) -> Array:
    for p in params:
      _, xs = rnn_jax.unroll(cell, p, xs, remat=remat)
    return jnp.mean(xs**2)

  return {
    remat: program(jax.grad(functools.partial(loss, remat=remat)), params, jnp.asarray(xs))
    for remat in ("none", "sqrt")
  }


def program(function: Callable[..., Any], *args: Any) -> Program:
  """The function compiled for its arguments, to be called on them."""
  executable, seconds, temporaries = compiled(function, *args)
  return Program(lambda: jax.block_until_ready(executable(*args)), seconds, temporaries)


def _training(peer: str, loss: Callable[..., Any], params: Any, xs: Array) -> Program:
  """Gradient, clipping by the global norm and Adam; every call goes one step on."""
  if peer == "ours":
    optimizer = make_optimizer("adam", LEARNING_RATE, CLIP_NORM)
  else:
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(LEARNING_RATE))

  def step(state: Any, xs: Array) -> Any:
    params, opt_state, _ = state
    value, grads = jax.value_and_grad(loss)(params, xs)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value

  # A copy, since the step reuses its memory.
  state = jax.tree.map(jnp.array, (params, optimizer.init(params), jnp.zeros(())))
  executable, seconds, temporaries = compiled(step, state, xs, donate=(0,))

  def call() -> Any:
    nonlocal state
    state = jax.block_until_ready(executable(state, xs))
    return state[2]

  return Program(call, seconds, temporaries)


@functools.cache
def flops_per_step(row: Row) -> int:
  """Floating-point operations of the products, for one step of the whole batch, forward.

  Σ_layers 2·B·G·H·(D + H); forward and backward together are three times as many.
  """
  gates, (batch, _, _, hidden) = NUM_GATES[row.cell], row.shape
  return sum(2 * batch * gates * hidden * (inputs + hidden) for inputs in row.input_sizes)
