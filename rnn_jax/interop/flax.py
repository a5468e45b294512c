"""Params of the recurrent cells of Flax: Linen's, one layer a gate, and NNX's, one a product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from rnn_jax.interop.layouts import Layout, convert, kind_of, our_layout
from rnn_jax.types import Params

LINEN: Mapping[str, Layout] = {
  "elman": {"i/kernel": ("w_x", "h"), "i/bias": ("b", "h"), "h/kernel": ("w_h", "h")},
  "gru reset=after": {
    "ir/kernel": ("w_x", "r"),
    "ir/bias": ("b", "r"),
    "iz/kernel": ("w_x", "z"),
    "iz/bias": ("b", "z"),
    "in/kernel": ("w_x", "n"),
    "in/bias": ("b", "n"),
    "hr/kernel": ("w_h", "r"),
    "hz/kernel": ("w_h", "z"),
    "hn/kernel": ("w_h", "n"),
    "hn/bias": ("b_h", "n"),
  },
  "gru reset=none": {  # MGUCell(reset_gate=False), whose f is our z
    "if/kernel": ("w_x", "z"),
    "if/bias": ("b", "z"),
    "in/kernel": ("w_x", "n"),
    "in/bias": ("b", "n"),
    "hf/kernel": ("w_h", "z"),
    "hn/kernel": ("w_h", "n"),
  },
  "lstm": {
    "ii/kernel": ("w_x", "i"),
    "if/kernel": ("w_x", "f"),
    "ig/kernel": ("w_x", "g"),
    "io/kernel": ("w_x", "o"),
    "hi/kernel": ("w_h", "i"),
    "hi/bias": ("b", "i"),
    "hf/kernel": ("w_h", "f"),
    "hf/bias": ("b", "f"),
    "hg/kernel": ("w_h", "g"),
    "hg/bias": ("b", "g"),
    "ho/kernel": ("w_h", "o"),
    "ho/bias": ("b", "o"),
  },
}

NNX: Mapping[str, Layout] = {
  "elman": {
    "dense_i/kernel": ("w_x", "h"),
    "dense_i/bias": ("b", "h"),
    "dense_h/kernel": ("w_h", "h"),
  },
  "gru reset=after": {
    "dense_i/kernel": ("w_x", "rzn"),
    "dense_i/bias": ("b", "rzn"),
    "dense_h/kernel": ("w_h", "rzn"),
  },
  "lstm": {  # OptimizedLSTMCell
    "dense_i/kernel": ("w_x", "ifgo"),
    "dense_h/kernel": ("w_h", "ifgo"),
    "dense_h/bias": ("b", "ifgo"),
  },
}

# nnx.LSTMCell is Linen's, but for an attribute that may not be named `if`.
NNX_BY_GATE: Mapping[str, Layout] = {
  "lstm": {e.replace("if/", "if_/"): use for e, use in LINEN["lstm"].items()},
}


def from_linen(name: str, params: Mapping[str, Any], **options: Any) -> Params:
  """Params of our cell, from those of a SimpleCell, GRUCell, LSTMCell or OptimizedLSTMCell.

      params = from_linen("gru", variables["params"]["cell"], inner_bias=True)   # of nn.RNN(…)

  The GRU's bias of "hn" is b_h: params that have no b_h, those of `gru(inner_bias=False)`, are
  refused if it is not zero. `MGUCell(reset_gate=False)` is gru with reset="none".

  Args:
    name: of our cell: elman, gru or lstm.
    params: {"ii": {"kernel": [D, H]}, …}, one dense layer a gate and product, as the cell has them.
    **options: those of our cell, as `make_cell` takes them. The activation of an elman is not in
      its params: it is the `activation_fn` of SimpleCell.
  Returns:
    Our params, float for float.
  Raises:
    TypeError, ValueError: a missing, extra or wrongly shaped entry, by name ("hn/bias"); a cell
      that Linen does not have, as gru(reset="before").
  """
  return _from("flax.linen", LINEN, name, params, options)


def to_linen(name: str, params: Params, **options: Any) -> dict[str, Any]:
  """Params of the Linen cell that computes what ours does; the inverse of `from_linen`.

      variables = {"params": {"cell": to_linen("lstm", params)}}
      ys = nn.RNN(nn.LSTMCell(hidden_size)).apply(variables, xs)

  Args:
    name: of our cell: elman, gru or lstm.
    params: ours.
    **options: those of our cell, as `make_cell` takes them; inner_bias is read off the params.
  Returns:
    {"ii": {"kernel": [D, H]}, …}. The bias "hn" of a GRU without b_h is zero.
  Raises:
    TypeError, ValueError: as `from_linen`.
  """
  return _to("flax.linen", LINEN, name, params, options, "flax.linen has no bias there")


def from_nnx(
  name: str, state: Mapping[str, Any], *, optimized: bool = True, **options: Any
) -> Params:
  """Params of our cell, from those of an NNX SimpleCell, GRUCell, OptimizedLSTMCell or LSTMCell.

      params = from_nnx("lstm", nnx.to_pure_dict(nnx.state(rnn.cell, nnx.Param)))

  nnx.GRUCell has no bias inside of what r scales, whatever its docstring says: it is our default
  gru, and with inner_bias=True b_h is zero.

  Args:
    name: of our cell: elman, gru or lstm.
    state: {"dense_i": {"kernel": [D, G·H], …}, "dense_h": …}, as a plain dict of arrays.
    optimized: the params are those of an OptimizedLSTMCell, fused; False for an nnx.LSTMCell, which
      has a layer a gate.
    **options: those of our cell, as `make_cell` takes them. The activation of an elman is not in
      its params: it is the `activation_fn` of SimpleCell.
  Returns:
    Our params, float for float.
  Raises:
    TypeError, ValueError: a missing, extra or wrongly shaped entry, by name ("dense_h/kernel"); a
      cell that NNX does not have, as gru(reset="before").
  """
  return _from("flax.nnx", NNX if optimized else NNX_BY_GATE, name, state, options)


def to_nnx(name: str, params: Params, *, optimized: bool = True, **options: Any) -> dict[str, Any]:
  """Params of the NNX cell that computes what ours does, as a plain dict; see `from_nnx`.

      state = nnx.state(rnn.cell, nnx.Param)
      nnx.replace_by_pure_dict(state, to_nnx("lstm", params))
      nnx.update(rnn.cell, state)

  Args:
    name: of our cell: elman, gru or lstm.
    params: ours.
    optimized: for an OptimizedLSTMCell; False for an nnx.LSTMCell, which has a layer a gate.
    **options: those of our cell, as `make_cell` takes them; inner_bias is read off the params.
  Returns:
    {"dense_i": {"kernel": [D, G·H], …}, "dense_h": …}.
  Raises:
    TypeError, ValueError: as `from_nnx`, and a GRU whose b_h is not zero: nnx.GRUCell has none.
  """
  table = NNX if optimized else NNX_BY_GATE
  return _to("flax.nnx", table, name, params, options, "nnx.GRUCell has no bias there")


def _from(
  library: str,
  table: Mapping[str, Layout],
  name: str,
  params: Mapping[str, Any],
  options: Mapping[str, Any],
) -> Params:
  kind = kind_of(library, table, name, options)
  if not isinstance(params, Mapping):
    raise TypeError(f"params must be a dict of dicts of arrays, got {type(params).__name__}.")
  ours = our_layout(kind, bool(options.get("inner_bias", False)))
  lacks = f"{name} has no bias there without inner_bias=True"
  return convert(kind, flatten_dict(params, sep="/"), table[kind], ours, lacks)


def _to(
  library: str,
  table: Mapping[str, Layout],
  name: str,
  params: Params,
  options: Mapping[str, Any],
  lacks: str,
) -> dict[str, Any]:
  kind = kind_of(library, table, name, options)
  ours = our_layout(kind, "b_h" in params)
  return unflatten_dict(convert(kind, params, ours, table[kind], lacks), sep="/")
