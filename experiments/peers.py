"""Recurrent layers of other libraries, given our weights, as programs to compare and to time.

A peer's params are an affine function of ours, `convert`; its transpose brings the peer's gradients
back into our layout, so that one function a peer is enough to compare both.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnn_jax
from rnn_jax.training import make_optimizer
from rnn_jax.types import Array, Params

LEARNING_RATE, CLIP_NORM = 1e-3, 1.0
NUM_GATES: Mapping[str, int] = {"elman": 1, "gru": 3, "lstm": 4}

FORWARD, GRADIENT, NORMS, TRAINING = "forward", "gradient", "norms", "training"
MEASURES = (FORWARD, GRADIENT, NORMS, TRAINING)


class NotAvailable(Exception):
  """The peer is not installed, or has no such layer; the message says which."""


class Shape(NamedTuple):
  """Sizes of a layer's input and of its state: B, T, D and H."""

  batch: int
  steps: int
  inputs: int
  hidden: int

  def __str__(self) -> str:
    return "x".join(map(str, self))


class Row(NamedTuple):
  """What is compared: a stack of `depth` layers of one cell, on inputs of one shape."""

  cell: str
  shape: Shape
  depth: int

  def __str__(self) -> str:
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


class Layer(NamedTuple):
  """One recurrent layer of a library on JAX.

  Attributes:
    convert: our params of the layer -> the library's, affine.
    apply: (the library's params, xs) -> ys.
    batch_major: xs and ys are [B, T, ...], as the library prefers.
    other: as in `Candidate`.
  """

  convert: Callable[[Params], Any]
  apply: Callable[[Any, Array], Array]
  batch_major: bool = False
  other: str = ""


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
  if PEERS[peer] == "torch":
    from experiments import torch_peers

    return torch_peers.build(peer, row, params, xs, measures)
  layers = [LAYERS[peer](row.cell, size, row.shape.hidden) for size in row.input_sizes]
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
    programs[FORWARD] = _program(forward, theirs, inputs)
  if GRADIENT in measures:
    programs[GRADIENT] = _program(jax.value_and_grad(loss), theirs, inputs)
  if NORMS in measures and peer == "ours":
    programs[NORMS] = _program(_norms(row), theirs, inputs)
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
    remat: _program(jax.grad(functools.partial(loss, remat=remat)), params, jnp.asarray(xs))
    for remat in ("none", "sqrt")
  }


def _program(function: Callable[..., Any], *args: Any) -> Program:
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


def split(params: Params, gates: str) -> dict[str, Params]:
  """Our fused params, by gate; `gates` names them in our order, a letter each."""
  parts = {name: jnp.split(leaf, len(gates), axis=-1) for name, leaf in params.items()}
  return {gate: {name: part[i] for name, part in parts.items()} for i, gate in enumerate(gates)}


def reorder(params: Params, gates: str, order: str) -> Params:
  """Our fused params with the gates in another order."""
  by_gate = split(params, gates)
  return {
    name: jnp.concatenate([by_gate[gate][name] for gate in order], axis=-1) for name in params
  }


def _ours(cell: str, input_size: int, hidden_size: int) -> Layer:
  """`rnn_jax.unroll`."""
  del input_size
  ours = rnn_jax.make_cell(cell, hidden_size)
  return Layer(lambda params: params, lambda params, xs: rnn_jax.unroll(ours, params, xs)[1])


def _linen(cell: str, input_size: int, hidden_size: int) -> Layer:
  """`flax.linen.RNN`."""
  import flax.linen as nn

  del input_size
  cells = {"elman": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
  rnn = nn.RNN(cells[cell](hidden_size), time_major=True)

  def convert(params: Params) -> Any:
    if cell == "elman":
      return {"i": _dense(params["w_x"], params["b"]), "h": _dense(params["w_h"])}
    layers = {}
    for gate, p in split(params, "zrn" if cell == "gru" else "ifgo").items():
      if cell == "gru":
        layers[f"i{gate}"] = _dense(p["w_x"], p["b"])
        layers[f"h{gate}"] = _dense(p["w_h"], jnp.zeros_like(p["b"]) if gate == "n" else None)
      else:
        layers[f"i{gate}"], layers[f"h{gate}"] = _dense(p["w_x"]), _dense(p["w_h"], p["b"])
    return layers

  return Layer(convert, lambda params, xs: rnn.apply({"params": {"cell": params}}, xs))


def _nnx(cell: str, input_size: int, hidden_size: int) -> Layer:
  """`flax.nnx.RNN`, split into its graph and its params."""
  from flax import nnx

  cells = {"elman": nnx.SimpleCell, "gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}

  def make() -> nnx.RNN:
    return nnx.RNN(
      cells[cell](input_size, hidden_size, rngs=nnx.Rngs(0)), time_major=True, rngs=False
    )

  graph, state = nnx.split(nnx.eval_shape(make))

  def convert(params: Params) -> Any:
    if cell == "gru":
      params = reorder(params, "zrn", "rzn")
    # The LSTM has its bias beside the recurrent product, the others beside the input's.
    on_input, on_state = (None, params["b"]) if cell == "lstm" else (params["b"], None)
    return {
      "dense_i": _dense(params["w_x"], on_input),
      "dense_h": _dense(params["w_h"], on_state),
    }

  def apply(params: Any, xs: Array) -> Array:
    full = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(full, {"cell": params})
    zeros = jnp.zeros((xs.shape[1], hidden_size), xs.dtype)
    # Without an initial carry of its own, nnx.RNN cannot be differentiated.
    return nnx.merge(graph, full)(xs, initial_carry=(zeros, zeros) if cell == "lstm" else zeros)

  return Layer(convert, apply)


def _haiku(cell: str, input_size: int, hidden_size: int) -> Layer:
  """`haiku.dynamic_unroll`."""
  import haiku as hk

  del input_size
  cores = {"elman": hk.VanillaRNN, "gru": hk.GRU, "lstm": hk.LSTM}
  other = {"elman": "relu for tanh", "gru": "resets before the product"}

  def run(xs: Array) -> Array:
    options = {"double_bias": False} if cell == "elman" else {}
    core = cores[cell](hidden_size, name="core", **options)
    return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

  def convert(params: Params) -> Any:
    if cell == "elman":
      return {
        "core/linear": {"w": params["w_x"], "b": params["b"]},
        "core/linear_1": {"w": params["w_h"]},
      }
    if cell == "gru":
      return {"core": {"w_i": params["w_x"], "w_h": params["w_h"], "b": params["b"]}}
    params = reorder(params, "ifgo", "igfo")
    w = jnp.concatenate([params["w_x"], params["w_h"]])
    # haiku adds 1 to the forget gate itself.
    one = jnp.zeros_like(params["b"]).at[2 * hidden_size : 3 * hidden_size].set(1)
    return {"core/linear": {"w": w, "b": params["b"] - one}}

  transformed = hk.without_apply_rng(hk.transform(run))
  return Layer(convert, transformed.apply, other=other.get(cell, ""))


def _equinox(cell: str, input_size: int, hidden_size: int) -> Layer:
  """A cell of equinox, mapped over the batch, in `lax.scan`."""
  import equinox as eqx

  if cell == "elman":
    raise NotAvailable("no such layer")
  make = eqx.nn.GRUCell if cell == "gru" else eqx.nn.LSTMCell
  empty = eqx.filter_eval_shape(make, input_size, hidden_size, key=jax.random.key(0))

  def convert(params: Params) -> Any:
    if cell == "gru":
      params = reorder(params, "zrn", "rzn")
    weights = (params["w_x"].T, params["w_h"].T, params["b"])
    return weights + ((jnp.zeros(hidden_size),) if cell == "gru" else ())

  def leaves(layer: Any) -> Any:
    base = (layer.weight_ih, layer.weight_hh, layer.bias)
    return base + ((layer.bias_n,) if cell == "gru" else ())

  def apply(params: Any, xs: Array) -> Array:
    layer = jax.vmap(eqx.tree_at(leaves, empty, params))
    zeros = jnp.zeros((xs.shape[1], hidden_size), xs.dtype)

    def step(carry: Any, x: Array) -> Any:
      carry = layer(x, carry)
      return carry, carry[0] if cell == "lstm" else carry

    return jax.lax.scan(step, (zeros, zeros) if cell == "lstm" else zeros, xs)[1]

  return Layer(convert, apply)


def _keras(cell: str, input_size: int, hidden_size: int) -> Layer:
  """A recurrent layer of Keras on its JAX backend."""
  os.environ["KERAS_BACKEND"] = "jax"  # read at import
  import keras

  kinds = {"elman": keras.layers.SimpleRNN, "gru": keras.layers.GRU, "lstm": keras.layers.LSTM}
  layer = kinds[cell](hidden_size, return_sequences=True)
  layer.build((None, None, input_size))
  constants = [variable.value for variable in layer.non_trainable_variables]

  def convert(params: Params) -> Any:
    b = params["b"]
    return [params["w_x"], params["w_h"], jnp.stack([b, jnp.zeros_like(b)]) if cell == "gru" else b]

  def apply(params: Any, xs: Array) -> Array:
    return layer.stateless_call(params, constants, xs)[0]

  return Layer(convert, apply, batch_major=True)


def _dense(kernel: Array, bias: Array | None = None) -> Params:
  """Params of Flax's dense layers."""
  return {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}


LAYERS: Mapping[str, Callable[[str, int, int], Layer]] = {
  "ours": _ours,
  "linen": _linen,
  "nnx": _nnx,
  "haiku": _haiku,
  "equinox": _equinox,
  "keras": _keras,
}

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


@functools.cache
def flops_per_step(row: Row) -> int:
  """Floating-point operations of the products, for one step of the whole batch, forward.

  Σ_layers 2·B·G·H·(D + H); forward and backward together are three times as many.
  """
  gates, (batch, _, _, hidden) = NUM_GATES[row.cell], row.shape
  return sum(2 * batch * gates * hidden * (inputs + hidden) for inputs in row.input_sizes)
