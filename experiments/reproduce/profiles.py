"""Lag profiles of untrained networks, for a random linear function of the last carry.

A lag profile is the norm of the gradient with respect to the carry k steps before the last one, as
a function of the lag k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jaxtyping import Float, Integer

from experiments.plotting import style
from rnn_jax.cells import LSTMCarry
from rnn_jax.gradient_flow import decay_rate, lag_profile
from rnn_jax.types import Array, Cell

HIDDEN, STEPS, BATCH, INPUTS = 128, 200, 32, 2
FIRST, LAST = 20, 80  # lags between which the decay rate is fitted


def mean_profiles(
  make: Callable[[Array], Cell],
  values: Sequence[float],
  scales: Sequence[float],
  seeds: Sequence[int],
  size: int | None = None,
) -> Float[np.ndarray, "values scales seeds lags"]:
  """Returns log₁₀ ‖∂(v · h_T)/∂h_{T−k}‖ for v and x ~ N(0, I), the log averaged over a batch.

  Args:
    make: function that returns a cell of hidden size `size`, given one of `values` as a tracer.
    values: numbers that distinguish the cells, such as recurrent gains.
    scales: factors on the input kernel, whose entries have variance ½ at initialization; a factor
      s gives them the standard deviation w_i = s / √2.
    seeds: seeds for the params, the inputs and v.
    size: number of units; HIDDEN if None.
  Returns:
    The profiles. For an LSTM, h is the carry's leaf `hidden`.
  """

  size = HIDDEN if size is None else size

  def one(
    value: Float[Array, ""], scale: Float[Array, ""], seed: Integer[Array, ""]
  ) -> Float[Array, " lags"]:
    cell = make(value)
    params_key, data_key, probe_key = jax.random.split(jax.random.key(seed), 3)
    params = cell.init(params_key, INPUTS)
    params = {**params, "w_x": scale * params["w_x"]}
    xs = jax.random.normal(data_key, (STEPS, BATCH, INPUTS))
    v = jax.random.normal(probe_key, (BATCH, size))
    (profile,) = lag_profile([cell], [params], xs, lambda h: jnp.sum(v * h, axis=1))
    hidden = profile.hidden if isinstance(profile, LSTMCarry) else profile
    return jnp.mean(hidden, axis=1)

  axes = np.asarray(values, np.float32), np.asarray(scales, np.float32), np.asarray(seeds)
  grid = [jnp.asarray(a.ravel()) for a in np.meshgrid(*axes, indexing="ij")]
  program = jax.jit(lambda grid: jax.lax.map(lambda now: one(*now), grid))
  found = np.asarray(program(tuple(grid)), np.float64)
  return found.reshape(len(values), len(scales), len(seeds), STEPS)


def rates(found: Float[np.ndarray, "*runs lags"]) -> Float[np.ndarray, "*runs"]:
  """Returns each profile's decay rate, fitted over the lags FIRST to LAST, in nats per step."""
  with jax.enable_x64(True):
    return np.asarray(decay_rate(jnp.asarray(np.moveaxis(found, -1, 0)), FIRST, LAST))


def draw(
  figure: matplotlib.figure.Figure,
  panels: Mapping[str, Mapping[str, Float[np.ndarray, "seeds lags"]]],
  colors: Sequence[str],
) -> None:
  """Draws lag profiles in panels next to each other, and shades the lags of the fit.

  Args:
    figure: an empty figure.
    panels: for each panel's title, a mapping from labels to profiles.
    colors: one color per label, in the order of the labels.
  """
  axes = figure.subplots(1, len(panels), sharey=True)
  for axis, (title, found) in zip(axes, panels.items(), strict=True):
    for color, (label, profiles) in zip(colors, found.items(), strict=True):
      for profile in profiles:
        axis.plot(profile, color=color, lw=0.7, alpha=0.6)
      axis.plot([], color=color, label=label)
    axis.axvspan(FIRST, LAST, color="0.93", zorder=0)
    axis.set_title(title, fontsize=style.MEDIUM)
    axis.set_xlabel("lag k, in steps")
  axes[0].set_ylabel("mean log10 of the gradient norm")
  axes[0].legend(frameon=False, fontsize=style.SMALL)
