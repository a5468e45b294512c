"""Recurrent cells, one family per file; wrappers of cells; and the registry of cells by name.

Conventions of the cells' docstrings: vectors are rows, ∘ is the elementwise product, and σ is the
logistic sigmoid. A prime marks a value after the step: h' is h_t, h is h_{t−1}. The *step Jacobian*
is ∂h'/∂h with entry [i, j] = ∂h'_j/∂h_i, so for h' = φ(h W_h) it is W_h diag(φ'). D is the width of
the input x, H that of the carry, and `...` stands for any batch axes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, overload

from rnn_jax import checks, registry
from rnn_jax.cells.antisymmetric import antisymmetric
from rnn_jax.cells.brc import brc, nbrc
from rnn_jax.cells.cfc import cfc
from rnn_jax.cells.clockwork import ClockworkCarry, clockwork
from rnn_jax.cells.cornn import CornnCarry, cornn
from rnn_jax.cells.delta_net import delta_net, gated_delta_net
from rnn_jax.cells.elman import elman, irnn
from rnn_jax.cells.exprnn import exprnn
from rnn_jax.cells.fast_rnn import fast_grnn, fast_rnn
from rnn_jax.cells.gru import gru
from rnn_jax.cells.indrnn import indrnn
from rnn_jax.cells.janet import janet
from rnn_jax.cells.layer_norm_lstm import layer_norm_lstm
from rnn_jax.cells.leaky import leaky
from rnn_jax.cells.lem import LEMCarry, lem
from rnn_jax.cells.lipschitz import lipschitz
from rnn_jax.cells.lmu import LMUCarry, lmu
from rnn_jax.cells.lru import lru
from rnn_jax.cells.lstm import LSTMCarry, lstm
from rnn_jax.cells.memoized import memoized
from rnn_jax.cells.mgu import mgu
from rnn_jax.cells.mingru import mingru, minlstm
from rnn_jax.cells.minimalrnn import minimalrnn
from rnn_jax.cells.mlstm import MLSTMCarry, mlstm
from rnn_jax.cells.multiplicative_lstm import multiplicative_lstm
from rnn_jax.cells.mut import mut1, mut2, mut3
from rnn_jax.cells.peephole_lstm import peephole_lstm
from rnn_jax.cells.qrnn import QRNNCarry, qrnn
from rnn_jax.cells.rg_lru import rg_lru
from rnn_jax.cells.rhn import rhn
from rnn_jax.cells.s4d import s4d
from rnn_jax.cells.s5 import s5
from rnn_jax.cells.s6 import s6
from rnn_jax.cells.scornn import scornn
from rnn_jax.cells.slstm import SLSTMCarry, slstm
from rnn_jax.cells.sru import SRUCarry, sru
from rnn_jax.cells.star import star
from rnn_jax.cells.ugrnn import ugrnn
from rnn_jax.cells.unicornn import UnicornnCarry, unicornn
from rnn_jax.cells.urnn import urnn
from rnn_jax.cells.wrappers.dilated import DilatedCarry, dilated, dilated_elman
from rnn_jax.cells.wrappers.layer_norm import layer_norm
from rnn_jax.cells.wrappers.residual import residual
from rnn_jax.cells.wrappers.stack import stack
from rnn_jax.cells.wrappers.zoneout import zoneout, zoneout_lstm
from rnn_jax.types import Cell

__all__ = [
  "CELLS",
  "ClockworkCarry",
  "CornnCarry",
  "DilatedCarry",
  "LEMCarry",
  "LMUCarry",
  "LSTMCarry",
  "MLSTMCarry",
  "QRNNCarry",
  "SLSTMCarry",
  "SRUCarry",
  "UnicornnCarry",
  "antisymmetric",
  "brc",
  "cell_options",
  "cfc",
  "clockwork",
  "cornn",
  "delta_net",
  "dilated",
  "dilated_elman",
  "elman",
  "exprnn",
  "fast_grnn",
  "fast_rnn",
  "gated_delta_net",
  "gru",
  "indrnn",
  "irnn",
  "janet",
  "layer_norm",
  "layer_norm_lstm",
  "leaky",
  "lem",
  "lipschitz",
  "lmu",
  "lru",
  "lstm",
  "make_cell",
  "mgu",
  "mingru",
  "minimalrnn",
  "minlstm",
  "mlstm",
  "multiplicative_lstm",
  "mut1",
  "mut2",
  "mut3",
  "nbrc",
  "peephole_lstm",
  "qrnn",
  "register_cell",
  "residual",
  "rg_lru",
  "rhn",
  "s4d",
  "s5",
  "s6",
  "scornn",
  "slstm",
  "sru",
  "stack",
  "star",
  "ugrnn",
  "unicornn",
  "urnn",
  "zoneout",
  "zoneout_lstm",
]

CELLS: Mapping[str, Callable[..., Cell]] = {
  "elman": elman,
  "irnn": irnn,
  "leaky": leaky,
  "fast_rnn": fast_rnn,
  "fast_grnn": fast_grnn,
  "indrnn": indrnn,
  "brc": brc,
  "nbrc": nbrc,
  "antisymmetric": antisymmetric,
  "lipschitz": lipschitz,
  "exprnn": exprnn,
  "scornn": scornn,
  "urnn": urnn,
  "cornn": cornn,
  "unicornn": unicornn,
  "lem": lem,
  "lmu": lmu,
  "cfc": cfc,
  "rhn": rhn,
  "minimalrnn": minimalrnn,
  "star": star,
  "clockwork": clockwork,
  "dilated_elman": dilated_elman,
  "gru": gru,
  "ugrnn": ugrnn,
  "mut1": mut1,
  "mut2": mut2,
  "mut3": mut3,
  "mgu": mgu,
  "lstm": lstm,
  "peephole_lstm": peephole_lstm,
  "layer_norm_lstm": layer_norm_lstm,
  "multiplicative_lstm": multiplicative_lstm,
  "zoneout_lstm": zoneout_lstm,
  "janet": janet,
  "slstm": slstm,
  "mlstm": mlstm,
  "delta_net": delta_net,
  "gated_delta_net": gated_delta_net,
  "lru": lru,
  "s4d": s4d,
  "s5": s5,
  "s6": s6,
  "mingru": mingru,
  "minlstm": minlstm,
  "qrnn": qrnn,
  "sru": sru,
  "rg_lru": rg_lru,
}

A = ParamSpec("A")


@overload
def register_cell(constructor: Callable[A, Cell], /) -> Callable[A, Cell]: ...
@overload
def register_cell(*, name: str) -> Callable[[Callable[A, Cell]], Callable[A, Cell]]: ...
def register_cell(constructor: Any = None, /, *, name: str | None = None) -> Any:
  """Adds a cell's constructor to `CELLS`; a decorator.

    @register_cell
    def my_cell(hidden_size: int, *, rate: float = 0.1) -> Cell:
      \"\"\"My cell: h' = ….\"\"\"

  Args:
    constructor: the constructor, whose signature is `(hidden_size, *, option=default, ...)`. Its
      docstring is what `--list_cells` shows.
    name: name of the cell; if not given, the constructor's name.
  Returns:
    The constructor, memoized: calls with equal arguments return the same cell.
  Raises:
    ValueError: if the name is taken, the signature is another one, or there is no docstring.
    TypeError: if `constructor` is not a function.
  """
  if constructor is None:
    return lambda given: _register_cell(given, name)
  return _register_cell(constructor, name)


def _register_cell(constructor: Callable[A, Cell], name: str | None) -> Callable[A, Cell]:
  checks.function("constructor", constructor)
  name = getattr(constructor, "__name__", "") if name is None else name
  parameters = list(inspect.signature(constructor).parameters.values())
  sizes = [p.name for p in parameters if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
  options = [p for p in parameters if p.default is not p.empty and p.kind is p.KEYWORD_ONLY]
  if sizes != ["hidden_size"] or len(options) + 1 != len(parameters):
    raise ValueError(
      f"cell {name!r} must have the signature (hidden_size, *, option=default, ...), got "
      f"{inspect.signature(constructor)}."
    )
  remembered = memoized(constructor)
  registry.register("cell", CELLS, name, remembered, constructor)
  return remembered


def cell_options(name: str) -> tuple[str, ...]:
  """Returns the names of a registered cell's options; its hidden size is not one of them.

  Args:
    name: a key of CELLS.
  Raises:
    ValueError: if `name` is not a registered cell.
  """
  constructor = CELLS[checks.choice("cell", name, CELLS)]
  parameters = inspect.signature(constructor).parameters.values()
  return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def make_cell(name: str, hidden_size: int, **options: object) -> Cell:
  """Builds a registered cell by name.

  Calls with equal arguments return the same cell; see `rnn_jax.cells.memoized`.

  Args:
    name: a key of CELLS.
    hidden_size: width H of the carry.
    **options: keyword options of that cell's constructor.
  Raises:
    ValueError: if `name` or an option is unknown; the message suggests the nearest name.
    TypeError, ValueError: if the cell's constructor rejects the hidden size or an option's value.
    TypeError: if the constructor of a cell from elsewhere returns no `Cell`.
  """
  known = cell_options(name)
  for option in options:
    checks.choice(f"option of cell {name}", option, known)
  return checks.instance(f"what {name} returns", CELLS[name](hidden_size, **options), Cell)
