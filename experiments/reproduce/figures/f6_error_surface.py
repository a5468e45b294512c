"""F6. Walls in the error surface of a single unit.

A wall is a line in the plane of weight and bias at which the error changes abruptly, so that the
norm of its gradient is very large.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from experiments.plotting import style
from experiments.reproduce.figure import Check, Figure, Outcome, absolute
from rnn_jax.time_loop import unroll
from rnn_jax.types import Array, Cell, FlatParams, Units, unprepared

START, TARGET, STEPS = 0.5, 0.7, 50
WEIGHTS, BIASES = np.linspace(3, 5, 201), np.linspace(-3, -2, 201)
SETTLING = 2000  # number of steps after which x has reached an equilibrium from any start
FOLD_BIASES = np.linspace(-2.7, -2.3, 4001)
PUBLISHED_PLACE, PUBLISHED_NORM = (4.94, -2.575), 3.3e3

_Scalar = Float[Array, ""]
_Points = Float[Array, " n"]
_Weight = TypeVar("_Weight", float, np.ndarray)


def logistic() -> Cell:
  """Returns a single logistic unit without input.

    x' = w σ(x) + b        y = σ(x')

  Returns:
    A Cell that ignores xs: carry and y [..., 1]; params {"w": [], "b": []}.
  References:
    Pascanu et al., 2013, https://arxiv.org/abs/1211.5063
  """

  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    del key, input_size
    return {"w": jnp.zeros((), dtype), "b": jnp.zeros((), dtype)}

  def initial_carry(batch_shape: tuple[int, ...], dtype: DTypeLike = float) -> Units:
    return jnp.zeros((*batch_shape, 1), dtype)

  def project(
    params: FlatParams, xs: Float[Array, "*batch D"], key: Key[Array, ""] | None = None
  ) -> Units:
    del key
    return jnp.broadcast_to(params["b"], (*xs.shape[:-1], 1))

  def recur(params: FlatParams, x: Units) -> Units:
    return params["w"] * jax.nn.sigmoid(x)

  def update(params: FlatParams, x: Units, drive: Units, recurrent: Units) -> Units:
    del params, x
    return drive + recurrent

  def output(params: FlatParams, x: Units, drive: Units) -> Units:
    del params, drive
    return jax.nn.sigmoid(x)

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=unprepared,
    project=project,
    recur=recur,
    update=update,
    output=output,
  )


def trajectory(w: _Scalar, b: _Scalar, start: float, num_steps: int) -> tuple[_Scalar, _Scalar]:
  """Returns (x, σ(x)) after `num_steps` steps that start from x = `start`."""
  nothing = jnp.zeros((num_steps, 1, 1))
  carry = jnp.full((1, 1), start)
  x, ys = unroll(logistic(), {"w": w, "b": b}, nothing, carry)
  return x[0, 0], ys[-1, 0, 0]


@jax.jit
def surface(w: _Points, b: _Points) -> tuple[_Points, _Points, _Points]:
  """Returns E = (σ(x_50) − 0.7)², ‖∇E‖ and ‖∇(x_50 − 0.7)²‖ at each (w, b); ∇ is ∂/∂(w, b)."""

  def of_output(w: _Scalar, b: _Scalar) -> _Scalar:
    return (trajectory(w, b, START, STEPS)[1] - TARGET) ** 2

  def of_state(w: _Scalar, b: _Scalar) -> _Scalar:
    return (trajectory(w, b, START, STEPS)[0] - TARGET) ** 2

  def point(w: _Scalar, b: _Scalar) -> tuple[_Scalar, _Scalar, _Scalar]:
    error, slope = jax.value_and_grad(of_output, argnums=(0, 1))(w, b)
    return error, jnp.hypot(*slope), jnp.hypot(*jax.grad(of_state, argnums=(0, 1))(w, b))

  return jax.vmap(point)(w, b)


@jax.jit
def distance(b: _Points) -> _Points:
  """Returns the distance between the final x of two trajectories at w = 5, for each bias.

  One trajectory starts far below the equilibria and one far above, so the distance is 0 unless the
  unit has two stable equilibria.
  """

  def point(b: _Scalar) -> _Scalar:
    w = jnp.full_like(b, 5.0)
    ends = [trajectory(w, b, start, SETTLING)[0] for start in (-10.0, 10.0)]
    return ends[1] - ends[0]

  return jax.vmap(point)(b)


def fold(w: _Weight, sign: int) -> _Weight:
  """Returns a bias at which two equilibria meet: w σ′(x) = 1 and x = w σ(x) + b.

  For w > 4 there are two such biases, one with a negative and one with a positive x; `sign` is the
  sign of x.
  """
  s = (1 + sign * np.sqrt(1 - 4 / w)) / 2
  return np.log(s / (1 - s)) - w * s


def run() -> Outcome:
  """Finds the biases with two stable equilibria at w = 5, and the largest ‖∇E‖ over (w, b)."""
  w, b = np.meshgrid(WEIGHTS, BIASES, indexing="ij")
  along = np.linspace(-0.01, 0.01, 20001)  # offsets of b along a line across the wall
  steep_w, steep_b = np.full_like(along, PUBLISHED_PLACE[0]), PUBLISHED_PLACE[1] + along
  with jax.enable_x64(True):
    apart = np.asarray(distance(jnp.asarray(FOLD_BIASES)))
    flat = surface(jnp.asarray(w.ravel()), jnp.asarray(b.ravel()))
    _, slope, state_slope = (np.asarray(a).reshape(w.shape) for a in flat)
    across = [np.asarray(a) for a in surface(jnp.asarray(steep_w), jnp.asarray(steep_b))]
  bistable = FOLD_BIASES[apart > 0.1]
  at = np.unravel_index(np.argmax(slope), slope.shape)
  coarse = slope[::2, ::2].max()
  ratio = slope[at] / PUBLISHED_NORM
  checks = [
    absolute("smallest b that is bistable at w = 5", bistable[0], -2.6556, 2e-4),
    absolute("largest b that is bistable at w = 5", bistable[-1], -2.3444, 2e-4),
    absolute("w of the largest ‖∇E‖", w[at], PUBLISHED_PLACE[0], 0.01),
    absolute("b of the largest ‖∇E‖", b[at], PUBLISHED_PLACE[1], 0.005),
    Check("largest ‖∇E‖", float(slope[at]), "3.3e3, within a factor of 2", bool(0.5 <= ratio <= 2)),
  ]
  table = [
    {"quantity": name, "value": float(value)}
    for name, value in (
      ("bistable from b =", bistable[0]),
      ("  in closed form", fold(5.0, 1)),
      ("bistable to b =", bistable[-1]),
      ("  in closed form", fold(5.0, -1)),
      ("largest ‖∇E‖ on 201 × 201 points", slope[at]),
      ("  at w =", w[at]),
      ("  at b =", b[at]),
      ("largest on every second of these points", coarse),
      ("largest on a line across the wall at w = 4.94", across[1].max()),
      ("largest ‖∇(x_50 − 0.7)²‖ on 201 × 201 points", state_slope.max()),
      ("  where ‖∇E‖ is largest", state_slope[at]),
    )
  ]
  notes = [
    "E is the error of the output, (σ(x_50) − 0.7)². The error of the state, (x_50 − 0.7)², has a "
    f"gradient norm of {state_slope[at]:.3g} at the same point.",
    "The wall is narrower than the spacing of the grid, and steeper for larger w, so the largest "
    "value on a grid belongs to the point closest to the wall. Half as many points per side give "
    f"{coarse:.3g}; a line across the wall at w = 4.94 gives {across[1].max():.4g}.",
  ]

  return Outcome(
    table,
    checks,
    functools.partial(draw, slope=slope, largest=at, line=steep_b, across=across),
    notes,
  )


def draw(
  figure: matplotlib.figure.Figure,
  slope: Float[np.ndarray, "weights biases"],
  largest: tuple[np.intp, ...],
  line: Float[np.ndarray, " points"],
  across: Sequence[Float[np.ndarray, " points"]],
) -> None:
  """Draws ‖∇E‖ over the plane of w and b, and E and ‖∇E‖ on a line across the wall.

  The wall is where the error E changes abruptly.
  """
  left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
  mesh = left.pcolormesh(
    WEIGHTS, BIASES, np.log10(slope.T), cmap="viridis", shading="nearest", rasterized=True
  )
  folds = np.linspace(4, WEIGHTS[-1], 200)
  for sign in (-1, 1):
    left.plot(folds, fold(folds, sign), color="white", lw=1, ls="--")
  left.plot([], [], color="white", lw=1, ls="--", label="two stable equilibria in between")
  left.plot(
    WEIGHTS[largest[0]],
    BIASES[largest[1]],
    "o",
    color="#D55E00",
    mfc="none",
    ms=9,
    mew=1.5,
    ls="none",
  )
  left.plot([], [], "o", color="#D55E00", mfc="none", label=f"largest: {slope[largest]:.0f}")
  left.legend(frameon=False, fontsize=style.SMALL, labelcolor="white", loc="lower left")
  left.set_xlabel("weight w")
  left.set_ylabel("bias b")
  figure.colorbar(mesh, ax=left, label="log10 ‖∇E‖")
  right.semilogy(line, across[1], color="#0072B2", lw=1, label="‖∇E‖")
  right.semilogy(line, across[0], color=style.GRAY, lw=1, label="E")
  right.set_title(f"across the wall, w = {PUBLISHED_PLACE[0]}", fontsize=style.MEDIUM)
  right.set_xlabel("bias b")
  right.legend(frameon=False, fontsize=style.SMALL)


figure = Figure(
  title="Walls in the error surface of a single unit",
  setting="x′ = w σ(x) + b, 50 steps from 0.5, E = (σ(x_50) − 0.7)²; w from 3 to 5, b from −3 to "
  "−2, 201 × 201 points; float64",
  source="Pascanu et al., 2013, https://arxiv.org/abs/1211.5063",
  seconds=5,
  run=run,
)
