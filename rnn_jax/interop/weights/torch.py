"""Conversion of params to and from the state dicts of torch.nn.RNN, GRU and LSTM.

State dicts are mappings from names to NumPy arrays, so torch need not be installed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from rnn_jax import checks
from rnn_jax.interop.weights.layouts import Layout, convert, kind_of, our_layout
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
ACTIVATIONS = ("relu", "tanh")  # choices for `nonlinearity` of nn.RNN

# The params of each layer, from the input up: one cell's params, or a pair (forward, backward).
Layers = Sequence[Params | tuple[Params, Params]]


def params_from_torch(
  name: str, state_dict: Mapping[str, ArrayLike], *, prefix: str = "", **options: Any
) -> list[Params | tuple[Params, Params]]:
  """Converts the state dict of a torch.nn.RNN, GRU or LSTM to the params of every layer's cell.

    w_x = weight_ihᵀ      w_h = weight_hhᵀ      b = bias_ih + bias_hh

  The exception is the GRU's candidate n: there b = bias_ih and b_h = bias_hh, because the reset
  gate r scales b_h but not b. Our gru has b_h only with `inner_bias=True`. Without this option, n's
  part of bias_hh must be zero.

      layers = params_from_torch("lstm", {k: v.numpy() for k, v in rnn.state_dict().items()})
      _, ys = unroll(make_cell("lstm", hidden_size), layers[0], xs)
      variables = {"params": {f"layers_{i}": {"cell": p} for i, p in enumerate(layers)}}  # DeepRNN

  Args:
    name: our cell's name: elman (for nn.RNN), gru or lstm.
    state_dict: entry -> array. If there are no biases (`bias=False`), our biases are zero.
    prefix: start of the entries to read, such as "encoder." for "encoder.weight_ih_l0". All
      other entries are ignored.
    **options: options of `make_cell` for our cell. An Elman cell's activation corresponds to
      nn.RNN's `nonlinearity`.
  Returns:
    For each layer the params of its cell or, for a bidirectional network, a pair (forward,
    backward). `BidirectionalRNN` stores such pairs as
    {"layers_0": {"forward": {"cell": …}, "backward": …}, …}.
  Raises:
    TypeError, ValueError: if an entry is missing, unknown or of the wrong shape (the message names
      it), if torch lacks the cell, e.g. gru(reset="before"), or if the network has a projection
      (`proj_size`), which our LSTM lacks.
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


def params_to_torch(
  name: str, layers: Layers, *, prefix: str = "", **options: Any
) -> dict[str, np.ndarray]:
  """Converts params to the state dict of a torch.nn.RNN, GRU or LSTM with `bias=True`.

    weight_ih = w_xᵀ      weight_hh = w_hᵀ      bias_ih = b      bias_hh = 0, or b_h for a GRU's n

      rnn = torch.nn.GRU(input_size, hidden_size)
      arrays = params_to_torch("gru", [params])
      rnn.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})

  Args:
    name: our cell's name: elman, gru or lstm.
    layers: the params of each layer's cell, or pairs (forward, backward), as `params_from_torch`
      returns them. torch requires the same hidden size in all layers.
    prefix: prepended to every entry's name.
    **options: options of `make_cell` for our cell. `inner_bias` may be omitted, because it is
      inferred from whether the params have b_h.
  Returns:
    Entry -> NumPy array, in torch's order.
  Raises:
    TypeError, ValueError: if params do not fit the cell or the other layers (the message names
      them), or if torch lacks the cell, e.g. gru(reset="before") or elman(activation="linear").
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
      # Copy to a writable array in C order, because torch warns about read-only ones.
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
  """Returns the layout of one layer in one direction, with torch's full entry names.

  Args:
    kind: the cell's key in TORCH.
    layer: index of the layer, from 0.
    suffix: "_reverse" for the backward direction, "" for the forward one.
    prefix: start of every entry's name.
    has_bias: whether to include the biases.
  """
  return {
    f"{prefix}{entry}_l{layer}{suffix}": use
    for entry, use in TORCH[kind].items()
    if has_bias or not entry.startswith("bias")
  }
