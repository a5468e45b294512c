"""Initialisers of recurrent and input kernels, with the gates fused on the last axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.types import Array

Kernel = Callable[..., Array]  # (key, shape, dtype) -> array

input_kernel: Kernel = jax.nn.initializers.lecun_normal()


def _identity(key: Array, shape: tuple[int, int], dtype: Any = float) -> Array:
  """U = I, which leaves the carry as it is (Le et al., 2015, https://arxiv.org/abs/1504.00941)."""
  del key
  return jnp.eye(shape[0], shape[1], dtype=dtype)


RECURRENT_KERNELS: Mapping[str, Kernel] = {
  # U Uᵀ = I: every singular value is 1 (Saxe et al., 2014, https://arxiv.org/abs/1312.6120).
  "orthogonal": jax.nn.initializers.orthogonal(),
  # U_ij ~ N(0, 1/H): spectral radius near 1, singular values spread over (0, 2).
  "gaussian": jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
  "identity": _identity,
}


def recurrent_kernel(name: str = "orthogonal", gain: Any = 1.0, num_gates: int = 1) -> Kernel:
  """gain × a square kernel for each gate, side by side: [H, G·H].

  Args:
    name: `orthogonal`, `gaussian` (variance gain²/H) or `identity`.
    gain: factor on every entry; may be traced, so that a sweep over it is one program.
    num_gates: G, the number of square blocks, each drawn on its own.
  Returns:
    An initialiser `(key, (H, G·H), dtype) -> kernel`.
  Raises:
    ValueError: the name is unknown, or the gain not finite.
  """
  kernel = RECURRENT_KERNELS[checks.choice("recurrent_kernel", name, RECURRENT_KERNELS)]
  checks.number("recurrent_gain", gain)

  def init(key: Array, shape: tuple[int, int], dtype: Any = float) -> Array:
    hidden_size = shape[0]
    gates = [kernel(k, (hidden_size, hidden_size), dtype) for k in jax.random.split(key, num_gates)]
    fused = jnp.concatenate(gates, axis=-1)
    return jnp.asarray(gain, fused.dtype) * fused

  return init


def further_key(key: Array) -> Array:
  """A key for what an `init` draws beside `dense_init(...)(key, ...)`.

  Not a small number: fold_in(key, i) is split(key)[i], which the kernels are drawn with.
  """
  return jax.random.fold_in(key, np.uint32(2**32 - 1))


def chrono_bias(longest: float) -> Kernel:
  """Forget gates' bias for memories of all lengths up to T_max: b_f = ln u, u ~ U(1, T_max − 1).

  A gate f = σ(b_f) = u / (1 + u) forgets within about 1 / (1 − f) = 1 + u steps, from 2 to T_max.
  The input gate's bias is −b_f, so that i = 1 − f.

  Args:
    longest: T_max, in steps, above 2.
  Returns:
    An initialiser `(key, shape, dtype) -> b_f`.
  Raises:
    TypeError, ValueError: `longest` is no number above 2.
  References:
    Tallec and Ollivier, 2018, section 3, https://arxiv.org/abs/1804.11188
  """
  checks.number("longest", longest, above=2)

  def init(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jnp.log(jax.random.uniform(key, shape, dtype, 1, longest - 1))

  return init
