"""The linear recurrence h_t = a_t ∘ h_{t−1} + b_t, computed for all steps at once."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact, PyTree

Pair = tuple[Inexact[Array, " ..."], Inexact[Array, " ..."]]


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def linear_scan(
  a: Inexact[Array, "T ..."],
  b: Inexact[Array, "T ..."],
  cut: Bool[Array, "T ..."] | None,
  reverse: bool = False,
) -> Inexact[Array, "T ..."]:
  """Returns h_t = a_t ∘ h_{t−1} + b_t for all t, with h_{−1} = 0, by an associative scan.

  The scan's operator • composes two successive steps into one, where ∘ is the elementwise product:

    (a, b) • (a', b') = (a ∘ a', a' ∘ b + b')

  The scan takes log₂ T rounds instead of T steps. Each round composes neighboring steps, and all
  rounds together do about twice as much work as T steps. The derivative satisfies the same
  recurrence, with different addends:

    ḣ_t = a_t ∘ ḣ_{t−1} + (ȧ_t ∘ h_{t−1} + ḃ_t)

  Args:
    a: the factors [T, ...], real or complex.
    b: the addends, like a.
    cut: mask; where True at t, no derivative flows from h_t to h_{t−1}. Must broadcast to the shape
      of a. None for no cuts.
    reverse: whether to run from the last step to the first: h_t = a_t ∘ h_{t+1} + b_t.
  References:
    Blelloch, 1990, https://www.cs.cmu.edu/~guyb/papers/Ble93.pdf
    Martin and Cundy, 2018 (for recurrent networks), https://arxiv.org/abs/1709.04057
  """
  del cut
  return jax.lax.associative_scan(_compose, (a, b), reverse=reverse)[1]


@linear_scan.defjvp
def _linear_scan_jvp(
  reverse: bool, primals: tuple[Array, Array, Array | None], tangents: tuple[PyTree, PyTree, PyTree]
) -> tuple[Array, Array]:
  (a, b, cut), (a_dot, b_dot, _) = primals, tangents
  h = linear_scan(a, b, cut, reverse)
  zero = jnp.zeros_like(h[:1])
  before = jnp.concatenate([h[1:], zero] if reverse else [zero, h[:-1]])
  passed = a if cut is None else jnp.where(cut, jnp.zeros_like(a), a)
  return h, linear_scan(passed, a_dot * before + b_dot, cut, reverse)


def _compose(first: Pair, then: Pair) -> Pair:
  (a, b), (a_then, b_then) = first, then
  return a * a_then, a_then * b + b_then
