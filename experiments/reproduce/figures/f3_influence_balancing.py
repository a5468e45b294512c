"""F3. Influence balancing: a truncated gradient may have the wrong sign."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Float, Integer

from experiments.plotting import style
from experiments.reproduce.figure import Figure, Outcome, absolute, at_least, relative
from rnn_jax.cells import elman
from rnn_jax.time_loop import unroll
from rnn_jax.types import Array, Params

SIZE, POSITIVE = 23, 10
SIGNS = np.where(np.arange(SIZE) < POSITIVE, 1.0, -1.0)
TRUNCATIONS = (*range(1, 101), 110, 150, 200, 400)
TRAINED = (10, 30, 60, 100, 200)
TRAINED_WHOLE = (100, 200)
UPDATES, LEARNING_RATE = 2000, 3e-4
OPTIMUM = -1 / 6
CELL = elman(SIZE, activation="linear")

_State = tuple[Float[Array, ""], Float[Array, "1 N"]]  # θ and the carry


def balance(theta: Float[Array, ""]) -> Params:
  """Returns the params of a linear system in which θ raises s₁ at first and lowers it later.

    s' = A s + θ x σ        A_ii = A_i,i+1 = ½        σ = (1, …, 1, −1, …, −1)

  σ has 10 entries 1 and 13 entries −1. The state s is the carry of CELL.

  References:
    Tallec and Ollivier, 2017, https://arxiv.org/abs/1705.08209
  """
  transition = (np.eye(SIZE) + np.eye(SIZE, k=1)) / 2
  return {
    "w_x": theta * jnp.asarray(SIGNS, theta.dtype)[None],
    "w_h": jnp.asarray(transition.T, theta.dtype),
    "b": jnp.zeros(SIZE, theta.dtype),
  }


def formula(truncation: int) -> float:
  """Returns G_K, the gradient ∂s₁/∂θ truncated after K steps, in closed form.

  G_K = Σ_{k<K} 2^−k Σ_{j≤min(k,22)} C(k,j) σ_{j+1}
  """
  return sum(
    2.0**-k * sum(math.comb(k, j) * SIGNS[j] for j in range(min(k + 1, SIZE)))
    for k in range(truncation)
  )


def measure(truncations: tuple[int, ...]) -> Float[np.ndarray, " truncations"]:
  """Returns G_K for each truncation K: ∂s₁/∂θ at the last step of a window of K steps."""
  num_steps = 2 * max(truncations)
  xs = jnp.ones((num_steps, 1, 1))

  def gradient(truncation: Integer[Array, ""]) -> Float[Array, ""]:
    # At the last step of a window, the gradient reaches back K − 1 steps.
    last = num_steps // truncation * truncation - 1

    def first(theta: Float[Array, ""]) -> Float[Array, ""]:
      _, ys = unroll(CELL, balance(theta), xs, truncation=truncation)
      return ys[last, 0, 0]

    return jax.grad(first)(jnp.zeros(()))

  program = jax.jit(lambda ks: jax.lax.map(gradient, ks))
  return np.asarray(program(jnp.asarray(truncations, jnp.int32)))


def train(truncation: int, whole_window: bool) -> float:
  """Returns θ after training by streaming truncated backpropagation.

  Each update is made on a window of K steps, whose final carry is the initial carry of the next
  window. The loss is ½ (s₁ − 1)² at the window's last step, whose gradient covers K lags. If
  `whole_window`, it is the mean over all steps of the window, whose gradients cover 1, …, K lags.
  """
  xs = jnp.ones((truncation, 1, 1))

  def update(old: _State, _: None) -> tuple[_State, None]:
    theta, carry = old

    def loss(theta: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, "1 N"]]:
      final, ys = unroll(CELL, balance(theta), xs, carry)
      errors = (ys[:, 0, 0] - 1) ** 2 / 2
      return jnp.mean(errors) if whole_window else errors[-1], final

    gradient, final = jax.grad(loss, has_aux=True)(theta)
    return (theta - LEARNING_RATE * gradient, final), None

  @jax.jit
  def run() -> Float[Array, ""]:
    start = jnp.zeros(()), CELL.initial_carry((1,))
    (theta, _), _ = jax.lax.scan(update, start, length=UPDATES)
    return theta

  return float(run())


def run() -> Outcome:
  """Compares the measured G_K with the closed form, and trains θ with several K."""
  with jax.enable_x64(True):
    measured = dict(zip(TRUNCATIONS, measure(TRUNCATIONS), strict=True))
    trained = {k: train(k, whole_window=False) for k in TRAINED}
    whole = {k: train(k, whole_window=True) for k in TRAINED_WHOLE}
  exact = {k: formula(k) for k in TRUNCATIONS}
  difference = max(abs(measured[k] - exact[k]) for k in TRUNCATIONS)
  # G_19 and G_20 are equal up to rounding, so ties are broken in favor of the larger K.
  peak = max(TRUNCATIONS, key=lambda k: (round(measured[k], 9), k))
  flip = next(k for k in TRUNCATIONS if measured[k] < 0)
  means = np.cumsum([formula(k) for k in range(1, 201)])
  table = [
    {
      "K": k,
      "G_K": float(measured[k]),
      "formula": exact[k],
      "trained θ": trained.get(k),
      "trained θ, whole window": whole.get(k),
    }
    for k in (1, 10, 20, 30, 40, 41, 60, 100, 200, 400)
  ]
  checks = [
    absolute("largest |G_K − formula|", difference, 0.0, 1e-10),
    absolute("G_10", measured[10], 10, 1e-10),
    relative("largest G_K", measured[peak], 16.48, 1e-3),
    absolute("K of the largest G_K", peak, 20, 0),
    absolute("smallest K with G_K < 0", flip, 41, 0),
    absolute("G_400", measured[400], -6, 1e-6),
    *(absolute(f"trained θ, K = {k}", trained[k], OPTIMUM, 1e-3) for k in TRAINED if k >= 60),
    at_least("|trained θ|, K = 10: diverges", abs(trained[10]), 1e3),
  ]
  notes = [
    f"G_19 = G_20: the term of lag 19 is {exact[20] - exact[19]:.1g}.",
    "If the loss is averaged over the whole window, whose steps see 1, 2, …, K lags, the mean of "
    f"G_1 … G_K decides. It is negative from K = {int(np.argmax(means < 0)) + 1} on: at K = 100 θ "
    f"moves away from −1/6 (to {whole[100]:.3g}), at K = 200 it reaches it ({whole[200]:.4f}).",
  ]

  return Outcome(
    table, checks, functools.partial(draw, measured=measured, exact=exact, trained=trained), notes
  )


def draw(
  figure: matplotlib.figure.Figure,
  measured: Mapping[int, float],
  exact: Mapping[int, float],
  trained: Mapping[int, float],
) -> None:
  """Draws G_K against K, and marks the K with which training reaches θ = −1/6 or diverges."""
  axis = figure.subplots()
  ks = [k for k in TRUNCATIONS if k <= 100]
  axis.plot(ks, [exact[k] for k in ks], color=style.GRAY, lw=1, label="formula")
  axis.plot(
    ks,
    [measured[k] for k in ks],
    ".",
    color="#0072B2",
    ms=5,
    label="unroll, truncated every K steps",
  )
  axis.axhline(-6, color="#CC79A7", ls="--", lw=1, label="full gradient, −6")
  axis.axhline(0, color=style.GRAY, lw=0.6)
  arrives = {k: abs(trained[k] - OPTIMUM) < 1e-3 for k in TRAINED if k <= 100}
  for good, marker, color, label in (
    (True, "o", "#009E73", "training with this K reaches θ = −1/6"),
    (False, "X", "#D55E00", "training with this K diverges"),
  ):
    where = [k for k in arrives if arrives[k] == good]
    axis.plot(where, [measured[k] for k in where], marker, color=color, ms=8, label=label)
  axis.set_xlabel("truncation K, in steps")
  axis.set_ylabel("$G_K$, gradient of $s_1$ by θ")
  axis.legend(frameon=False, fontsize=style.SMALL)


figure = Figure(
  title="Truncated gradients of the wrong sign: influence balancing",
  setting="linear system of 23 states, 10 driven by +θ and 13 by −θ; float64; training: "
  f"{UPDATES} updates of plain gradient descent, learning rate {LEARNING_RATE:g}",
  source="Tallec and Ollivier, 2017, https://arxiv.org/abs/1705.08209",
  seconds=8,
  run=run,
)
