"""Mean-field theory of random networks: the limit of infinitely many units."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rnn_jax.cells import LSTMCarry
from rnn_jax.types import Array, Cell, FlatParams

# The carry of a cell with one layer's h: h itself, or an LSTM's h and c.
C = TypeVar("C", Array, LSTMCarry)

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(201)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def variance(gain: float, input_variance: float = 0.0) -> float:
  """Returns the variance of a pre-activation of h' = tanh(J h + x) at infinite width.

    q = g² ⟨tanh² a⟩ + v        a ~ N(0, q)

  Here ⟨·⟩ is the mean over the pre-activation a. q is 0 if g ≤ 1 and v = 0.

  Args:
    gain: g; the entries of J have variance g²/N.
    input_variance: v, the variance of each unit's input x.
  """

  def gap(q: float) -> float:
    return gain**2 * _mean(np.tanh(math.sqrt(q) * _NODES) ** 2) + input_variance - q

  if input_variance == 0 and gain <= 1.001:  # q is 0, or at most about 1e-3 and taken as 0
    return 0.0
  from scipy.optimize import brentq  # imported here because it takes a third of a second

  return float(brentq(gap, input_variance or 1e-6, gain**2 + input_variance))


def exponent(gain: float, input_variance: float = 0.0) -> float:
  """Returns the largest Lyapunov exponent of h' = tanh(J h + x) at infinite width, nats per step.

    λ₁ = ½ ln(g² ⟨sech⁴ a⟩)        a ~ N(0, q)        q = g² ⟨tanh² a⟩ + v

  Here ⟨·⟩ is the mean over the pre-activation a. The exponent of a' = J tanh(a) + x is the same,
  since h = tanh(a).

  Args:
    gain: g; the entries of J have variance g²/N.
    input_variance: v, the variance of each unit's input x.
  References:
    Sompolinsky et al., 1988, https://doi.org/10.1103/PhysRevLett.61.259; in discrete time, and with
    inputs: Molgedey et al., 1992, https://doi.org/10.1103/PhysRevLett.69.3717
  """
  q = variance(gain, input_variance)
  return math.log(gain**2 * _mean(np.cosh(math.sqrt(q) * _NODES) ** -4.0)) / 2


def _mean(values: Float[np.ndarray, " nodes"]) -> float:
  return float(_WEIGHTS @ values)


def lag_profile(
  cell: Cell, params: FlatParams, xs: Float[Array, "T D"], key: Key[Array, ""], num_lags: int
) -> Float[Array, " lags"]:
  """Returns log₁₀ of the root mean square of ∂(v · h_T)/∂h_{T−k} over units, v ~ N(0, I).

  The profile is that of infinitely many units with random kernels U_b of gain 1, one per block b of
  the recurrent product (a gate or a candidate), and given inputs xs. Given the h_t, each product
  u_t^b = h_{t−1} U_b is Gaussian, independent of other units and blocks; so is its transpose in the
  backward pass, with the cotangents ū_t^b in place of h:

    ⟨u_t^b u_s^b⟩ = ⟨h_{t−1} h_{s−1}⟩       h̄_{t−1} = d_t + η_t       ⟨η_t η_s⟩ = Σ_b ⟨ū_t^b ū_s^b⟩

  Here ⟨·⟩ is the mean over units, and d_t is the part of h̄_{t−1} that does not pass through U. The
  forward and the backward pass use independent copies of U (gradient independence). A population of
  M units samples these distributions. Its error is of order 1/√M, and the mean over keys reduces it
  to order 1/M. M must be at least T.

  Args:
    cell: a cell of M units that applies its kernel "w_h" to h only; h is its carry, or the leaf
      `hidden` of an LSTM's.
    params: params of the cell. The values of "w_h" are not used.
    xs: inputs of one example.
    key: key of the Gaussian numbers.
    num_lags: number of lags k = 0 … num_lags − 1, at most T.
  References:
    Chen, Pennington and Schoenholz, 2018, https://arxiv.org/abs/1806.05394
    Yang, 2020 (independence of the passes), https://arxiv.org/abs/2006.14548
  """
  carry = cell.initial_carry((), xs.dtype)
  size = _hidden(carry).size
  num_blocks = params["w_h"].shape[1] // size
  forward_key, backward_key, probe_key = jax.random.split(key, 3)
  bias = cell.recur(params, carry)  # h is 0
  drives = cell.project(params, xs)

  def forward(
    state: tuple[Any, Array], now: tuple[Array, Array]
  ) -> tuple[tuple[Any, Array], tuple]:
    (carry, basis), (t, drive) = state, now
    basis, weights = _extended(basis, _hidden(carry), t)
    recurrent = bias + jnp.einsum("t,bti->bi", weights, forward_noise).ravel()
    return (cell.update(params, carry, drive, recurrent), basis), (carry, recurrent)

  steps = jnp.arange(len(xs))
  forward_noise = _orthogonal(forward_key, (num_blocks, len(xs), size), xs.dtype)
  start = carry, jnp.zeros((len(xs), size), xs.dtype)
  _, (carries, recurrents) = jax.lax.scan(forward, start, (steps, drives))

  def backward(state: tuple[Any, Array, Array], now: tuple) -> tuple[tuple, Array]:
    (bars, log, bases), (k, carry, drive, recurrent) = state, now
    norm = jnp.sqrt(jnp.mean(_hidden(bars) ** 2))
    # Everything below is linear in the cotangents, so that they can be rescaled at every step.
    bars, log = jax.tree.map(lambda a: a / norm, bars), log + jnp.log10(norm)
    _, vjp = jax.vjp(lambda c, u: cell.update(params, c, drive, u), carry, recurrent)
    carry_bar, recurrent_bar = vjp(bars)
    bases, weights = jax.vmap(_extended, (0, 0, None))(
      bases, recurrent_bar.reshape(num_blocks, size), k
    )
    hidden_bar = _hidden(carry_bar) + jnp.einsum("bk,bki->i", weights, backward_noise)
    return (_with_hidden(carry_bar, hidden_bar), log, bases), log

  backward_noise = _orthogonal(backward_key, (num_blocks, num_lags, size), xs.dtype)
  zeros = jax.tree.map(jnp.zeros_like, carry)
  bars = _with_hidden(zeros, jax.random.normal(probe_key, (size,), xs.dtype))
  last = jax.tree.map(lambda a: a[::-1][:num_lags], (carries, drives, recurrents))
  begin = bars, jnp.zeros((), xs.dtype), jnp.zeros((num_blocks, num_lags, size), xs.dtype)
  _, logs = jax.lax.scan(backward, begin, (jnp.arange(num_lags), *last))
  return logs


def _extended(
  basis: Float[Array, "n M"], x: Float[Array, " M"], row: Array
) -> tuple[Float[Array, "n M"], Float[Array, " n"]]:
  """Returns an orthogonal basis that spans x, too, and the coordinates of x in it.

  Rows of the basis before `row` are orthogonal, with a mean square of 1, or zero, and the others
  zero. Row `row` becomes the direction of the part of x that is orthogonal to them, or zero if this
  part is as small as rounding errors. If the coordinates of x_t
  multiply rows of independent Gaussian numbers, the products have the covariance ⟨x_t x_s⟩.
  """
  # A power of 2, by which products are exact, keeps the squares of small entries from underflow.
  _, exponent = jnp.frexp(jnp.max(jnp.abs(x)))
  x = jnp.ldexp(x, -exponent)
  weights = basis @ x / x.size
  rest = x - weights @ basis
  again = basis @ rest / x.size  # a second time, because of rounding errors
  weights, rest = weights + again, rest - again @ basis
  norm = jnp.sqrt(jnp.mean(rest**2))
  # Below this, rounding errors decide the direction, and those of the rows before are amplified.
  is_new = norm > 16 * jnp.finfo(x.dtype).eps * jnp.sqrt(jnp.mean(x**2))
  norm = jnp.where(is_new, norm, 0)
  direction = jnp.where(is_new, rest / jnp.where(is_new, norm, 1), 0)
  return basis.at[row].set(direction), jnp.ldexp(weights.at[row].set(norm), exponent)


def _orthogonal(
  key: Key[Array, ""], shape: tuple[int, int, int], dtype: DTypeLike
) -> Float[Array, "b n M"]:
  """Returns n Gaussian vectors per block, made orthogonal with a mean square of 1.

  Without this, the means ⟨z_t z_s⟩ over M units would be of order 1/√M in place of 0. In the norm
  at lag k, these errors accumulate to order k²/M.
  """
  columns = jax.random.normal(key, shape, dtype).swapaxes(1, 2)
  # One after the other, because decompositions of a batch may deadlock; see `lyapunov_spectrum`.
  directions = jax.lax.map(lambda block: jnp.linalg.qr(block)[0], columns)
  return math.sqrt(shape[-1]) * directions.swapaxes(1, 2)


def _hidden(carry: LSTMCarry | Array) -> Array:
  return carry.hidden if isinstance(carry, LSTMCarry) else carry


def _with_hidden(carry: C, hidden: Array) -> C:
  if isinstance(carry, LSTMCarry):
    return carry._replace(hidden=hidden)
  return hidden
