"""State dicts of torch.nn.RNN, GRU and LSTM, without torch: names and NumPy arrays."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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

# One entry a layer, from the first: the params of its cell, or (forward, backward) of both.
Layers = Sequence[Params | tuple[Params, Params]]


def from_torch(
  name: str, state_dict: Mapping[str, Any], *, prefix: str = "", **options: Any
) -> list[Any]:
  """Params of every layer, from the state dict of a torch.nn.RNN, GRU or LSTM.

    W = weight_ihᵀ      U = weight_hhᵀ      b = bias_ih + bias_hh

  but for n of the GRU, b_n = bias_ih and b_h = bias_hh, since r scales the latter. Params that have
  no b_h, those of `gru(inner_bias=False)`, are refused if bias_hh is not zero there.

      layers = from_torch("lstm", {k: v.numpy() for k, v in rnn.state_dict().items()})
      _, ys = unroll(make_cell("lstm", hidden_size), layers[0], xs)
      variables = {"params": {f"layers_{i}": {"cell": p} for i, p in enumerate(layers)}}  # DeepRNN

  Args:
    name: of our cell: elman (nn.RNN, whose `nonlinearity` is our activation), gru or lstm.
    state_dict: entry -> array; without any bias (`bias=False`) ours are zero.
    prefix: only entries that begin with it are read, as in "encoder.weight_ih_l0".
    **options: those of our cell, as `make_cell` takes them.
  Returns:
    One entry a layer: the params of its cell, or (forward, backward) of a bidirectional network,
    as `BidirectionalRNN` keeps them: {"layers_0": {"forward": {"cell": …}, "backward": …}, …}.
  Raises:
    TypeError, ValueError: a missing, extra or wrongly shaped entry, by name; a cell that torch does
      not have, as gru(reset="before"); a projection (`proj_size`), which our LSTM does not have.
  """
  kind = _kind(name, options)
  if not isinstance(state_dict, Mapping):
    raise TypeError(
      f"state_dict must be a mapping of names to arrays, got {type(state_dict).__name__}."
    )
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
  places = list(itertools.product(range(depth), suffixes))
  known = [entry for place in places for entry in _layout(kind, *place, prefix, has_bias=True)]
  for key in found:
    if "weight_hr_l" in key:
      raise ValueError(f"{key} must not be there: proj_size must be 0, our LSTM does not project.")
    checks.choice("entry", key, known)
  ours = our_layout(kind, bool(options.get("inner_bias", False)))
  lacks = f"{name} has no bias there without inner_bias=True"
  layers: list[Any] = []
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


def to_torch(name: str, layers: Layers, *, prefix: str = "", **options: Any) -> dict[str, Any]:
  """The state dict of a torch.nn.RNN, GRU or LSTM with `bias=True`, from the params of every layer.

    weight_ih = Wᵀ      weight_hh = Uᵀ      bias_ih = b      bias_hh = 0, b_h for n of the GRU

      rnn = torch.nn.GRU(input_size, hidden_size)
      arrays = to_torch("gru", [params])
      rnn.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})

  Args:
    name: of our cell: elman, gru or lstm.
    layers: as `from_torch` gives them; all of one width, which torch asks for.
    prefix: put in front of every name.
    **options: those of our cell, as `make_cell` takes them; inner_bias is read off the params.
  Returns:
    Entry -> NumPy array, in torch's order.
  Raises:
    TypeError, ValueError: params that are not those of that cell or that do not fit together, by
      name; a cell that torch does not have, as gru(reset="before") or elman(activation="linear").
  """
  kind = _kind(name, options)
  if isinstance(layers, Mapping) or not layers:
    raise ValueError(
      "layers must hold the params of one layer or more, a list with one entry each."
    )
  pairs = [layer if isinstance(layer, tuple) else (layer,) for layer in layers]
  if len({len(pair) for pair in pairs}) > 1 or len(pairs[0]) > 2:
    raise ValueError(
      "layers must all be params, or all be (forward, backward), got "
      f"{', '.join(str(len(pair)) for pair in pairs)} of them in a layer."
    )
  arrays: dict[str, Any] = {}
  sizes: dict[str, int] = {}
  for i, pair in enumerate(pairs):
    for params, suffix in zip(pair, ("", "_reverse"), strict=False):
      where = f" of layer {i}{suffix.replace('_', ' ')}"
      ours = our_layout(kind, isinstance(params, Mapping) and "b_h" in params)
      source = {entry + where: use for entry, use in ours.items()}
      given = params
      if isinstance(params, Mapping):
        given = {entry + where: value for entry, value in params.items()}
      target = _layout(kind, i, suffix, prefix, has_bias=True)
      converted = convert(kind, given, source, target, "torch has no bias there", sizes=sizes)
      # A copy in C order, since torch warns of arrays that it must not write to.
      arrays |= {entry: np.array(value.T, order="C") for entry, value in converted.items()}
      weight_ih, weight_hh, *_ = converted.values()
      sizes = {"H": weight_hh.shape[0], "D": weight_ih.shape[0]}
    sizes["D"] = len(pair) * sizes["H"]
  return arrays


def _kind(name: str, options: Mapping[str, Any]) -> str:
  kind = kind_of(LIBRARY, TORCH, name, options)
  checks.choice(f"activation in {LIBRARY}.RNN", options.get("activation", "tanh"), ACTIVATIONS)
  return kind


def _layout(kind: str, layer: int, suffix: str, prefix: str, has_bias: bool) -> Layout:
  """The layout of one layer in one direction, by torch's full names."""
  return {
    f"{prefix}{entry}_l{layer}{suffix}": use
    for entry, use in TORCH[kind].items()
    if has_bias or not entry.startswith("bias")
  }
