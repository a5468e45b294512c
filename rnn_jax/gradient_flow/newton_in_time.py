"""Newton's method over all time steps at once: how many iterations reproduce the time loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn_jax import checks
from rnn_jax.gradient_flow.joint_carry import from_vector, step_jacobian, to_vector
from rnn_jax.gradient_flow.layer_sweep import forward_layers
from rnn_jax.gradient_flow.reverse_sweep import Pass
from rnn_jax.parallel import vary_alike
from rnn_jax.types import Carry, Cell, Drive, Params, Sequences, step

METHODS = ("loop", "associative")


class NewtonConvergence(NamedTuple):
  """How Newton's method in time converges to one layer's trajectory, per example.

  The rows of `residuals` and `errors` are the guesses: the initial guess, then the guess after each
  of up to T iterations. Once an example has converged, its values are repeated.

  Attributes:
    iterations: the number of iterations until the residual is at most the tolerance, [B].
    residuals: max_t ‖F_t(s_{t−1}) − s_t‖_∞ of each guess s, relative, [T + 1, B].
    errors: max_t ‖s_t − s*_t‖_∞ of each guess s, relative, where s* is the true trajectory, which
      `unroll` computes, [T + 1, B].
  """

  iterations: Int[Array, " B"]
  residuals: Float[Array, "guesses B"]
  errors: Float[Array, "guesses B"]


def newton_in_time(
  cells: Sequence[Cell],
  params: Sequence[Params],
  xs: Sequences,
  *,
  carries: Sequence[Carry] | None = None,
  tolerance: float = 1e-5,
  method: str = "loop",
) -> tuple[NewtonConvergence, ...]:
  """Returns how many iterations of Newton's method in time (DEER) each layer needs to converge.

    s_t = F_t(s_{t−1})                                       the recurrence, t = 0 … T−1
    s'_t = F_t(s_{t−1}) + J_t (s'_{t−1} − s_{t−1})           one iteration: guess s ↦ guess s'

  J_t = ∂F_t/∂s_{t−1} at the guess. An iteration solves the recurrence, linearized at the present
  guess, for all steps, and the initial guess is zero. The equation for s' is linear, so a parallel
  machine can solve it by an associative scan in O(log T) rounds. The number of iterations says
  whether this pays. Each iteration makes at least one more step exact, so T iterations suffice in
  exact arithmetic. If the largest Lyapunov exponent λ_1 (see `lyapunov_spectrum`) is below 0, few
  iterations suffice, whatever T is, and convergence is quadratic at the end. If λ_1 > 0, their
  number is proportional to T, and the closer to T the larger λ_1 is. A recurrence linear in s
  takes one.

  Convention: s is the layer's joint carry (an LSTM's hidden and cell together), per example. The
  layer's inputs, which for an upper layer are the outputs of the layer below, are held constant;
  integer leaves of the carry are those of the true trajectory. Residuals and errors are divided by
  the largest entry of the example's true trajectory, max_t ‖s*_t‖_∞, initial carry included. Where
  the product with J_t exceeds the float range, it is left out, so that s'_t = F_t(s_{t−1}). An
  example whose true trajectory is not finite has NaN residuals and T iterations.

  If λ_1 T is above ln(1/ε), where ε is the dtype's precision (16 in float32, 36 in float64),
  rounding errors decide where a trajectory goes. The method may then converge to a trajectory other
  than the time loop's, sometimes in far fewer iterations; the last of the errors shows this.

  Cost: one forward pass; then, for each iteration, one forward pass and one Jacobian-vector product
  per step (`loop`), or O(N³) per step and memory for T·B·N² numbers (`associative`). Reverse-mode
  differentiation is not supported.

  Args:
    cells, params, xs: see `rnn_jax.gradient_flow`.
    carries: the initial carry of each layer, leaves [B, ...]; zeros if None.
    tolerance: the largest residual of a converged guess, above 0.
    method: how an iteration solves for s'. `loop`: step by step, which costs least where time steps
      are cheap. `associative`: by an associative scan over the pairs (J_t, F_t(s_{t−1}) − s_t), as
      DEER does. Both give the same guesses up to rounding, as long as no product of the J_t exceeds
      the float range.
  Returns:
    For each layer: a NewtonConvergence.
  Raises:
    TypeError, ValueError: if an option is out of range, or if the arguments do not fit the layers.
  References:
    Lim et al., 2024 (DEER), https://arxiv.org/abs/2309.12252
    Gonzalez et al., 2025 (dependence on λ_1), https://arxiv.org/abs/2508.16817
  """
  checks.number("tolerance", tolerance, above=0)
  checks.choice("method", method, METHODS)
  passes = forward_layers(cells, params, xs, carries)
  return tuple(
    _layer_convergence(cell, run, tolerance, method)
    for cell, run in zip(cells, passes, strict=True)
  )


class _State(NamedTuple):
  """The state of the iteration; see `NewtonConvergence`."""

  taken: Int[Array, ""]
  guess: Float[Array, "T B N"]
  done: Bool[Array, " B"]
  found: NewtonConvergence


def _layer_convergence(cell: Cell, run: Pass, tolerance: float, method: str) -> NewtonConvergence:
  """Computes `newton_in_time` for one layer, from its forward pass."""
  before = jax.vmap(to_vector)(run.before)
  num_steps, batch_size, _ = before.shape
  end = jax.tree.map(lambda a: a[-1], (run.before, run.drives))
  exact = jnp.concatenate([before[1:], _next_vector(cell, run.params, before[-1], *end)[None]])
  largest = jnp.maximum(jnp.max(jnp.abs(exact), axis=(0, 2)), jnp.max(jnp.abs(before[0]), axis=1))
  scale = jnp.where(largest > 0, largest, jnp.ones_like(largest))
  scale = jnp.where(jnp.isfinite(largest), scale, jnp.full_like(scale, jnp.nan))
  solve = _solve_step_by_step if method == "loop" else _solve_associatively

  def distance(a: Array, b: Array) -> Array:
    return jnp.max(jnp.abs(a - b), axis=(0, 2)) / scale

  def iterate(state: _State) -> _State:
    shifted = jnp.concatenate([before[:1], state.guess[:-1]])
    images, better = solve(cell, run, shifted, state.guess)
    residual = distance(images, state.guess)
    done = state.done | (residual <= tolerance)
    iterations, residuals, errors = state.found
    found = NewtonConvergence(
      iterations=jnp.where(done & ~state.done, state.taken, iterations),
      residuals=residuals.at[state.taken].set(residual),
      errors=errors.at[state.taken].set(distance(state.guess, exact)),
    )
    # A converged example keeps its guess, so its values do not depend on the rest of the batch.
    guess = jnp.where(done[None, :, None], state.guess, better)
    return _State(state.taken + 1, guess, done, found)

  def unfinished(state: _State) -> Array:
    return (state.taken <= num_steps) & ~jnp.all(state.done)

  unknown = jnp.full((num_steps + 1, batch_size), jnp.nan, before.dtype)
  found = NewtonConvergence(jnp.full(batch_size, num_steps, jnp.int32), unknown, unknown)
  start = _State(jnp.int32(0), jnp.zeros_like(before), jnp.zeros(batch_size, bool), found)
  start, _ = vary_alike((start, before))
  last = jax.lax.while_loop(unfinished, iterate, start)
  rows = jnp.minimum(jnp.arange(num_steps + 1, dtype=jnp.int32), last.taken - 1)
  _, residuals, errors = last.found
  return last.found._replace(residuals=residuals[rows], errors=errors[rows])


def _next_vector(
  cell: Cell, params: Params, s: Float[Array, "B N"], before: Carry, drive: Drive
) -> Float[Array, "B N"]:
  """Returns F_t(s). The integer leaves of the carry are those of `before`."""
  return to_vector(step(cell, params, from_vector(s, before), drive))


def _solve_step_by_step(
  cell: Cell, run: Pass, shifted: Float[Array, "T B N"], guess: Float[Array, "T B N"]
) -> tuple[Float[Array, "T B N"], Float[Array, "T B N"]]:
  """Returns (F_t(s_{t−1}), s'_t) for all steps, from s_{t−1} (`shifted`) and s_t (`guess`)."""

  def forward(
    change: Array, now: tuple[Array, Array, Carry, Drive]
  ) -> tuple[Array, tuple[Array, Array]]:
    s, old, before, drive = now

    def next_vector(s: Array) -> Array:
      return _next_vector(cell, run.params, s, before, drive)

    image, moved = jax.jvp(next_vector, (s,), (change,))
    new = image + _finite_or_zero(moved)
    return new - old, (image, new)

  # A plain scan, not `unroll`, because each step starts from the guess.
  start = jnp.zeros_like(guess[0])
  _, (images, better) = jax.lax.scan(forward, start, (shifted, guess, run.before, run.drives))
  return images, better


def _solve_associatively(
  cell: Cell, run: Pass, shifted: Float[Array, "T B N"], guess: Float[Array, "T B N"]
) -> tuple[Float[Array, "T B N"], Float[Array, "T B N"]]:
  """Returns what `_solve_step_by_step` returns, by an associative scan.

  The change δ_t = s'_t − s_t satisfies δ_t = J_t δ_{t−1} + r_t with r_t = F_t(s_{t−1}) − s_t and
  δ_{−1} = 0. The scan's operator composes two successive steps into one:

    (J, r) • (J', r') = (J' J, J' r + r')
  """

  def linearize(now: tuple[Array, Carry, Drive]) -> tuple[Array, Array]:
    s, before, drive = now
    image = _next_vector(cell, run.params, s, before, drive)
    return image, step_jacobian(cell, run.params, from_vector(s, before), drive)

  def compose(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
    (j, r), (j_then, r_then) = first, then
    return j_then @ j, _times(j_then, r) + r_then

  images, jacobians = jax.vmap(linearize)((shifted, run.before, run.drives))
  _, changes = jax.lax.associative_scan(compose, (jacobians, images - guess))
  earlier = jnp.concatenate([jnp.zeros_like(changes[:1]), changes[:-1]])
  return images, images + _finite_or_zero(_times(jacobians, earlier))


def _times(matrices: Float[Array, "*batch N N"], s: Float[Array, "*batch N"]) -> Array:
  return (matrices @ s[..., None])[..., 0]


def _finite_or_zero(a: Float[Array, "*batch N"]) -> Float[Array, "*batch N"]:
  """Returns a, with zeros for each vector in which an entry is not finite."""
  finite = jnp.all(jnp.isfinite(a), axis=-1, keepdims=True)
  return jnp.where(finite, a, jnp.zeros_like(a))
