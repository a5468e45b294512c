"""Functions shared by the linear recurrences h' = a ∘ h + b, whose a and b do not depend on h.

The *drive* is what `project` computes from the inputs of all steps before the time loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Complex, Float, Inexact, Key

from rnn_jax import checks
from rnn_jax.cells.dense import complex_of
from rnn_jax.types import (
  Array,
  Cell,
  CellArray,
  Drive,
  FlatParams,
  GatesFn,
  InitFn,
  InitialCarryFn,
  LinearFn,
  OutputFn,
  PrepareFn,
  ProjectFn,
)


def linear_cell(
  *,
  init: InitFn[FlatParams],
  initial_carry: InitialCarryFn[Array],
  prepare: PrepareFn[FlatParams],
  project: ProjectFn[FlatParams, Drive],
  linear: LinearFn[FlatParams, Array, Drive],
  output: OutputFn[FlatParams, Array, Drive],
  gates: GatesFn[FlatParams, Array, Drive] | None = None,
  output_is_carry: bool = False,
) -> Cell[FlatParams, Array, Drive]:
  """Returns a Cell with the update h' = a ∘ h + b, where (a, b) = linear(params, drive).

  Its `recur` returns an empty tuple, because there is no recurrent product. Each argument is the
  field of `Cell` with the same name.
  """

  def recur(params: FlatParams, h: Inexact[CellArray, "*batch H"]) -> tuple[()]:
    del params, h
    return ()

  def update(
    params: FlatParams, h: Inexact[CellArray, "*batch H"], drive: Drive, recurrent: tuple[()]
  ) -> Inexact[Array, "*batch H"]:
    del recurrent
    a, b = linear(params, drive)
    return a * h + b

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=prepare,
    project=project,
    recur=recur,
    update=update,
    output=output,
    gates=gates,
    linear=linear,
    output_is_carry=output_is_carry,
  )


def on_ring(
  key: Key[Array, ""], size: int, inner: int | float, outer: int | float, dtype: DTypeLike
) -> Float[Array, " {size}"]:
  """Returns ln r, where r are the radii of `size` points drawn from a ring in the complex plane.

  The points are uniform in area: r² ~ U(inner², outer²). The lower limit is kept above 0, so that
  the logarithm is finite.
  """
  least = max(inner**2, float(jnp.finfo(dtype).tiny))
  return jnp.log(jax.random.uniform(key, (size,), dtype, least, outer**2)) / 2


def check_ring(min_radius: int | float, max_radius: int | float) -> None:
  """Raises unless 0 ≤ min_radius < max_radius ≤ 1.

  Raises:
    TypeError: if a radius is not a number.
    ValueError: if the radii violate the inequality.
  """
  for name, value in (("min_radius", min_radius), ("max_radius", max_radius)):
    checks.number(name, value, minimum=0, maximum=1)
  if min_radius >= max_radius:
    raise ValueError(f"min_radius must be below max_radius = {max_radius}, got {min_radius}.")


Eigenvalues = Complex[Array, "*axes"]  # of any shape


def zero_order_hold(
  eigenvalue: Eigenvalues, step: Float[CellArray, "*steps"]
) -> tuple[Eigenvalues, Eigenvalues]:
  """Returns (e^{Δλ}, (e^{Δλ} − 1)/λ), the exact step of h' = λ h + u for a constant input u.

  Args:
    eigenvalue: λ, other than 0.
    step: Δ, real; must broadcast with λ.
  """
  step = step.astype(eigenvalue.real.dtype)
  scaled = complex_of(step * eigenvalue.real, step * eigenvalue.imag)
  return jnp.exp(scaled), jnp.expm1(scaled) / eigenvalue


def bilinear(
  eigenvalue: Eigenvalues, step: Float[CellArray, "*steps"]
) -> tuple[Eigenvalues, Eigenvalues]:
  """Returns ((1 + Δλ/2)/(1 − Δλ/2), Δ/(1 − Δλ/2)), the step of h' = λ h + u by Tustin's method.

  Args:
    eigenvalue: λ.
    step: Δ, real; must broadcast with λ.
  """
  step = step.astype(eigenvalue.real.dtype)
  half = complex_of(step * eigenvalue.real / 2, step * eigenvalue.imag / 2)
  wide = jnp.broadcast_to(step, half.shape)
  return (1 + half) / (1 - half), complex_of(wide, jnp.zeros_like(wide)) / (1 - half)


# Ways to discretize dh/dt = λ h + u: functions (λ, Δ) -> (λ̄, B̄), with h' = λ̄ h + B̄ u.
DISCRETIZATIONS: Mapping[str, Callable[[Array, Array], tuple[Array, Array]]] = {
  "zoh": zero_order_hold,
  "bilinear": bilinear,
}


@functools.cache
def hippo_eigenvectors(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns half of the eigenvalues and eigenvectors of HiPPO-N, in float64.

    A_jk = −√((2j + 1)(2k + 1)) / 2  for j > k,  −1/2  for j = k,  and minus the former for j < k

  HiPPO-N is the normal part of the HiPPO-LegS matrix, whose states are the coefficients of the
  input's history in Legendre polynomials. Its eigenvalues have the real part −1/2 and come in
  conjugate pairs, and its eigenvectors are orthonormal.

  Args:
    size: n, the number of rows, an even number.
  Returns:
    (Im λ [n/2], those above 0 in ascending order; their eigenvectors, columns of V [n, n/2]).
  References:
    Gu et al., 2022, section 4.1, https://arxiv.org/abs/2206.11893
  """
  root = np.sqrt(2 * np.arange(size) + 1)
  skew = np.triu(np.outer(root, root) / 2, 1)
  # A + I/2 = skew − skewᵀ; −i times it is Hermitian, with the eigenvalues Im λ in ascending order.
  frequencies, vectors = np.linalg.eigh(-1j * (skew - skew.T))
  return frequencies[size // 2 :], vectors[:, size // 2 :]


def hippo_frequencies(size: int) -> np.ndarray:
  """Returns the imaginary parts above 0 of the eigenvalues of HiPPO-N, in ascending order."""
  return hippo_eigenvectors(size)[0]
