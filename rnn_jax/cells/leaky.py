"""The leaky network (CTRNN), Euler steps of rate equations, optionally with Dale's law."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_init, dense_project, dense_recur, the_carry, zeros
from rnn_jax.cells.elman import ACTIVATIONS
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import drawn_in_float32
from rnn_jax.types import Array, Cell, FlatParams, Number, PlainCell, Units, unprepared


@memoized
def leaky(
  hidden_size: int,
  *,
  alpha: Number = 0.2,
  activation: str = "relu",
  excitatory: int | float | None = None,
  recurrent_kernel: str = "orthogonal",
  recurrent_gain: Number = 1.0,
) -> PlainCell:
  """Leaky network (CTRNN): firing rates that relax toward the activation of their input.

    h' = (1 − α) h + α φ(x W_x + h W_h + b)

  This is an Euler step of τ dh/dt = −h + φ(x W_x + h W_h + b), with α = Δt/τ. The carry h holds
  the rates, as in Yang et al. Song et al. integrate the currents, before φ, in the same way.

  With `excitatory`, units obey Dale's law: all outgoing weights of a unit have the same sign. The
  kernel is W_h = diag(s) |U| without its diagonal, where s is 1 for the first units, which are
  excitatory, and −1 for the others. At initialization, the excitatory rows of U are scaled so that
  excitation and inhibition balance on average.

  Step Jacobian: ∂h'/∂h = (1 − α) I + α W_h diag(φ'(a)), where a is the pre-activation. With α = 1
  the cell is `elman`.

  Gradient flow: on each unit's path through itself, every step multiplies the gradient by 1 − α, a
  constant that all units share and that neither the input nor training changes. Where φ' is 0, the
  gradient decays by a factor of e in about 1/α = τ/Δt steps.

  Args:
    hidden_size: width H of carry and output.
    alpha: α, the step size in units of the time constant, above 0 and at most 1.
    activation: φ, one of `tanh`, `relu`, `linear`.
    excitatory: share of excitatory units, between 0 and 1, such as 0.8. None for weights of any
      sign. Requires activation="relu", because Dale's law presumes nonnegative rates, and a
      `recurrent_kernel` other than `identity`, whose off-diagonal entries would stay 0.
    recurrent_kernel: initialization of W_h, or of U: `orthogonal`, `gaussian` or `identity`.
    recurrent_gain: factor on the recurrent kernel at initialization. (Yang et al. use 0.5.)
  Returns:
    A Cell: x [..., D], carry [..., H], y [..., H];
    params {"w_x": [D, H], "w_h": [H, H], "b": [H]}, or with `excitatory` {"w_x": [D, H],
    "u": [H, H], "b": [H]}.
  Raises:
    TypeError, ValueError: if `activation` or `recurrent_kernel` is unknown, `hidden_size` is below
      1, `alpha` is not above 0 and at most 1, `recurrent_gain` is not a finite number, or
      `excitatory` leaves no excitatory or no inhibitory unit, or is set with another activation
      than `relu` or with `identity`.
  References:
    Song et al., 2016, https://doi.org/10.1371/journal.pcbi.1004792; for U without its diagonal and
    its balanced rows: https://github.com/gyyang/nn-brain
    Yang et al., 2019, https://doi.org/10.1038/s41593-018-0310-2
  """
  checks.number("alpha", alpha, above=0, maximum=1)
  phi = ACTIVATIONS[checks.choice("activation", activation, ACTIVATIONS)]
  dense = dense_init(hidden_size, 1, recurrent_kernel, recurrent_gain)

  def update(params: FlatParams, h: Units, drive: Units, recurrent: Units) -> Units:
    del params
    a = jnp.asarray(alpha, h.dtype)
    return (1 - a) * h + a * phi(drive + recurrent)

  cell = Cell[FlatParams, Array, Array](
    init=dense,
    initial_carry=zeros(hidden_size),
    prepare=unprepared,
    project=dense_project,
    recur=dense_recur,
    update=update,
    output=the_carry,
    recurrent_kernel="w_h",
    output_is_carry=True,
  )
  if excitatory is None:
    return cell
  if activation != "relu":
    raise ValueError(
      "activation must be 'relu' if excitatory is given, because Dale's law needs firing rates "
      f"that are not negative; got '{activation}'."
    )
  if recurrent_kernel == "identity":
    raise ValueError(
      "recurrent_kernel must not be 'identity' if excitatory is given, because the diagonal of the "
      "kernel is then zero."
    )
  return _with_dales_law(cell, hidden_size, excitatory)


def _with_dales_law(cell: PlainCell, hidden_size: int, share: int | float) -> PlainCell:
  """Returns the cell with the recurrent kernel diag(s) |U| without its diagonal."""
  checks.number("excitatory", share, above=0, below=1)
  num_excitatory = round(share * hidden_size)
  num_inhibitory = hidden_size - num_excitatory
  if not num_excitatory or not num_inhibitory:
    raise ValueError(
      "excitatory must leave units of both kinds, got "
      f"{num_excitatory} excitatory and {num_inhibitory} inhibitory units from {share}."
    )
  excites = np.arange(hidden_size)[:, None] < num_excitatory
  balance = np.where(excites, num_inhibitory / num_excitatory, 1)
  mask = np.where(excites, 1, -1) * (1 - np.eye(hidden_size))

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    params = cell.init(key, input_size, dtype)
    u = jnp.asarray(balance, params["b"].dtype) * params["w_h"]
    return {"w_x": params["w_x"], "u": u, "b": params["b"]}

  def prepare(params: FlatParams) -> FlatParams:
    u = params["u"]
    return {"w_x": params["w_x"], "w_h": jnp.asarray(mask, u.dtype) * jnp.abs(u), "b": params["b"]}

  return cell._replace(init=init, prepare=prepare, recurrent_kernel=None)
