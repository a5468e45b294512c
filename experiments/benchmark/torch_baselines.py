"""Programs of PyTorch's recurrent layers: fused layers, and loops that also give dL/dh_t.

Other modules import this one only inside functions, for the reasons given in `torch_layers`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.benchmark.cases import (
  CLIP_NORM,
  FORWARD,
  GRADIENT,
  LEARNING_RATE,
  NORMS,
  TRAINING,
  Implementation,
  Program,
  Row,
)
from experiments.benchmark.jax_baselines import reorder
from experiments.benchmark.torch_layers import (
  States,
  Weights,
  cell_loop,
  device,
  fused,
  norms_of,
  plain_loop,
  wait,
)
from rnn_jax.types import Params

# The result of a backward pass: the loss, and for each layer its gradients and ‖dL/dh_t‖.
Gradient = tuple[Tensor, tuple[list[dict[str, Tensor]], list[Tensor]]]


class _Network(NamedTuple):
  """Stacked layers on the device, with their inputs and optimizer.

  Attributes:
    forward: a function of the inputs; returns ys, and the hidden states of every layer.
    weights: the weights of each layer, by torch's names.
    leaves: the weights of all layers in one list.
    inputs: xs [T, B, D].
    optimizer: the optimizer of `leaves`.
  """

  forward: Callable[[Tensor], States]
  weights: list[Weights]
  leaves: list[nn.Parameter]
  inputs: Tensor
  optimizer: torch.optim.Optimizer


def build(
  name: str,
  row: Row,
  params: list[Params],
  xs: Float[np.ndarray, "T B D"],
  measures: Sequence[str],
) -> Implementation:
  """Returns one of torch's implementations, with the given params.

  Args:
    name: `torch` for the fused layers; `torch_loop` for a hand-written loop over time, and
      `torch_cells` for a loop over torch's cells.
    row: the layers: their cell, shape and depth.
    params: the params of each layer, in our layout.
    xs: the inputs.
    measures: the programs to build.
  """
  convert = functools.partial(_transposed, row.cell)
  network = _network(name, row, jax.device_get(convert(params)), xs)
  programs = {
    FORWARD: Program(functools.partial(_run, network)),
    GRADIENT: Program(functools.partial(_gradient, network)),
    NORMS: Program(functools.partial(_gradient, network, keep=True)),
    TRAINING: Program(functools.partial(_train, network)),
  }
  if name == "torch":
    del programs[NORMS]  # the fused operation does not expose the hidden states of lower layers

  def gradients(result: Gradient) -> list[Params]:
    _, (grads, _) = result
    theirs = [{name: grad.cpu().numpy() for name, grad in layer.items()} for layer in grads]
    return jax.device_get(jax.vjp(convert, params)[1](theirs)[0])

  programs = {measure: programs[measure] for measure in measures if measure in programs}
  return Implementation(programs, lambda ys: ys.cpu().numpy(), gradients)


def _network(name: str, row: Row, params: list[Params], xs: Float[np.ndarray, "T B D"]) -> _Network:
  """Returns the layers of the implementation `name`; `params` are in torch's layout."""
  where = device()
  weights = [
    {name: nn.Parameter(torch.tensor(leaf, device=where)) for name, leaf in layer.items()}
    for layer in params
  ]
  forward = {"torch": fused, "torch_loop": plain_loop, "torch_cells": cell_loop}[name]
  leaves = [leaf for layer in weights for leaf in layer.values()]
  optimizer = torch.optim.Adam(leaves, lr=LEARNING_RATE, fused=True)
  return _Network(forward(row, weights), weights, leaves, torch.tensor(xs, device=where), optimizer)


def _run(network: _Network) -> Tensor:
  """Computes the forward pass without autograd, and returns ys."""
  with torch.inference_mode():
    ys, _ = network.forward(network.inputs)
  wait()
  return ys


def _gradient(network: _Network, keep: bool = False) -> Gradient:
  """Returns the loss mean(y²) and the gradients; if `keep`, also ‖dL/dh_t‖ of each layer."""
  result = _backward(network, keep)
  wait()
  return result


def _train(network: _Network) -> Tensor:
  """Makes one training step, and returns the loss before it."""
  loss, _ = _backward(network, keep=False)
  nn.utils.clip_grad_norm_(network.leaves, CLIP_NORM)
  network.optimizer.step()
  wait()
  return loss


def _backward(network: _Network, keep: bool) -> Gradient:
  """Returns what `_gradient` returns, but does not wait until the device has computed it."""
  for leaf in network.leaves:
    leaf.grad = None
  ys, states = network.forward(network.inputs)
  if keep:
    for h in (h for layer in states for h in layer):
      h.retain_grad()
  loss = (ys**2).mean()
  loss.backward()
  norms = [norms_of(layer) for layer in states] if keep else []
  grads = [
    {name: leaf.grad for name, leaf in layer.items() if leaf.grad is not None}
    for layer in network.weights
  ]
  return loss.detach(), (grads, norms)


def _transposed(cell: str, params: list[Params]) -> list[Params]:
  """Returns our params in torch's layout: kernels [G·H, D] and [G·H, H], a GRU's gates as r, z, n.

  torch's second bias, `bias_hh`, is left out; it stays 0.
  """
  if cell == "gru":
    params = [reorder(layer, "zrn", "rzn") for layer in params]
  return [
    {"weight_ih": layer["w_x"].T, "weight_hh": layer["w_h"].T, "bias_ih": layer["b"]}
    for layer in params
  ]


def product(
  function: Callable[[Tensor, Tensor], object],
  left: Float[np.ndarray, "M N"],
  right: Float[np.ndarray, "K L"],
) -> Callable[[], None]:
  """Returns a function without arguments that applies `function` to two matrices in torch."""
  a, b = (torch.tensor(matrix, device=device()) for matrix in (left, right))
  return _blocking(lambda: function(a, b))


def chain(
  steps: int,
  start: Float[np.ndarray, "B W"],
  kernel: Float[np.ndarray, "H GH"],
  backward: bool,
) -> Callable[[], None]:
  """Returns a callable that computes the successive matrix products of `timing._chain` in torch.

  Args:
    steps: number of products.
    start: initial value: h [B, H] forward, g [B, G·H] backward.
    kernel: U [H, G·H].
    backward: whether to multiply g by Uᵀ; else h by U.
  """
  first, u = (torch.tensor(matrix, device=device()) for matrix in (start, kernel))
  hidden = u.shape[0]
  if not backward:
    spare = [first @ u, first @ u]

    def forward() -> None:
      h = first
      for i in range(steps):
        h = torch.mm(h, u, out=spare[i % 2])[:, :hidden]

    return _blocking(forward)
  wide = [first.clone(), first.clone()]

  def run() -> None:
    for i in range(steps):
      torch.mm(wide[i % 2], u.T, out=wide[1 - i % 2][:, :hidden])

  return _blocking(run)


def _blocking(function: Callable[[], object]) -> Callable[[], None]:
  """Returns a callable that runs `function` without autograd, and waits for the device."""

  def call() -> None:
    with torch.inference_mode():
      function()
    wait()

  return call
