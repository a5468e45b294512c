"""Programs of our layers and of the baselines (other libraries' layers), with the same params."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, PyTree

import rnn_jax
from experiments.benchmark.cases import (
  CLIP_NORM,
  FORWARD,
  GRADIENT,
  LEARNING_RATE,
  MEASURES,
  NORMS,
  TRAINING,
  Implementation,
  Program,
  Row,
  compiled,
  data,
  program,
)
from experiments.benchmark.jax_baselines import LAYERS, Layer, NotAvailable
from rnn_jax.optimizers import make_optimizer
from rnn_jax.types import Array, Params

OURS = "ours"
# The package that each baseline needs. PyTorch has three baselines: its fused layers (`torch`), and
# two loops over time.
BASELINES: Mapping[str, str] = {
  "torch": "torch",
  "torch_loop": "torch",
  "torch_cells": "torch",
  "linen": "flax",
  "nnx": "flax",
  "haiku": "haiku",
  "equinox": "equinox",
  "keras": "keras",
}
IMPLEMENTATIONS: Mapping[str, str] = {OURS: "rnn_jax", **BASELINES}

_State = tuple[PyTree, optax.OptState, Float[Array, ""]]  # params, optimizer state, loss


def build(
  name: str,
  row: Row,
  params: list[Params],
  xs: Float[np.ndarray, "T B D"],
  measures: Sequence[str] = MEASURES,
) -> Implementation:
  """Returns the implementation `name` of a row's layers, with these params and compiled programs.

  Args:
    name: a key of IMPLEMENTATIONS.
    row: the layers: their cell, shape and depth.
    params: the params of each layer, in our layout.
    xs: the inputs.
    measures: the programs to build; those that the library does not support are left out.
  Raises:
    NotAvailable: if the library is not installed or has no such layer.
  """
  package = IMPLEMENTATIONS[name]
  if importlib.util.find_spec(package) is None:
    raise NotAvailable("not installed")
  try:
    if package == "torch":
      # The module's docstring says why it is imported here.
      from experiments.benchmark import torch_baselines

      return torch_baselines.build(name, row, params, xs, measures)
    layers = [LAYERS[name](row.cell, size, row.shape.hidden) for size in row.input_sizes]
  except ImportError as error:
    raise NotAvailable(f"could not be imported ({error})") from None
  return _build_jax(name, row, layers, params, xs, measures)


def _build_jax(
  name: str,
  row: Row,
  layers: Sequence[Layer],
  params: list[Params],
  xs: Float[np.ndarray, "T B D"],
  measures: Sequence[str],
) -> Implementation:
  """Compiles the programs of stacked layers of one JAX library, ours included."""

  def convert(params: Sequence[Params]) -> list[PyTree]:
    return [layer.convert(p) for layer, p in zip(layers, params, strict=True)]

  def forward(theirs: Sequence[PyTree], xs: Float[Array, "M N D"]) -> Float[Array, "M N H"]:
    for layer, p in zip(layers, theirs, strict=True):
      xs = layer.apply(p, xs)
    return xs

  def loss(theirs: Sequence[PyTree], xs: Float[Array, "M N D"]) -> Float[Array, ""]:
    return jnp.mean(forward(theirs, xs) ** 2)

  swap = layers[0].batch_major
  inputs = jnp.asarray(xs.swapaxes(0, 1) if swap else xs)
  theirs = jax.jit(convert)(params)

  programs = {}
  if FORWARD in measures:
    programs[FORWARD] = program(forward, theirs, inputs)
  if GRADIENT in measures:
    programs[GRADIENT] = program(jax.value_and_grad(loss), theirs, inputs)
  if NORMS in measures and name == OURS:
    programs[NORMS] = program(_gradient_with_norms(row), theirs, inputs)
  if TRAINING in measures and name in (OURS, "linen"):
    programs[TRAINING] = _training(name, loss, theirs, inputs)

  def gradients(result: PyTree) -> list[Params]:
    (ours,) = jax.jit(lambda g: jax.vjp(convert, params)[1](g))(result[1])
    return jax.device_get(ours)

  return Implementation(
    programs,
    lambda ys: np.asarray(ys).swapaxes(0, 1) if swap else np.asarray(ys),
    gradients,
    layers[0].other,
  )


def _gradient_with_norms(row: Row) -> Callable[..., PyTree]:
  """Returns a function that computes our gradients, and ‖dL/dh_t‖ by layer, step and example."""
  cell = rnn_jax.make_cell(row.cell, row.shape.hidden)

  def loss(
    params: Sequence[Params], probes: Sequence[PyTree], xs: Float[Array, "T B D"]
  ) -> Float[Array, ""]:
    for p, probe in zip(params, probes, strict=True):
      _, xs = rnn_jax.unroll(cell, p, xs, probe=probe)
    return jnp.mean(xs**2)

  def gradient(params: Sequence[Params], xs: Float[Array, "T B D"]) -> PyTree:
    probe = rnn_jax.gradient_probe(cell, row.shape.steps, row.shape.batch)
    return jax.value_and_grad(loss, argnums=(0, 1))(params, [probe] * row.depth, xs)

  return gradient


def gradient_program(row: Row, remat: str) -> Program:
  """Returns the program that computes our gradient of mean(y²), with this `remat` in `unroll`."""
  params, xs = data(row)
  cell = rnn_jax.make_cell(row.cell, row.shape.hidden)

  def loss(params: Sequence[Params], xs: Float[Array, "T B D"]) -> Float[Array, ""]:
    for p in params:
      _, xs = rnn_jax.unroll(cell, p, xs, remat=remat)
    return jnp.mean(xs**2)

  return program(jax.grad(loss), params, jnp.asarray(xs))


def _training(
  name: str, loss: Callable[..., Array], params: PyTree, xs: Float[Array, "M N D"]
) -> Program:
  """Returns a program of a training step: gradient, clipping by the global norm, Adam.

  Each call of the program continues from the params of the previous call.
  """
  if name == OURS:
    optimizer = make_optimizer("adam", LEARNING_RATE, CLIP_NORM)
  else:
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(LEARNING_RATE))

  def step(state: _State, xs: Float[Array, "M N D"]) -> _State:
    params, opt_state, _ = state
    value, grads = jax.value_and_grad(loss)(params, xs)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value

  # The step donates its state's buffers. It gets copies, because other programs use `params`.
  state: _State = jax.tree.map(jnp.array, (params, optimizer.init(params), jnp.zeros(())))
  executable, seconds, temporaries = compiled(step, state, xs, donate=(0,))

  def call() -> Float[Array, ""]:
    nonlocal state
    state = jax.block_until_ready(executable(state, xs))
    return state[2]

  return Program(call, seconds, temporaries)
