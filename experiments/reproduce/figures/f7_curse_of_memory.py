"""F7. The curse of memory: in h′ = λ h + x, the sensitivity dh/dλ diverges as λ approaches 1."""

from __future__ import annotations

import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Float, Integer

from experiments.plotting import style
from experiments.reproduce.figure import Figure, Outcome, relative
from rnn_jax.cells import elman
from rnn_jax.gradient_flow import sensitivity
from rnn_jax.types import Array

DECAYS = (0.5, 0.9, 0.99)
CHAINS, STEPS = 4000, 1500
SEEDS = (0, 1, 2, 3, 4)
TOLERANCE = 0.08

Decay = TypeVar("Decay", float, np.ndarray)


def formula(decay: Decay) -> Decay:
  """Returns E(dh/dλ)² = (1 + λ²) / (1 − λ²)³, which holds for inputs of variance 1 as T → ∞."""
  return (1 + decay**2) / (1 - decay**2) ** 3


@jax.jit
def measure(decays: Float[Array, " decays"], seed: Integer[Array, ""]) -> Float[Array, " decays"]:
  """Returns the mean of (dh_T/dλ)² for each λ, over independent chains h′ = λ h + x.

  All λ have the same inputs.
  """
  cell = elman(1, activation="linear")
  xs = jax.random.normal(jax.random.key(seed), (STEPS, CHAINS, 1))

  def at(decay: Float[Array, ""]) -> Float[Array, ""]:
    params = {"w_x": jnp.ones((1, 1)), "w_h": decay.reshape(1, 1), "b": jnp.zeros(1)}
    direction = {**jax.tree.map(jnp.zeros_like, params), "w_h": jnp.ones((1, 1))}
    (moved,) = sensitivity([cell], [params], xs, direction=[direction])
    return jnp.mean(moved[-1] ** 2)

  return jax.lax.map(at, decays)


def run() -> Outcome:
  """Compares the sensitivities dh/dλ, computed in forward mode, with the closed form."""
  decays = jnp.asarray(DECAYS, jnp.float32)
  found = np.stack([measure(decays, jnp.asarray(seed)) for seed in SEEDS])
  table = [
    {
      "λ": decay,
      "formula": float(formula(decay)),
      "mean over seeds": float(found[:, i].mean()),
      **{f"seed {seed}": float(found[j, i]) for j, seed in enumerate(SEEDS)},
    }
    for i, decay in enumerate(DECAYS)
  ]
  worst = np.abs(found / [formula(decay) for decay in DECAYS] - 1).argmax(axis=0)
  checks = [
    relative(f"E(dh/dλ)², λ = {d}, worst seed", found[worst[i], i], float(formula(d)), TOLERANCE)
    for i, d in enumerate(DECAYS)
  ]
  notes = [
    "dh/dλ is Gaussian, since it is linear in the inputs. Over 4000 chains the mean of its square "
    f"has a relative standard error of √(2/4000) = {np.sqrt(2 / CHAINS):.1%}.",
  ]

  return Outcome(table, checks, functools.partial(draw, found=found), notes)


def draw(figure: matplotlib.figure.Figure, found: Float[np.ndarray, "seeds decays"]) -> None:
  """Draws the mean squared sensitivities and the closed form against 1 − λ."""
  axis = figure.subplots()
  gap = np.geomspace(0.005, 0.6, 200)
  axis.loglog(gap, formula(1 - gap), color=style.GRAY, lw=1, label="(1 + λ²) / (1 − λ²)³")
  for row in found:
    axis.loglog(1 - np.asarray(DECAYS), row, "o", color="#0072B2", ms=4, alpha=0.6)
  axis.plot([], [], "o", color="#0072B2", ms=4, label="4000 chains, one point per seed")
  axis.invert_xaxis()
  axis.set_xlabel("1 − λ")
  axis.set_ylabel("mean of (dh/dλ)²")
  axis.legend(frameon=False, fontsize=style.SMALL)


figure = Figure(
  title="The curse of memory",
  setting=f"h′ = λ h + x, x ~ N(0, 1), {CHAINS} chains of {STEPS} steps; forward mode, float32",
  source="Zucchet and Orvieto, 2024, https://arxiv.org/abs/2405.21064",
  seconds=5,
  run=run,
  seeds=SEEDS,
)
