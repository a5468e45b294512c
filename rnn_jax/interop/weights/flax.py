"""Conversion of params to and from Flax's recurrent cells.

Linen's cells have a separate dense layer for each gate of the input product and of the recurrent
product. NNX's cells have two dense layers, one for each product, which compute all gates at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from rnn_jax import checks
from rnn_jax.interop.weights.layouts import Layout, convert, kind_of, our_layout
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
  "gru reset=none": {  # MGUCell(reset_gate=False); its gate f is our z
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

# nnx.LSTMCell has Linen's layout, but names one layer `if_`, because `if` is a Python keyword.
NNX_BY_GATE: Mapping[str, Layout] = {
  "lstm": {e.replace("if/", "if_/"): use for e, use in LINEN["lstm"].items()},
}


def params_from_linen(name: str, params: Mapping[str, PyTree], **options: Any) -> Params:
  """Converts params of Linen's SimpleCell, GRUCell or (Optimized)LSTMCell to those of our cell.

      # `variables` belong to nn.RNN(nn.GRUCell(hidden_size)).
      params = params_from_linen("gru", variables["params"]["cell"], inner_bias=True)

  The bias of the GRU's layer "hn" becomes b_h, which our gru has only with `inner_bias=True`.
  Without this option, the bias of "hn" must be zero. `MGUCell(reset_gate=False)` corresponds to gru
  with reset="none".

  Args:
    name: our cell's name: elman, gru or lstm.
    params: {"ii": {"kernel": [D, H]}, …}, a dense layer for each gate and product.
    **options: options of `make_cell` for our cell. An Elman cell's activation corresponds to
      SimpleCell's `activation_fn`; it does not affect the params.
  Returns:
    Our cell's params, with the same values.
  Raises:
    TypeError, ValueError: if an entry is missing, unknown or of the wrong shape (the message names
      it, e.g. "hn/bias"), or if Linen lacks the cell, e.g. gru(reset="before").
  """
  return _from("flax.linen", LINEN, name, params, options)


def params_to_linen(name: str, params: Params, **options: Any) -> dict[str, PyTree]:
  """Converts our cell's params to Linen's; the inverse of `params_from_linen`.

      variables = {"params": {"cell": params_to_linen("lstm", params)}}
      ys = nn.RNN(nn.LSTMCell(hidden_size)).apply(variables, xs)

  Args:
    name: our cell's name: elman, gru or lstm.
    params: our cell's params.
    **options: options of `make_cell` for our cell. `inner_bias` may be omitted, because it is
      inferred from whether the params have b_h.
  Returns:
    {"ii": {"kernel": [D, H]}, …}. If a GRU has no b_h, the bias of "hn" is zero.
  Raises:
    TypeError, ValueError: as in `params_from_linen`.
  """
  return _to("flax.linen", LINEN, name, params, options, "flax.linen has no bias there")


def params_from_nnx(
  name: str, state: Mapping[str, PyTree], *, optimized: bool = True, **options: Any
) -> Params:
  """Converts params of NNX's SimpleCell, GRUCell or (Optimized)LSTMCell to those of our cell.

      params = params_from_nnx("lstm", nnx.to_pure_dict(nnx.state(rnn.cell, nnx.Param)))

  Contrary to its docstring, nnx.GRUCell has no bias in the term that the reset gate r scales. It
  therefore corresponds to our default gru. With `inner_bias=True`, b_h is set to zero.

  Args:
    name: our cell's name: elman, gru or lstm.
    state: {"dense_i": {"kernel": [D, G·H], …}, "dense_h": …}, as a plain dict of arrays.
    optimized: True for the fused params of an OptimizedLSTMCell; False for an nnx.LSTMCell, which
      has a layer for each gate. Only "lstm" accepts False.
    **options: options of `make_cell` for our cell. An Elman cell's activation corresponds to
      SimpleCell's `activation_fn`; it does not affect the params.
  Returns:
    Our cell's params, with the same values.
  Raises:
    TypeError, ValueError: if an entry is missing, unknown or of the wrong shape (the message names
      it, e.g. "dense_h/kernel"), or if NNX lacks the cell, e.g. gru(reset="before").
  """
  checks.boolean("optimized", optimized)
  return _from("flax.nnx", NNX if optimized else NNX_BY_GATE, name, state, options)


def params_to_nnx(
  name: str, params: Params, *, optimized: bool = True, **options: Any
) -> dict[str, PyTree]:
  """Converts our cell's params to NNX's; the inverse of `params_from_nnx`.

      state = nnx.state(rnn.cell, nnx.Param)
      nnx.replace_by_pure_dict(state, params_to_nnx("lstm", params))
      nnx.update(rnn.cell, state)

  Args:
    name: our cell's name: elman, gru or lstm.
    params: our cell's params.
    optimized: True for an OptimizedLSTMCell; False for an nnx.LSTMCell, which has a layer for each
      gate.
    **options: options of `make_cell` for our cell. `inner_bias` may be omitted, because it is
      inferred from whether the params have b_h.
  Returns:
    {"dense_i": {"kernel": [D, G·H], …}, "dense_h": …}, a plain dict.
  Raises:
    TypeError, ValueError: as in `params_from_nnx`; also if a GRU's b_h is not zero, since
      nnx.GRUCell has no b_h.
  """
  checks.boolean("optimized", optimized)
  table = NNX if optimized else NNX_BY_GATE
  return _to("flax.nnx", table, name, params, options, "nnx.GRUCell has no bias there")


def _from(
  library: str,
  table: Mapping[str, Layout],
  name: str,
  params: Mapping[str, PyTree],
  options: Mapping[str, object],
) -> Params:
  kind = kind_of(library, table, name, options)
  checks.instance("params", params, Mapping)
  ours = our_layout(kind, bool(options.get("inner_bias", False)))
  lacks = f"{name} has no bias there without inner_bias=True"
  return convert(kind, flatten_dict(params, sep="/"), table[kind], ours, lacks)


def _to(
  library: str,
  table: Mapping[str, Layout],
  name: str,
  params: Params,
  options: Mapping[str, object],
  lacks: str,
) -> dict[str, PyTree]:
  kind = kind_of(library, table, name, options)
  checks.instance("params", params, Mapping)
  ours = our_layout(kind, "b_h" in params)
  return unflatten_dict(convert(kind, params, ours, table[kind], lacks), sep="/")
