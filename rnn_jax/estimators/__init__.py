"""Estimators of the gradient of a loss through time, exact and approximate.

All have one signature, and can be jitted and vmapped:

    estimator = uoro(samples=4)
    value, grads = estimator(cell, params, xs, loss, key)

  cell, params: a cell and its params.
  xs: the inputs: [T, B, D], or integer tokens [T, B].
  loss: `ys -> scalar`, a function of the outputs ys [T, B, H]. It is differentiated exactly.
  key: random key. Estimators that are not random ignore it.

Terms: s_t is the joint carry of one example after step t, N real numbers; θ are the params, P
numbers; δ_t = ∂L/∂y_t ∂y_t/∂s_t is the immediate error; J_t = ∂s_t/∂s_{t−1}, and I_t = ∂s_t/∂θ at
fixed s_{t−1}. The gradient is a sum over all lags k, of the effects that the params at step s − k
have on the loss at step s:

    dL/dθ = Σ_k g_k        g_k = Σ_s δ_sᵀ J_s J_{s−1} … J_{s−k+1} I_{s−k}

| estimator | direction | bias | random | time per step | memory per example |
|---|---|---|---|---|---|
| `bptt` | backward | none | no | P | T·N |
| `tbptt(k)` | backward | lags ≥ k are lost, shorter ones in part | no | P | k·N |
| `artbp(c)` | backward | none | yes | P | N/c on average |
| `h_detach(p)` | backward | the path through `recur` is weakened | yes | P | T·N |
| `fptt` | forward | none except rounding | no | N³ | N² |
| `rtrl` | forward | none | no | N²·P; diagonal cells: P | N·P; diagonal cells: P |
| `snap(n)` | forward | entries not reached within n steps are lost | no | N·P + k²·P | N² + k·P |
| `rflo` | forward | the path through `recur` is lost | no | k²·P | k·P |
| `uoro(S)` | forward | none | yes | S·(N² + P) | S·(N + P) |
| `kf_rtrl` | forward | none | yes | N²·G·H | N·G·H |

In the rows of `snap` and `rflo`, k is the number of entries of the carry that a param can reach. In
that of `kf_rtrl`, G is the number of gates and H the hidden size.
The memory of `tbptt` and `artbp` is that of a program that frees the steps before a cut, as
`rnn_jax.windows.train_windows` does for `tbptt`. In one scan over the whole sequence it is T·N.
Forward estimators also keep the outputs and their errors of all T steps, unless
`rnn_jax.online.train_online` runs them.

A param that the output reads directly adds ∂L_t/∂θ at fixed s_t to the share of lag 0.

Deep networks: `stack(cells)` is one cell, and an estimator treats its layers together. An exact one
stays exact and an unbiased one unbiased; `snap` and `rflo` keep the path from a layer to the next
one within a step. If a `DeepRNN` is trained with an estimator, the estimator is applied to each
layer separately. A backward one passes its own errors to the layer below. A forward one passes the
exact errors. So the layers above the first need backpropagation through time, and its memory of
T·N.

Forward estimators run stochastic cells, such as those with zoneout, as in evaluation, without a
random key. `kf_rtrl` supports only some cells; see its docstring.

`estimator_bias` compares an estimator with `bptt`, per layer, leaf and lag.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import numpy as np

from rnn_jax import checks
from rnn_jax.estimators._estimator import Estimator
from rnn_jax.estimators.artbp import artbp
from rnn_jax.estimators.bias import Comparison, EstimatorBias, LagShares, estimator_bias
from rnn_jax.estimators.bptt import bptt
from rnn_jax.estimators.fptt import fptt
from rnn_jax.estimators.h_detach import h_detach
from rnn_jax.estimators.kf_rtrl import kf_rtrl
from rnn_jax.estimators.rflo import rflo
from rnn_jax.estimators.rtrl import rtrl
from rnn_jax.estimators.snap import snap
from rnn_jax.estimators.tbptt import tbptt
from rnn_jax.estimators.uoro import uoro

__all__ = [
  "ESTIMATORS",
  "Comparison",
  "Estimator",
  "EstimatorBias",
  "LagShares",
  "artbp",
  "bptt",
  "estimator_bias",
  "estimator_name",
  "fptt",
  "h_detach",
  "kf_rtrl",
  "make_estimator",
  "rflo",
  "rtrl",
  "snap",
  "tbptt",
  "uoro",
]

ESTIMATORS: Mapping[str, Callable[..., Estimator]] = {
  "bptt": bptt,
  "tbptt": tbptt,
  "artbp": artbp,
  "h_detach": h_detach,
  "fptt": fptt,
  "rtrl": rtrl,
  "snap": snap,
  "rflo": rflo,
  "uoro": uoro,
  "kf_rtrl": kf_rtrl,
}


def estimator_name(name: str) -> str:
  """Returns the full name of an estimator, with the value of its option: `uoro1` for `uoro`.

  Arguments and errors are those of `make_estimator`.
  """
  base, number = _parse(name)
  if number is None:
    options = inspect.signature(ESTIMATORS[base]).parameters.values()
    number = next((option.default for option in options), None)
  return base if number is None else base + np.format_float_positional(number, trim="-")


def make_estimator(name: str) -> Estimator:
  """Returns the estimator with a name such as `rtrl`, `snap1`, `uoro4` or `h_detach0.25`.

  Args:
    name: a key of ESTIMATORS. Its option may follow as a number; the default is used otherwise.
  Raises:
    TypeError, ValueError: if no estimator has this name, or it rejects the number.
  """
  base, number = _parse(name)
  return ESTIMATORS[base]() if number is None else ESTIMATORS[base](number)


def _parse(name: str) -> tuple[str, int | float | None]:
  """Returns (name, option or None); raises unless there is such an estimator."""
  checks.instance("estimator", name, str)
  base = name.rstrip("0123456789.")
  text = name[len(base) :]
  constructor = ESTIMATORS[checks.choice("estimator", base, ESTIMATORS)]
  if not text:
    return base, None
  if not inspect.signature(constructor).parameters:
    raise ValueError(f"estimator {base} takes no number, got {name!r}.")
  try:
    number = int(text) if text.isdigit() else float(text)
  except ValueError:
    raise ValueError(f"estimator {base} must be followed by a number, got {name!r}.") from None
  constructor(number)
  return base, number
