"""Conversion of weights to and from keras.layers.SimpleRNN, GRU and LSTM.

The weights are lists of NumPy arrays, so Keras need not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_jax import checks
from rnn_jax.interop.weights.layouts import Layout, convert, kind_of, our_layout
from rnn_jax.types import AnyArray, Params

LIBRARY = "keras.layers"
KERAS: Mapping[str, Layout] = {
  "elman": {"kernel": ("w_x", "h"), "recurrent_kernel": ("w_h", "h"), "bias": ("b", "h")},
  "gru reset=after": {
    "kernel": ("w_x", "zrn"),
    "recurrent_kernel": ("w_h", "zrn"),
    "bias[0]": ("b", "zrn"),
    "bias[1]": ("b_h", "zrn"),
  },
  "gru reset=before": {
    "kernel": ("w_x", "zrn"),
    "recurrent_kernel": ("w_h", "zrn"),
    "bias": ("b", "zrn"),
  },
  "lstm": {"kernel": ("w_x", "ifgo"), "recurrent_kernel": ("w_h", "ifgo"), "bias": ("b", "ifgo")},
}


def params_from_keras(name: str, weights: Sequence[AnyArray], **options: Any) -> Params:
  """Converts the weights of a keras.layers.SimpleRNN, GRU or LSTM to our cell's params.

    w_x = kernel      w_h = recurrent_kernel      b = bias, or bias[0] + bias[1] for a GRU

  The exception is the candidate n of a GRU with `reset_after=True`: there b = bias[0] and
  b_h = bias[1], because the reset gate r scales b_h but not b. Our gru has b_h only with
  `inner_bias=True`. Without this option, n's part of bias[1] must be zero.

      params = params_from_keras("lstm", layer.get_weights())
      # For the weights of a keras.layers.Bidirectional:
      forward, backward = (params_from_keras("lstm", w) for w in (weights[:3], weights[3:]))

  Args:
    name: our cell's name: elman, gru or lstm.
    weights: [kernel, recurrent_kernel, bias], from `get_weights()`. If there is no bias
      (`use_bias=False`), our biases are zero.
    **options: options of `make_cell` for our cell. Our default reset="after" corresponds to
      Keras's default `reset_after=True`, with a bias [2, 3·H]; reset="before" corresponds to
      `reset_after=False`, with a bias [3·H]. An Elman cell's activation corresponds to the layer's
      `activation`; it does not affect the params.
  Returns:
    Our cell's params.
  Raises:
    TypeError, ValueError: if an array is missing, extra or of the wrong shape (the message names
      it), if a GRU's bias does not fit the option `reset`, or if Keras lacks the cell.
  """
  kind = kind_of(LIBRARY, KERAS, name, options)
  if not isinstance(weights, Sequence) or len(weights) not in (2, 3):
    what = f"{len(weights)}" if isinstance(weights, Sequence) else f"a {type(weights).__name__}"
    raise ValueError(f"weights must be [kernel, recurrent_kernel, bias], or two, got {what}.")
  given = dict(zip(("kernel", "recurrent_kernel", "bias"), weights, strict=False))
  layout = KERAS[kind]
  if len(weights) == 2:
    layout = {entry: use for entry, use in layout.items() if not entry.startswith("bias")}
  elif name == "gru":
    bias = np.shape(weights[2])
    rule, other = ("[2, 3·H]", "before") if "bias[0]" in layout else ("[3·H]", "after")
    if len(bias) != rule.count(",") + 1 or (len(bias) == 2 and bias[0] != 2):
      raise ValueError(
        f"bias must be {rule} with reset={options.get('reset', 'after')!r}, got {list(bias)}; "
        f"the other is reset={other!r}."
      )
    if "bias[0]" in layout:
      given["bias[0]"], given["bias[1]"] = given.pop("bias")
  ours = our_layout(kind, bool(options.get("inner_bias", False)))
  return convert(kind, given, layout, ours, f"{name} has no bias there without inner_bias=True")


def params_to_keras(name: str, params: Params, **options: Any) -> list[np.ndarray]:
  """Converts our cell's params to weights for the Keras layer's `set_weights`.

  The inverse of `params_from_keras`.

  Args:
    name: our cell's name: elman, gru or lstm.
    params: our cell's params.
    **options: options of `make_cell` for our cell. `inner_bias` may be omitted, because it is
      inferred from whether the params have b_h. The weights of a GRU with reset="before" fit a
      layer with `reset_after=False`; those of a GRU with reset="after" fit one with
      `reset_after=True`.
  Returns:
    [kernel, recurrent_kernel, bias], NumPy arrays, for a layer with `use_bias=True`. For a
    `keras.layers.Bidirectional`, concatenate the lists of both directions.
  Raises:
    TypeError, ValueError: as in `params_from_keras`.
  """
  kind = kind_of(LIBRARY, KERAS, name, options)
  checks.instance("params", params, Mapping)
  ours = our_layout(kind, "b_h" in params)
  converted = convert(kind, params, ours, KERAS[kind], "Keras has no bias there")
  kernel, recurrent_kernel, *bias = (np.array(value) for value in converted.values())
  return [kernel, recurrent_kernel, bias[0] if len(bias) == 1 else np.stack(bias)]
