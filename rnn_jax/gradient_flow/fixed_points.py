"""Fixed and slow points of a cell under constant input, and the linear dynamics around them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Complex, Float, Int, Key

from rnn_jax import checks
from rnn_jax.gradient_flow.joint_carry import from_vector, step_jacobian, to_vector
from rnn_jax.gradient_flow.layer_sweep import forward_layers
from rnn_jax.precision import at_least_float32
from rnn_jax.time_loop import check_params
from rnn_jax.types import AnyArray, Carry, Cell, Drive, Params, Sequences, step


class FixedPoints(NamedTuple):
  """The distinct points that a search found, M in number, the slowest first.

  Attributes:
    points: joint carries s, [M, N].
    speeds: q(s) = ½ ‖F(s) − s‖², at a fixed point at most about 32 N ε² max(1, ‖s‖²), where
      ε is the dtype's precision, [M].
    counts: the number of starts from which the search ended at this point, [M].
    eigenvalues: those of J = ∂F/∂s at the point, by descending absolute value, [M, N].
    num_unstable: the number of eigenvalues with |λ| > 1, [M]. At a fixed point where no |λ| is 1,
      it is the number of unstable directions, 0 at an attractor. At slow points, and where a |λ| is
      1 up to rounding, it says nothing about stability.
  """

  points: Float[np.ndarray, "M N"]
  speeds: Float[np.ndarray, " M"]
  counts: Int[np.ndarray, " M"]
  eigenvalues: Complex[np.ndarray, "M N"]
  num_unstable: Int[np.ndarray, " M"]


def fixed_points(
  cell: Cell,
  params: Params,
  x: Float[AnyArray, " D"] | Int[AnyArray, ""],
  starts: Carry,
  *,
  num_steps: int = 1000,
  distance: float = 1e-3,
) -> FixedPoints:
  """Returns the fixed and slow points of a cell for a constant input x.

    q(s) = ½ ‖F(s) − s‖²        F(s) = f(s, x; params)

  A local minimum of q is a fixed point if q = 0 there, and otherwise a slow point: a place that the
  state passes slowly. L-BFGS minimizes q from every start. It finds saddles and repellers as well
  as attractors, since all of them are minima of q. Around a fixed point the state moves as
  δ_t = J δ_{t−1}, so a gradient that flows back through k steps spent there, by powers of Jᵀ, grows
  or decays along each left eigenvector of J as |λ|^k.

  Convention: s is the joint carry (an LSTM's hidden and cell together). Integer leaves of the carry
  are constants, those of the starts. Starts whose search does not end at a finite q are left out. A
  fixed point's error is about ε ‖(I − J)⁻¹‖. A continuum of slow points, such as a line attractor,
  is returned as many points.

  Cost: up to `num_steps` steps of L-BFGS, for all starts in parallel; each takes a few evaluations
  of q and its gradient. Eigenvalues are computed by NumPy. The function cannot be jitted.

  Args:
    cell: the cell; `rnn_jax.cells.stack(cells)` for a deep network.
    params: its params, from `cell.init`.
    x: the constant input [D], or a token.
    starts: carries to start from, leaves [S, ...], such as those of `visited_carries`.
    num_steps: the largest number of steps. A search ends earlier if ‖F(s) − s‖_∞ is at most
      8 ε max(1, ‖s‖_∞).
    distance: if the ends of two searches differ by at most this in every entry, only the slower end
      is returned.
  Returns:
    A FixedPoints, of NumPy arrays.
  Raises:
    TypeError, ValueError: if an option is out of range, or if params, x or starts do not fit the
      cell.
  References:
    Sussillo and Barak, 2013, https://doi.org/10.1162/NECO_a_00409
    Golub and Sussillo, 2018 (toolbox), https://doi.org/10.21105/joss.01003
  """
  checks.instance("cell", cell, Cell)
  checks.integer("num_steps", num_steps)
  checks.number("distance", distance, minimum=0)
  x = checks.array("x", x, "floats", "integers")
  params, x, starts = at_least_float32((params, x, jax.tree.map(jnp.asarray, starts)))
  leaves = jax.tree.leaves(starts)
  number = leaves[0].shape[0] if leaves and leaves[0].ndim > 0 else 1
  wanted = jax.eval_shape(lambda: cell.initial_carry((number,)))
  checks.like("starts", wanted, starts, any_precision=True)
  xs = jnp.broadcast_to(x, (1, number, *x.shape))
  check_params("params", cell, params, xs)
  ends, q = _minimize(cell, params, xs, starts, num_steps)
  found, speeds = np.asarray(ends), np.asarray(q)
  kept, counts = _distinct(found, speeds, distance)
  jacobians = np.asarray(_jacobians(cell, params, xs, starts, ends))[kept]
  eigenvalues = np.linalg.eigvals(jacobians.astype(np.float64))
  order = np.argsort(-np.abs(eigenvalues), axis=1, kind="stable")
  eigenvalues = np.take_along_axis(eigenvalues, order, axis=1).astype(np.complex128)
  unstable = np.sum(np.abs(eigenvalues) > 1, axis=1)
  return FixedPoints(found[kept], speeds[kept], counts, eigenvalues, unstable)


def visited_carries(
  cell: Cell,
  params: Params,
  xs: Sequences,
  *,
  key: Key[Array, ""],
  num_carries: int = 128,
  noise: float = 0.0,
) -> Carry:
  """Returns carries that a cell visits on the sequences xs, with noise added.

  Each is the carry before a step of an example, both drawn uniformly, plus N(0, noise²) in every
  real entry of the joint carry. Noise leads searches for fixed points to those that the state
  avoids.

  Args:
    cell: the cell.
    params: its params, from `cell.init`.
    xs: inputs [T, B, D], or tokens [T, B].
    key: draws the carries and the noise.
    num_carries: the number S of carries.
    noise: standard deviation of the noise.
  Returns:
    Carries, leaves [S, ...].
  Raises:
    TypeError, ValueError: if an option is out of range, or if params or xs do not fit the cell.
  """
  checks.key("key", key)
  checks.integer("num_carries", num_carries)
  checks.number("noise", noise, minimum=0)
  (run,) = forward_layers([cell], [params], xs)
  carries = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), run.before)
  places_key, noise_key = jax.random.split(key)
  places = jax.random.randint(places_key, (num_carries,), 0, len(jax.tree.leaves(carries)[0]))
  drawn = jax.tree.map(lambda a: a[places], carries)
  s = to_vector(drawn)
  return from_vector(s + noise * jax.random.normal(noise_key, s.shape, s.dtype), drawn)


@functools.partial(jax.jit, static_argnames=("cell", "num_steps"))
def _minimize(
  cell: Cell, params: Params, xs: Array, starts: Carry, num_steps: int
) -> tuple[Float[Array, "S N"], Float[Array, " S"]]:
  """Minimizes q from every start; returns (the ends of the searches, their q)."""
  params = cell.prepare(params)
  drives = jax.tree.map(lambda a: a[0], cell.project(params, xs))
  optimizer = optax.lbfgs()

  def search(start: Array, carry: Carry, drive: Drive) -> tuple[Array, Array]:
    def move(s: Array) -> Array:
      batch = jax.tree.map(lambda a: a[None], (carry, drive))
      return to_vector(step(cell, params, from_vector(s[None], batch[0]), batch[1]))[0] - s

    def speed(s: Array) -> Array:
      return jnp.sum(move(s) ** 2) / 2

    def advance(state: tuple[Array, Array, optax.OptState]) -> tuple[Array, Array, optax.OptState]:
      taken, s, known = state
      value, gradient = optax.value_and_grad_from_state(speed)(s, state=known)
      updates, known = optimizer.update(
        gradient, known, s, value=value, grad=gradient, value_fn=speed
      )
      return taken + 1, s + updates, known

    def moving(state: tuple[Array, Array, optax.OptState]) -> Array:
      taken, s, _ = state
      limit = 8 * jnp.finfo(s.dtype).eps * jnp.maximum(jnp.max(jnp.abs(s)), 1)
      return (taken < num_steps) & (jnp.max(jnp.abs(move(s))) > limit)

    _, end, _ = jax.lax.while_loop(moving, advance, (jnp.int32(0), start, optimizer.init(start)))
    return end, speed(end)

  return jax.vmap(search)(to_vector(starts), starts, drives)


@functools.partial(jax.jit, static_argnames="cell")
def _jacobians(
  cell: Cell, params: Params, xs: Array, starts: Carry, points: Float[Array, "S N"]
) -> Float[Array, "S N N"]:
  """Returns J at every point; `starts` has the integer leaves of the carries."""
  params = cell.prepare(params)
  drives = jax.tree.map(lambda a: a[0], cell.project(params, xs))
  return step_jacobian(cell, params, from_vector(points, starts), drives)


def _distinct(
  points: Float[np.ndarray, "S N"], speeds: Float[np.ndarray, " S"], distance: float
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
  """Returns (the index of each distinct point, slowest first; how many points it stands for)."""
  kept: list[int] = []
  counts: list[int] = []
  for i in np.argsort(speeds, kind="stable"):
    if not np.isfinite(speeds[i]):
      continue
    near = np.max(np.abs(points[kept] - points[i]), axis=1, initial=0) <= distance
    if near.any():
      counts[int(np.argmax(near))] += 1
    else:
      kept.append(int(i))
      counts.append(1)
  return np.array(kept, np.int64), np.array(counts, np.int64)
