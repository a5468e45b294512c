"""Initializations of whole networks: critical gains, orthogonal kernels, unit variance (LSUV)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rnn_jax import checks
from rnn_jax.initializers import RECURRENT_KERNELS
from rnn_jax.time_loop import unroll
from rnn_jax.types import Cell, FlatParams, Number, Sequences, check_cells

# {cell: (function of the forget gate's bias that returns the gain, options that it assumes)}
_CRITICAL: Mapping[str, tuple[Callable[[Array], Array], Mapping[str, Sequence[Any]]]] = {
  "elman": (jnp.ones_like, {"activation": ("tanh", "linear")}),
  "gru": (lambda b: 2 * jnp.ones_like(b), {"reset": ("after", "before"), "chrono": (None,)}),
  "lstm": (
    lambda b: 4 * (1 - jax.nn.sigmoid(b)),
    {"forget_gate": (True,), "chrono": (None,)},
  ),
  "mgu": (lambda b: 1 / jax.nn.sigmoid(b), {"reset": ("after",)}),
  "peephole_lstm": (lambda b: 4 * (1 - jax.nn.sigmoid(b)), {}),
  "ugrnn": (jnp.ones_like, {}),
}


def critical_gain(cell: str, *, forget_bias: Number = 1.0, **options: Any) -> Float[Array, ""]:
  """Returns the recurrent gain at which a cell's zero state is at the edge of stability.

    elman, ugrnn: 1      gru: 2      mgu: 1 / σ(b_f)      lstm, peephole_lstm: 4 (1 − σ(b_f))

  At this gain, the spectral radius of the step Jacobian at carry and input zero is 1 for large H,
  so that small perturbations, and gradients, neither grow nor decay: J = W_h for an Elman network,
  ½ I + ¼ W_n for a GRU, and for an LSTM eigenvalues σ(b_f) + ¼ w and 0, where w are those of W_g.
  Each W is the gain times a kernel of spectral radius 1: of orthogonal kernels exactly, of Gaussian
  ones for large H. Inputs, and a carry that they drive away from zero, saturate the gates and move
  the edge.

  Args:
    cell: name of a cell of `CELLS`.
    forget_bias: b_f; may be traced.
    **options: the cell's other options, as for `make_cell`.
  Raises:
    TypeError, ValueError: if the gain is not known for the cell or with its options, or if
      `forget_bias` is not a finite number.
  References:
    Chen, Pennington and Schoenholz, 2018 (Elman, minimalRNN), https://arxiv.org/abs/1806.05394
    Can, Krishnamurthy and Schwab, 2020 (GRU, LSTM), https://arxiv.org/abs/2002.00025
  """
  gain, assumed = _CRITICAL[checks.choice("cell with a critical gain", cell, _CRITICAL)]
  checks.number("forget_bias", forget_bias)
  for name, values in assumed.items():
    if name in options and options[name] not in values:
      texts = " or ".join(str(value).lower() for value in values)
      raise ValueError(
        f"{name} of {cell} must be {texts} for a critical gain, got {options[name]}."
      )
  return gain(jnp.asarray(forget_bias, float))


def orthogonal_inputs(
  cells: Sequence[Cell], params: Sequence[FlatParams], key: Key[Array, ""]
) -> tuple[FlatParams, ...]:
  """Returns the params with semi-orthogonal input kernels: W Wᵀ = I or Wᵀ W = I, gate by gate.

  W is the block [D, H] of each gate in W_x. The blocks are drawn independently. With orthogonal
  recurrent kernels, the default of most cells, all kernels of every gate are orthogonal.

  Args:
    cells: the cell of each layer, the layer nearest the input first.
    params: the params of each cell, with an entry "w_x": [D, G·H].
    key: random key.
  Raises:
    TypeError, ValueError: if an argument has the wrong type, or if a cell has no param "w_x".
  References:
    Saxe et al., 2014, https://arxiv.org/abs/1312.6120
  """
  _check(cells, params)
  checks.key("key", key)
  draw, new = RECURRENT_KERNELS["orthogonal"], []
  for i, (cell, own) in enumerate(zip(cells, params, strict=True)):
    w_x = own["w_x"]
    size = jax.tree.leaves(jax.eval_shape(lambda cell=cell: cell.initial_carry(())))[0].size
    blocks = max(1, w_x.shape[1] // size)
    keys = jax.random.split(jax.random.fold_in(key, i), blocks)
    widths = (size,) * (blocks - 1) + (w_x.shape[1] - size * (blocks - 1),)
    parts = [draw(k, (w_x.shape[0], n), w_x.dtype) for k, n in zip(keys, widths, strict=True)]
    new.append({**own, "w_x": jnp.concatenate(parts, axis=1)})
  return tuple(new)


def unit_variance(
  cells: Sequence[Cell], params: Sequence[FlatParams], xs: Sequences
) -> tuple[FlatParams, ...]:
  """Returns the params with input kernels scaled so that x W_x has variance 1 on data (LSUV).

    W_x ← W_x / std(x W_x)        layer by layer, each on the outputs of the layers below

  The variance is over time, batch and units. Layer-sequential unit-variance initialization scales
  what a layer computes from its inputs, before the nonlinearity. In a recurrent layer this is the
  input's part of the pre-activation. The recurrent kernel, on which the decay of gradients depends,
  keeps its gain. Since x W_x is linear in W_x, a single rescaling is exact. The
  paper starts from orthonormal kernels; see `orthogonal_inputs`.

  Args:
    cells: the cell of each layer, the layer nearest the input first.
    params: the params of each cell, with an entry "w_x": [D, G·H].
    xs: the first layer's inputs: [T, B, D], or integer tokens [T, B].
  Returns:
    The params. A layer whose x W_x does not vary keeps its kernel.
  Raises:
    TypeError, ValueError: if an argument has the wrong type, or if a cell has no param "w_x".
  References:
    Mishkin and Matas, 2016, https://arxiv.org/abs/1511.06422
  """
  _check(cells, params)
  ys, new = checks.array("xs", xs, "floats", "integers"), []
  for cell, own in zip(cells, params, strict=True):
    w_x = own["w_x"]
    drive = w_x[ys] if jnp.issubdtype(ys.dtype, jnp.integer) else ys @ w_x
    spread = jnp.std(drive)
    scale = jnp.where(spread > 0, spread, jnp.ones_like(spread))
    new.append({**own, "w_x": w_x / scale})
    _, ys = unroll(cell, new[-1], ys)
  return tuple(new)


def _check(cells: Sequence[Cell], params: Sequence[FlatParams]) -> None:
  """Raises unless there are params with an input kernel for each cell."""
  check_cells(cells)
  checks.per_layer("params", params, len(cells))
  for i, own in enumerate(params):
    if not isinstance(own, Mapping) or "w_x" not in own:
      raise ValueError(f"params[{i}] must have an input kernel w_x, got {checks.shapes(own):.200}.")
