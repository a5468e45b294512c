"""Computes the variables of each measure from a `Moment`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.sweep.measures.measure import Moment, Variables, by_leaf
from rnn_jax.estimators import Comparison, estimator_bias
from rnn_jax.gradient_flow import (
  curvature,
  decay_rate,
  effective_memory,
  half_life,
  jacobian_norm,
  joint_size,
  lag_profile,
  lyapunov_spectrum,
  newton_in_time,
  omega,
  saturation,
  truncation_bias,
  underflow,
  weight_share_norms,
)
from rnn_jax.losses import masked_mean
from rnn_jax.types import Array, Cell, Params

EXPONENTS = 4  # number of Lyapunov exponents to compute
ESTIMATES = 32  # number of keys for which the estimate of a random estimator is compared
LAG_SHARES = 16  # number of lags whose shares are compared, the last entry holding all further ones
# The effective memory is the smallest lag at which less than this share of the lag-0 gradient norm
# is left.
SHARE_LEFT = 0.01


def reaches(num_steps: int) -> list[int]:
  """Returns the truncations whose bias is measured: the powers of 2 below T, and T itself.

  Args:
    num_steps: T, the sequence length.
  """
  return [2**i for i in range((num_steps - 1).bit_length())] + [num_steps]


def lag(moment: Moment) -> Variables:
  """Returns the lag profile of the last step's loss, with decay rate, half-life and memory."""
  last_loss = functools.partial(moment.loss, targets=moment.share.targets[-1])
  profile = lag_profile(*moment.network(moment.share), last_loss)
  norms = by_leaf("log10_lag_norm", jax.tree.map(moment.mean, profile))
  hidden = norms["log10_lag_norm"].T
  if len(hidden) < 2:
    return norms
  rate = decay_rate(hidden)
  memory = effective_memory(hidden, SHARE_LEFT)
  return {**norms, "decay_rate": rate, "half_life": half_life(rate), "effective_memory": memory}


def jacobian(moment: Moment) -> Variables:
  """Returns the norms of the long Jacobians."""
  norms = jacobian_norm(*moment.network(moment.share), key=jax.random.key(0))
  return {"log10_jacobian_norm": moment.mean(jnp.stack(norms))}


def lyapunov(moment: Moment) -> Variables:
  """Returns the leading Lyapunov exponents."""
  count = min(EXPONENTS, *map(joint_size, moment.model.cells))
  spectra = lyapunov_spectrum(*moment.network(moment.share), num_exponents=count)
  means = [moment.mean(exponents.T) for exponents in spectra]
  return {"lyapunov_exponent": jnp.stack(means)}


def newton(moment: Moment) -> Variables:
  """Returns the iterations and the error of Newton's method in time."""
  layers = newton_in_time(*moment.network(moment.share))
  errors = jnp.stack([layer.errors[-1] for layer in layers])
  counts = jnp.stack([layer.iterations for layer in layers]).astype(errors.dtype)
  return {"newton_iterations": moment.mean(counts), "newton_error": moment.mean(errors)}


def truncation(moment: Moment) -> Variables:
  """Returns the cosine and the error of truncated gradients."""
  ks = reaches(len(moment.batch.mask))
  bias = truncation_bias(*moment.network(moment.batch), moment.mean_loss, truncations=ks)
  return {"truncation_cosine": bias.cosine, "truncation_error": bias.relative_error}


def estimator(moment: Moment) -> Variables:
  """Returns the bias and spread of the run's gradient estimator, and the lags it keeps."""
  keys = ESTIMATES if moment.estimator.random else 1
  lags = min(LAG_SHARES, len(moment.batch.mask))
  found = estimator_bias(
    *moment.network(moment.batch),
    moment.mean_loss,
    estimator=moment.estimator,
    key=jax.random.key(0),
    num_keys=keys,
    num_lags=lags,
  )
  compared = {
    name: jnp.stack([getattr(layer, name) for layer in found.layers]) for name in Comparison._fields
  }
  return {
    "estimator_cosine": compared["cosine"],
    "estimator_error": compared["relative_error"],
    "estimator_bias": compared["bias"],
    "estimator_deviation": compared["standard_deviation"],
    "kept_share": jnp.stack([a.kept for a in found.lags]),
  }


def gates(moment: Moment) -> Variables:
  """Returns the shares of open and shut gates."""
  layers = saturation(*moment.network(moment.batch))
  names = {gate: [layer[gate] for layer in layers] for gate in layers[0]}
  open_ = {f"{gate}_gate_open": jnp.stack([a.high for a in found]) for gate, found in names.items()}
  shut = {f"{gate}_gate_shut": jnp.stack([a.low for a in found]) for gate, found in names.items()}
  return open_ | shut


def omegas(moment: Moment) -> Variables:
  """Returns Pascanu's Ω."""
  return {"omega": jnp.stack(omega(*moment.network(moment.batch), moment.mean_loss))}


def weight_shares(moment: Moment) -> Variables:
  """Returns the norms of the time steps' shares of dL/dW_h."""
  norms = weight_share_norms(*moment.network(moment.batch), moment.mean_loss)
  return {"log10_weight_share": jnp.stack(norms)}


def hessian(moment: Moment) -> Variables:
  """Returns the extreme eigenvalues of the Hessian."""

  def loss(params: Params) -> Array:
    outputs: Any
    # Forward-mode derivatives of the time loop's custom rule are several times slower.
    _, outputs = moment.model.apply({"params": params}, moment.batch.xs, forward_mode=True)
    return masked_mean(moment.task.loss(outputs, moment.batch.targets), moment.batch.mask)

  found = curvature(loss, moment.params)
  return {
    "hessian_largest": found.largest,
    "hessian_leading": found.leading,
    "hessian_error": jnp.maximum(found.largest_error, found.leading_error),
  }


def lost(moment: Moment) -> Variables:
  """Returns the shares of dL/dh_t that the run's dtype loses."""
  cells, params, xs = moment.network(moment.batch)
  dtype, loss_scale = moment.dtype, moment.loss_scale
  shares = underflow(cells, params, xs, moment.mean_loss, dtype=dtype, loss_scale=loss_scale)
  return by_leaf("underflow", shares)


def has_gates(cell: Cell) -> bool:
  """Returns whether the cell can report the values of its gates, for the measure `saturation`."""
  return cell.gates is not None


def has_recurrent_kernel(cell: Cell) -> bool:
  """Returns whether the cell has a plain recurrent kernel W_h, for the measure `weight_shares`."""
  return cell.recurrent_kernel is not None
