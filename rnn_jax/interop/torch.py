"""State dicts of torch.nn.RNN, GRU and LSTM, as names and NumPy arrays; needs no torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from rnn_jax import checks
from rnn_jax.interop.layouts import Layout, convert, kind_of, our_layout
from rnn_jax.types import Params

LIBRARY = "torch.nn"
TORCH: Mapping[str, Layout] = {
  "elman": {
    "weight_ih": ("w_x", "h"),
    "weight_hh": ("w_h", "h"),
    "bias_ih": ("b", "h"),
    "bias_hh": ("b_h", "h"),
  },
  "gru reset=after": {
    "weight_ih": ("w_x", "rzn"),
    "weight_hh": ("w_h", "rzn"),
    "bias_ih": ("b", "rzn"),
    "bias_hh": ("b_h", "rzn"),
  },
  "lstm": {
    "weight_ih": ("w_x", "ifgo"),
    "weight_hh": ("w_h", "ifgo"),
    "bias_ih": ("b", "ifgo"),
    "bias_hh": ("b_h", "ifgo"),
  },
}
ACTIVATIONS = ("relu", "tanh")  # `nonlinearity` of nn.RNN

# For each layer, the first one first: its cell's params, or those of both, (forward, backward).
Layers = Sequence[Params | tuple[Params, Params]]


def from_torch(
  name: str, state_dict: Mapping[str, ArrayLike], *, prefix: str = "", **options: Any
) -> list[Params | tuple[Params, Params]]:
  """Returns the params of every layer, from the state dict of a torch.nn.RNN, GRU or LSTM.

    W = weight_ihᵀ      U = weight_hhᵀ      b = bias_ih + bias_hh

  except for n of the GRU: b_n = bias_ih and b_h = bias_hh, since r scales the latter. Without
  `inner_bias=True` our gru has no b_h, so a bias_hh of n that is not zero is refused.

      layers = from_torch("lstm", {k: v.numpy() for k, v in rnn.state_dict().items()})
      _, ys = unroll(make_cell("lstm", hidden_size), layers[0], xs)
      variables = {"params": {f"layers_{i}": {"cell": p} for i, p in enumerate(layers)}}  # DeepRNN

  Args:
    name: our cell's name: elman (nn.RNN, whose `nonlinearity` is our activation), gru or lstm.
    state_dict: entry -> array; without biases (`bias=False`), our biases are zero.
    prefix: only entries that start with it are read, as in "encoder.weight_ih_l0".
    **options: our cell's, as `make_cell` takes them.
  Returns:
    For each layer its cell's params, or (forward, backward) of a bidirectional network, which
    `BidirectionalRNN` keeps as {"layers_0": {"forward": {"cell": …}, "backward": …}, …}.
  Raises:
    TypeError, ValueError: a missing, extra or wrongly shaped entry, by name; a cell that torch
      lacks, such as gru(reset="before"); a projection (`proj_size`), which our LSTM lacks.
  """
  kind = _kind(name, options)
  checks.instance("state_dict", state_dict, Mapping)
  checks.instance("prefix", prefix, str)
  for entry in state_dict:
    checks.instance("entry of state_dict", entry, str)
  found = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
  named = [re.fullmatch(r"(\w+?)_l(\d+)(_reverse)?", key[len(prefix) :]) for key in found]
  matches = [match for match in named if match and match[1] in (*TORCH[kind], "weight_hr")]
  if not matches:
    came = ", ".join(state_dict) or "none"
    raise ValueError(
      f"state_dict must have entries like {prefix}weight_ih_l0, with {prefix=}, got {came}."
    )
  numbers = {int(match[2]) for match in matches}
  depth = next(i for i in itertools.count() if i not in numbers) or 1
  suffixes = ("", "_reverse") if any(match[3] for match in matches) else ("",)
  has_bias = any(match[1].startswith("bias") for match in matches)
  known = [
    entry
    for layer, suffix in itertools.product(range(depth), suffixes)
    for entry in _layout(kind, layer, suffix, prefix, has_bias=True)
  ]
  for key in found:
    if "weight_hr_l" in key:
      raise ValueError(f"Unsupported entry {key!r}: proj_size must be 0; our lstm has none.")
    checks.choice("entry", key, known)
  ours = our_layout(kind, bool(options.get("inner_bias", False)))
  lacks = f"{name} has no bias there without inner_bias=True"
  layers: list[Params | tuple[Params, Params]] = []
  sizes: dict[str, int] = {}
  for i in range(depth):
    params = []
    for suffix in suffixes:
      layout = _layout(kind, i, suffix, prefix, has_bias)
      part = {entry: found[entry] for entry in layout if entry in found}
      params.append(convert(kind, part, layout, ours, lacks, transposed=True, sizes=sizes))
      hidden_size = params[0]["w_h"].shape[0]
      sizes = {"H": hidden_size, "D": params[0]["w_x"].shape[0]}
    layers.append(tuple(params) if len(params) > 1 else params[0])
    sizes["D"] = len(suffixes) * hidden_size
  return layers


def to_torch(
  name: str, layers: Layers, *, prefix: str = "", **options: Any
) -> dict[str, np.ndarray]:
  """Returns the state dict of a torch.nn.RNN, GRU or LSTM with `bias=True`; see `from_torch`.

    weight_ih = Wᵀ      weight_hh = Uᵀ      bias_ih = b      bias_hh = 0, b_h for n of the GRU

      rnn = torch.nn.GRU(input_size, hidden_size)
      arrays = to_torch("gru", [params])
      rnn.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})

  Args:
    name: our cell's name: elman, gru or lstm.
    layers: as `from_torch` returns them; torch requires the same hidden size in all layers.
    prefix: prepended to every name.
    **options: our cell's, as `make_cell` takes them; inner_bias follows from the params.
  Returns:
    Entry -> NumPy array, in torch's order.
  Raises:
    TypeError, ValueError: params that do not fit the cell or each other, by name; a cell that torch
      lacks, such as gru(reset="before") or elman(activation="linear").
  """
  kind = _kind(name, options)
  checks.instance("prefix", prefix, str)
  if not isinstance(layers, Sequence) or isinstance(layers, str) or not layers:
    raise ValueError(
      f"layers must be a list with the params of at least one layer, got {checks.shown(layers)}."
    )
  pairs = [layer if isinstance(layer, tuple) else (layer,) for layer in layers]
  if len({len(pair) for pair in pairs}) > 1 or len(pairs[0]) > 2:
    raise ValueError(
      "layers must all be params, or all be pairs (forward, backward), got "
      f"{', '.join(str(len(pair)) for pair in pairs)} params per layer."
    )
  arrays: dict[str, np.ndarray] = {}
  sizes: dict[str, int] = {}
  for i, pair in enumerate(pairs):
    for params, suffix in zip(pair, ("", "_reverse"), strict=False):
      where = f" of layer {i}{suffix.replace('_', ' ')}"
      checks.instance(f"params{where}", params, Mapping)
      ours = our_layout(kind, "b_h" in params)
      source = {entry + where: use for entry, use in ours.items()}
      given = {f"{entry}{where}": value for entry, value in params.items()}
      target = _layout(kind, i, suffix, prefix, has_bias=True)
      converted = convert(kind, given, source, target, "torch has no bias there", sizes=sizes)
      # A writable copy in C order: torch warns about read-only arrays.
      arrays |= {entry: np.array(value.T, order="C") for entry, value in converted.items()}
      weight_ih, weight_hh, *_ = converted.values()
      sizes = {"H": weight_hh.shape[0], "D": weight_ih.shape[0]}
    sizes["D"] = len(pair) * sizes["H"]
  return arrays


def _kind(name: str, options: Mapping[str, object]) -> str:
  kind = kind_of(LIBRARY, TORCH, name, options)
  checks.choice(f"activation in {LIBRARY}.RNN", options.get("activation", "tanh"), ACTIVATIONS)
  return kind


def _layout(kind: str, layer: int, suffix: str, prefix: str, has_bias: bool) -> Layout:
  """Returns the layout of one layer in one direction, with torch's full names."""
  return {
    f"{prefix}{entry}_l{layer}{suffix}": use
    for entry, use in TORCH[kind].items()
    if has_bias or not entry.startswith("bias")
  }
