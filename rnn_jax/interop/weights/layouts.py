"""Weight layouts: how each library arranges the blocks of a recurrent layer's weights.

A block is the part of a weight array that belongs to one gate. It is identified by its gate and its
use, which is the name of the param that holds the block in our cell: w_x, w_h, b or b_h.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rnn_jax import checks
from rnn_jax.cells import make_cell
from rnn_jax.types import Array

# Maps a library's entry, the name of a weight array, to (use, gates). `gates` has one letter for
# each gate, in the order of the array's last axis. The use b_h is a bias that is added to the
# recurrent product.
Layout = Mapping[str, tuple[str, str]]
Blocks = dict[tuple[str, str], Array]  # (use, gate) -> [D, H], [H, H] or [H]

OURS: Mapping[str, Layout] = {
  "elman": {"w_x": ("w_x", "h"), "w_h": ("w_h", "h"), "b": ("b", "h")},
  "gru reset=after": {
    "w_x": ("w_x", "zrn"),
    "w_h": ("w_h", "zrn"),
    "b": ("b", "zrn"),
    "b_h": ("b_h", "n"),  # present only with inner_bias=True
  },
  "gru reset=before": {"w_x": ("w_x", "zrn"), "w_h": ("w_h", "zrn"), "b": ("b", "zrn")},
  "gru reset=none": {"w_x": ("w_x", "zn"), "w_h": ("w_h", "zn"), "b": ("b", "zn")},
  "lstm": {"w_x": ("w_x", "ifgo"), "w_h": ("w_h", "ifgo"), "b": ("b", "ifgo")},
}
NAMES = ("elman", "gru", "lstm")


def kind_of(
  library: str, table: Mapping[str, Layout], name: str, options: Mapping[str, object]
) -> str:
  """Returns our cell's key in the layout tables; raises if `library` lacks the cell.

  Args:
    library: the other library's name, for the error message.
    table: the other library's layouts, by key.
    name: our cell's name.
    options: options of `make_cell` for our cell.
  """
  checks.choice("cell", name, NAMES)
  make_cell(name, 1, **options)  # raises if an option is wrong
  kind = f"gru reset={options.get('reset', 'after')}" if name == "gru" else name
  return checks.choice(f"cell of {library}", kind, table)


def our_layout(kind: str, inner_bias: bool) -> Layout:
  """Returns the layout of our cell's params; it includes b_h only if `inner_bias`."""
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
  """Rearranges the weights `given` in the layout `source` into the layout `target`.

  Args:
    kind: the cell's key in OURS.
    given: the weights, entry -> array.
    source: the layout of `given`.
    target: the layout of the result.
    lacks: end of the error message that is raised if `given` has a nonzero bias in the term that
      the GRU's reset gate r scales, and `target` has no bias there.
    transposed: whether the given kernels are [G·H, D] instead of [D, G·H].
    sizes: the input size "D" and the hidden size "H", where other layers determine them. Sizes that
      are missing here are those of the given kernels.
  Returns:
    The rearranged weights, entry -> array, with kernels [D, G·H].
  Raises:
    TypeError, ValueError: if an entry is missing, unknown or of the wrong shape, or if a bias would
      be lost.
  """
  blocks = _split(given, source, transposed, sizes or {})
  apart = OURS[kind].get("b_h", ("b_h", ""))[1]
  for use, gate in list(blocks):
    if use == "b_h" and gate not in apart:
      # No gate scales the recurrent product of this block, so its bias can be added to b.
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
  """Checks shapes and dtypes, and splits every entry into a block per gate: [D, H], [H, H], [H]."""
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
  # Check the recurrent kernel first, because it defines H: if it is wrong, the error must name it.
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
  """Returns the weights `given` as arrays; raises if an entry is missing or unknown."""
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
  """Returns the size of an axis of the layout's first kernel with this use (w_x or w_h).

  For a scalar it returns 0, so that the later check of the shape fails.
  """
  entry = next(entry for entry, (u, _) in layout.items() if u == use)
  return arrays[entry].shape[axis] if arrays[entry].ndim else 0
