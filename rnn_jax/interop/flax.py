"""Params of Flax's recurrent cells: Linen has a layer per gate, NNX one per product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from rnn_jax import checks
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

# nnx.LSTMCell has Linen's layout, except for an attribute that cannot be named `if`.
NNX_BY_GATE: Mapping[str, Layout] = {
  "lstm": {e.replace("if/", "if_/"): use for e, use in LINEN["lstm"].items()},
}


def from_linen(name: str, params: Mapping[str, PyTree], **options: Any) -> Params:
  """Returns our cell's params, from those of Linen's SimpleCell, GRUCell or (Optimized)LSTMCell.

      params = from_linen("gru", variables["params"]["cell"], inner_bias=True)   # of nn.RNN(…)

  The GRU's bias of "hn" is b_h. Without `inner_bias=True` our gru has no b_h, so a bias of "hn"
  that is not zero is refused. `MGUCell(reset_gate=False)` is gru with reset="none".

  Args:
    name: our cell's name: elman, gru or lstm.
    params: {"ii": {"kernel": [D, H]}, …}, a dense layer for each gate and product.
    **options: our cell's, as `make_cell` takes them. An elman's activation is not in its params: it
      is the `activation_fn` of SimpleCell.
  Returns:
    Our params, with unchanged values.
  Raises:
    TypeError, ValueError: a missing, extra or wrongly shaped entry, by name ("hn/bias"); a cell
      that Linen lacks, such as gru(reset="before").
  """
  return _from("flax.linen", LINEN, name, params, options)


def to_linen(name: str, params: Params, **options: Any) -> dict[str, PyTree]:
  """Returns the params of the Linen cell that computes the same; the inverse of `from_linen`.

      variables = {"params": {"cell": to_linen("lstm", params)}}
      ys = nn.RNN(nn.LSTMCell(hidden_size)).apply(variables, xs)

  Args:
    name: our cell's name: elman, gru or lstm.
    params: our cell's.
    **options: our cell's, as `make_cell` takes them; inner_bias follows from the params.
  Returns:
    {"ii": {"kernel": [D, H]}, …}. The bias "hn" of a GRU without b_h is zero.
  Raises:
    TypeError, ValueError: as `from_linen`.
  """
  return _to("flax.linen", LINEN, name, params, options, "flax.linen has no bias there")


def from_nnx(
  name: str, state: Mapping[str, PyTree], *, optimized: bool = True, **options: Any
) -> Params:
  """Returns our cell's params, from those of NNX's SimpleCell, GRUCell or (Optimized)LSTMCell.

      params = from_nnx("lstm", nnx.to_pure_dict(nnx.state(rnn.cell, nnx.Param)))

  Contrary to its docstring, nnx.GRUCell has no bias in the term that r scales. So it is our default
  gru; with inner_bias=True, b_h is zero.

  Args:
    name: our cell's name: elman, gru or lstm.
    state: {"dense_i": {"kernel": [D, G·H], …}, "dense_h": …}, as a plain dict of arrays.
    optimized: True for the fused params of an OptimizedLSTMCell; False for an nnx.LSTMCell, which
      has a layer for each gate.
    **options: our cell's, as `make_cell` takes them. An elman's activation is not in its params: it
      is the `activation_fn` of SimpleCell.
  Returns:
    Our params, with unchanged values.
  Raises:
    TypeError, ValueError: a missing, extra or wrongly shaped entry, by name ("dense_h/kernel"); a
      cell that NNX lacks, such as gru(reset="before").
  """
  checks.boolean("optimized", optimized)
  return _from("flax.nnx", NNX if optimized else NNX_BY_GATE, name, state, options)


def to_nnx(
  name: str, params: Params, *, optimized: bool = True, **options: Any
) -> dict[str, PyTree]:
  """Returns the params of the NNX cell that computes the same, as a plain dict; see `from_nnx`.

      state = nnx.state(rnn.cell, nnx.Param)
      nnx.replace_by_pure_dict(state, to_nnx("lstm", params))
      nnx.update(rnn.cell, state)

  Args:
    name: our cell's name: elman, gru or lstm.
    params: our cell's.
    optimized: True for an OptimizedLSTMCell; False for an nnx.LSTMCell, with a layer for each gate.
    **options: our cell's, as `make_cell` takes them; inner_bias follows from the params.
  Returns:
    {"dense_i": {"kernel": [D, G·H], …}, "dense_h": …}.
  Raises:
    TypeError, ValueError: as `from_nnx`; also a GRU whose b_h is not zero, since nnx.GRUCell has no
      b_h.
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
