"""Weight layouts: how each library arranges the blocks of weights, one block per use and gate."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rnn_jax import checks
from rnn_jax.cells import make_cell
from rnn_jax.types import Array

# Entry -> (use, gates on its last axis). Uses are our params: w_x, w_h, b; b_h is a bias that is
# added to the recurrent product.
Layout = Mapping[str, tuple[str, str]]
Blocks = dict[tuple[str, str], Array]  # (use, gate) -> [D, H], [H, H] or [H]

OURS: Mapping[str, Layout] = {
  "elman": {"w_x": ("w_x", "h"), "w_h": ("w_h", "h"), "b": ("b", "h")},
  "gru reset=after": {
    "w_x": ("w_x", "zrn"),
    "w_h": ("w_h", "zrn"),
    "b": ("b", "zrn"),
    "b_h": ("b_h", "n"),  # with inner_bias
  },
  "gru reset=before": {"w_x": ("w_x", "zrn"), "w_h": ("w_h", "zrn"), "b": ("b", "zrn")},
  "gru reset=none": {"w_x": ("w_x", "zn"), "w_h": ("w_h", "zn"), "b": ("b", "zn")},
  "lstm": {"w_x": ("w_x", "ifgo"), "w_h": ("w_h", "ifgo"), "b": ("b", "ifgo")},
}
NAMES = ("elman", "gru", "lstm")


def kind_of(
  library: str, table: Mapping[str, Layout], name: str, options: Mapping[str, object]
) -> str:
  """Returns our cell's key in the tables; refuses a cell that the library lacks."""
  checks.choice("cell", name, NAMES)
  make_cell(name, 1, **options)  # refuses wrong options
  kind = f"gru reset={options.get('reset', 'after')}" if name == "gru" else name
  return checks.choice(f"cell of {library}", kind, table)


def our_layout(kind: str, inner_bias: bool) -> Layout:
  """Returns the layout of our params, with b_h if `inner_bias`."""
  return {entry: use for entry, use in OURS[kind].items() if entry != "b_h" or inner_bias}


def convert(
  kind: str,
  given: Mapping[str, ArrayLike],
  source: Layout,
  target: Layout,
  lacks: str,
  *,
  transposed: bool = False,
  sizes: Mapping[str, int] | None = None,
) -> dict[str, Array]:
  """Converts entries of the layout `source` to entries of the layout `target`.

  Args:
    kind: key of OURS.
    given: entry -> array.
    source: layout of the given entries.
    target: layout of the result.
    lacks: completes the error message if `target` has no bias inside the term that r scales.
    transposed: the given kernels are [G·H, D].
    sizes: D or H, if they are known from other layers.
  Returns:
    entry -> array, kernels [D, G·H].
  Raises:
    TypeError, ValueError: a missing, extra or wrongly shaped entry, or a bias that would be lost.
  """
  blocks = _split(given, source, transposed, sizes or {})
  apart = OURS[kind].get("b_h", ("b_h", ""))[1]
  for use, gate in list(blocks):
    if use == "b_h" and gate not in apart:
      # Nothing scales the recurrent product here, so the two biases add up.
      blocks["b", gate] = blocks["b", gate] + blocks.pop((use, gate))
  wanted = {(use, gate) for use, gates in target.values() for gate in gates}
  for use, gate in set(blocks) - wanted:
    if jnp.any(blocks[use, gate] != 0):
      entry = next(e for e, (u, gates) in source.items() if u == use and gate in gates)
      raise ValueError(f"{entry} must be zero where r scales it, in the block of n, since {lacks}.")
  none = jnp.zeros_like(next(block for (use, _), block in blocks.items() if use == "w_h")[0])
  return {
    entry: jnp.concatenate([blocks.get((use, gate), none) for gate in gates], axis=-1)
    for entry, (use, gates) in target.items()
  }


def _split(
  given: Mapping[str, ArrayLike], layout: Layout, transposed: bool, sizes: Mapping[str, int]
) -> Blocks:
  """Splits all entries into blocks, kernels [D, H] and [H, H]."""
  arrays = entries(given, layout)
  dtype = next(iter(arrays.values())).dtype
  for entry, array in arrays.items():
    if array.dtype != dtype:
      raise TypeError(
        f"{entry} must be floats of the same dtype as the other entries, got {array.dtype}."
      )
  rows = -1 if transposed else 0
  size = {"D": _axis(arrays, layout, "w_x", rows), "H": _axis(arrays, layout, "w_h", rows), **sizes}
  blocks: Blocks = {}
  # The recurrent kernel first: it defines H, so it is the one to name if it is not square.
  for entry, (use, gates) in sorted(layout.items(), key=lambda item: item[1][0] != "w_h"):
    width = len(gates) * size["H"]
    symbols = [f"{len(gates)}·H" if len(gates) > 1 else "H"]
    shape: tuple[int, ...] = (width,)
    if use in ("w_x", "w_h"):
      axis = "D" if use == "w_x" else "H"
      symbols, shape = [axis, *symbols], (size[axis], width)
    if transposed:
      symbols, shape = symbols[::-1], shape[::-1]
    array = arrays[entry]
    if array.shape != shape or not array.size:
      raise ValueError(
        f"{entry} must be [{', '.join(symbols)}] = {list(shape)}, got {list(array.shape)}."
      )
    array = array.T if transposed else array
    blocks.update(
      zip([(use, gate) for gate in gates], jnp.split(array, len(gates), axis=-1), strict=True)
    )
  return blocks


def entries(given: Mapping[str, ArrayLike], layout: Layout) -> dict[str, Array]:
  """Returns the entries of a layout as arrays; refuses missing and unknown entries."""
  for entry in given:
    checks.choice("entry", entry, layout)
  for entry in layout:
    if entry not in given:
      came = ", ".join(given) or "none"
      raise ValueError(f"Missing entry '{entry}' (expected {', '.join(layout)}; got {came}).")
  return {entry: _array(entry, given[entry]) for entry in layout}


def _array(entry: str, value: ArrayLike) -> Array:
  return checks.array(entry, value if isinstance(value, jax.Array) else np.asarray(value), "floats")


def _axis(arrays: Mapping[str, Array], layout: Layout, use: str, axis: int) -> int:
  """Returns the size of an axis of the first kernel of a use; 0, which is refused, for a scalar."""
  entry = next(entry for entry, (u, _) in layout.items() if u == use)
  return arrays[entry].shape[axis] if arrays[entry].ndim else 0
