"""PyTorch's recurrent layers, fused and as loops over time; their device and threads.

Other modules import this one only inside functions, for two reasons. torch is optional. And the
worker processes of `baseline_sweep` import the benchmark's main module again: if it imported torch,
that would add to the start-up time of Flax's sweep, and torch would start before the workers limit
it to one thread.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import torch
from torch import Tensor, nn

from experiments.benchmark.cases import Row

RNNS = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
CELLS = {"elman": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}

Weights = dict[str, nn.Parameter]  # the weights of one layer, by torch's names
_NAMES = ("weight_ih", "weight_hh", "bias_ih")
# The result of a forward pass: ys, and for each layer a list of its T hidden states, [B, H].
States = tuple[Tensor, list[list[Tensor]]]


def device() -> torch.device:
  """Returns torch's GPU if JAX runs on a GPU and torch can use it, else the CPU."""
  on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
  return torch.device("cuda" if on_gpu else "cpu")


def configure(threads: int) -> None:
  """Sets torch's number of threads, and makes it compute products in full float32 (no TF32)."""
  torch.set_num_threads(threads)
  torch.backends.cuda.matmul.allow_tf32 = False
  torch.backends.cudnn.allow_tf32 = False


def wait() -> None:
  """Waits until the device has finished all its computations."""
  if device().type == "cuda":
    torch.cuda.synchronize()


def fused(row: Row, weights: list[Weights]) -> Callable[[Tensor], States]:
  """Returns the forward pass of `nn.RNN`, `nn.GRU` or `nn.LSTM`, one operation for all time steps.

  The forward pass returns [] for the hidden states, because the operation does not expose them.
  """
  rnn = RNNS[row.cell](row.shape.inputs, row.shape.hidden, row.depth).to(device())
  for i, layer in enumerate(weights):
    nn.init.zeros_(getattr(rnn, f"bias_hh_l{i}"))
    for name, leaf in layer.items():
      setattr(rnn, f"{name}_l{i}", leaf)
  rnn.flatten_parameters()  # moves the weights into one block of memory, as cuDNN requires
  return lambda xs: (rnn(xs)[0], [])


def cell_loop(row: Row, weights: list[Weights]) -> Callable[[Tensor], States]:
  """Returns the forward pass of a loop over time of `nn.RNNCell`, `nn.GRUCell` or `nn.LSTMCell`."""
  cells = []
  for size, layer in zip(row.input_sizes, weights, strict=True):
    cell = CELLS[row.cell](size, row.shape.hidden).to(device())
    nn.init.zeros_(cell.bias_hh)
    for name, leaf in layer.items():
      setattr(cell, name, leaf)
    cells.append(cell)

  def forward(xs: Tensor) -> States:
    states = []
    for cell in cells:
      hidden, carry = [], None
      for x in xs.unbind(0):
        carry = cell(x, carry)
        hidden.append(carry[0] if row.cell == "lstm" else carry)
      states.append(hidden)
      xs = torch.stack(hidden)
    return xs, states

  return forward


def plain_loop(row: Row, weights: list[Weights]) -> Callable[[Tensor], States]:
  """Returns the forward pass of stacked layers, each computed by the hand-written `loop`."""

  def forward(xs: Tensor) -> States:
    states = []
    for layer in weights:
      states.append(loop(row.cell, xs, *(layer[name] for name in _NAMES)))
      xs = torch.stack(states[-1])
    return xs, states

  return forward


def loop(
  cell: str,
  xs: Tensor,
  weight_ih: Tensor,
  weight_hh: Tensor,
  bias_ih: Tensor,
  *,
  truncation: int | None = None,
) -> list[Tensor]:
  """Runs one layer: one input product for all steps, then a loop over time.

  Args:
    cell: elman, gru or lstm.
    xs: the inputs, [T, B, D].
    weight_ih: input kernel [G·H, D], with torch's order of gates.
    weight_hh: recurrent kernel [G·H, H].
    bias_ih: bias [G·H].
    truncation: number of steps from one cut of the gradient to the next; None for no cuts.
  Returns:
    The hidden states of the T steps, each [B, H].
  """
  h = c = xs.new_zeros(xs.shape[1], weight_hh.shape[1])
  states = []
  for t, drive in enumerate(nn.functional.linear(xs, weight_ih, bias_ih).unbind(0)):
    if truncation and t > 0 and t % truncation == 0:
      h, c = h.detach(), c.detach()
    h, c = _step(cell, h, c, drive, weight_hh.T)
    states.append(h)
  return states


def _step(cell: str, h: Tensor, c: Tensor, drive: Tensor, w_h: Tensor) -> tuple[Tensor, Tensor]:
  """Returns h and c after one step; only the LSTM uses c."""
  if cell == "elman":
    return torch.addmm(drive, h, w_h).tanh(), c
  if cell == "lstm":
    i, f, g, o = torch.addmm(drive, h, w_h).chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c
  gates = 2 * h.shape[1]
  recurrent = h @ w_h
  r, z = (drive[:, :gates] + recurrent[:, :gates]).sigmoid().chunk(2, dim=1)
  n = (drive[:, gates:] + r * recurrent[:, gates:]).tanh()
  return n + z * (h - n), c


def truncated(rnn: nn.RNNBase, xs: Tensor, truncation: int | None) -> Tensor:
  """Runs fused layers in chunks of `truncation` steps; detaches the carry between chunks."""
  carry: Tensor | tuple[Tensor, ...] | None = None
  parts = []
  for chunk in xs.split(truncation or len(xs)):
    ys, carry = rnn(chunk, carry)
    carry = tuple(s.detach() for s in carry) if isinstance(carry, tuple) else carry.detach()
    parts.append(ys)
  return torch.cat(parts)


def truncated_loop(cell: str, rnn: nn.RNNBase, xs: Tensor, truncation: int | None) -> States:
  """Runs the layers of `rnn` in a Python loop over time, and retains each hidden state's gradient.

  The layers' `bias_hh` must be 0, since the loop ignores it.
  """
  states = []
  for i in range(rnn.num_layers):
    weights = (getattr(rnn, f"{name}_l{i}") for name in _NAMES)
    states.append(loop(cell, xs, *weights, truncation=truncation))
    for h in states[-1]:
      h.retain_grad()
    xs = torch.stack(states[-1])
  return xs, states


def norms_of(states: list[Tensor]) -> Tensor:
  """Returns ‖dL/dh_t‖ [T, B] of one layer's hidden states, which must retain their gradients."""
  return torch.stack([h.grad for h in states if h.grad is not None]).norm(dim=-1)
