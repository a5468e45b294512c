"""Initializers of recurrent kernels, input kernels and biases."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Key, PyTree

from rnn_jax import checks
from rnn_jax.types import Array, Number


@runtime_checkable
class Initializer(Protocol):
  """The type of an initializer, `(key, shape, dtype=float) -> array`."""

  def __call__(  # noqa: D102
    self, key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = float
  ) -> Array: ...


Init = TypeVar("Init", bound=Callable[..., Any])


def drawn_in_float32(init: Init) -> Init:
  """Returns an `init` that draws half-precision arrays in float32 and rounds the results.

  Half precision is too coarse to draw from, and JAX has no QR decomposition in it. float32 and
  float64 arrays are drawn in their own precision.

  Args:
    init: an initializer `(key, shape, dtype) -> array`, or a cell's `init`.
  """

  signature = inspect.signature(init)

  @functools.wraps(init)
  def drawn(*args: Any, **kwargs: Any) -> PyTree[Array]:
    call = signature.bind(*args, **kwargs)
    call.apply_defaults()
    checks.float_dtype("dtype", call.arguments["dtype"])
    dtype = jax.dtypes.canonicalize_dtype(call.arguments["dtype"])
    call.arguments["dtype"] = np.promote_types(dtype, np.float32)
    return jax.tree.map(lambda a: a.astype(dtype), init(*call.args, **call.kwargs))

  return cast(Init, drawn)


input_kernel: Initializer = drawn_in_float32(jax.nn.initializers.lecun_normal())


def _orthogonal(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = float) -> Array:
  """Returns a kernel with U Uᵀ = I: every singular value is 1.

  Under `vmap`, kernels are drawn one after the other. On a CPU with several cores, a QR
  decomposition of several matrices may deadlock; see `lyapunov_spectrum`.

  References:
    Saxe et al., 2014, https://arxiv.org/abs/1312.6120
  """
  draw = jax.nn.initializers.orthogonal()
  return jax.custom_batching.sequential_vmap(lambda key: draw(key, shape, dtype))(key)


def _identity(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = float) -> Array:
  """Returns the identity matrix, U = I (Le et al., 2015, https://arxiv.org/abs/1504.00941)."""
  del key
  return jnp.eye(shape[0], shape[1], dtype=dtype)


RECURRENT_KERNELS: Mapping[str, Initializer] = {
  "orthogonal": drawn_in_float32(_orthogonal),
  # U_ij ~ N(0, 1/H): spectral radius near 1, singular values spread over (0, 2).
  "gaussian": drawn_in_float32(jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")),
  "identity": _identity,
}


def recurrent_kernel(
  name: str = "orthogonal", gain: Number = 1.0, num_gates: int = 1
) -> Initializer:
  """Returns an initializer of recurrent kernels [H, G·H], which have one square block per gate.

  Args:
    name: `orthogonal`, `gaussian` (variance gain²/H) or `identity`.
    gain: factor on every entry; may be traced, so that a sweep over it is one compiled program.
    num_gates: G, the number of square blocks. Each block is drawn independently.
  Returns:
    An initializer `(key, (H, G·H), dtype) -> kernel`.
  Raises:
    TypeError, ValueError: if the name is unknown, if the gain is not a finite number, or if the
      number of gates is below 1.
  """
  kernel = RECURRENT_KERNELS[checks.choice("recurrent_kernel", name, RECURRENT_KERNELS)]
  checks.number("recurrent_gain", gain)
  checks.integer("num_gates", num_gates)

  @drawn_in_float32
  def init(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    _check_init(key, shape, dtype)
    if len(shape) != 2 or shape[1] != num_gates * shape[0]:
      raise ValueError(f"shape must be [H, {num_gates}·H], got {list(shape)}.")
    hidden_size = shape[0]
    gates = [kernel(k, (hidden_size, hidden_size), dtype) for k in jax.random.split(key, num_gates)]
    fused = jnp.concatenate(gates, axis=-1)
    return jnp.asarray(gain, fused.dtype) * fused

  return init


def _check_init(key: object, shape: object, dtype: object) -> None:
  """Raises unless key, shape and dtype are valid arguments of an initializer."""
  checks.key("key", key)
  if not isinstance(shape, Sequence):
    raise TypeError(f"shape must be a sequence of integers, got {checks.shown(shape)}.")
  for size in shape:
    checks.integer("shape", size)
  checks.float_dtype("dtype", dtype)


def check_cell_init(key: object, input_size: object, dtype: object) -> None:
  """Raises unless key, input size and dtype are valid arguments of a cell's `init`."""
  checks.key("key", key)
  checks.integer("input_size", input_size)
  checks.float_dtype("dtype", dtype)


def further_key(key: Key[Array, ""]) -> Key[Array, ""]:
  """Returns a key for the params that an `init` draws in addition to `dense_init(...)(key, ...)`.

  The number folded in is large, because fold_in(key, i) equals split(key)[i] for a small i, and
  `dense_init` draws the kernels with keys from `split`.

  Raises:
    TypeError: if `key` is not a random key.
  """
  checks.key("key", key)
  return jax.random.fold_in(key, np.uint32(2**32 - 1))


def chrono_bias(longest: Number) -> Initializer:
  """Returns an initializer of forget biases for all time scales up to T_max.

    b_f = ln u      u ~ U(1, T_max − 1)

  A gate f = σ(b_f) = u / (1 + u) forgets within about 1 / (1 − f) = 1 + u steps, which is a number
  between 2 and T_max. The input gate's bias should be −b_f, so that i = 1 − f.

  Args:
    longest: T_max, in steps, above 2.
  Returns:
    An initializer `(key, shape, dtype) -> b_f`.
  Raises:
    TypeError, ValueError: if `longest` is not a number above 2.
  References:
    Tallec and Ollivier, 2018, section 3, https://arxiv.org/abs/1804.11188
  """
  checks.number("longest", longest, above=2)

  @drawn_in_float32
  def init(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    _check_init(key, shape, dtype)
    return jnp.log(jax.random.uniform(key, shape, dtype, 1, longest - 1))

  return init


@drawn_in_float32
def log_uniform_steps(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = float) -> Array:
  """Returns ln Δ for step sizes Δ that are log-uniform from 0.001 to 0.1.

  State-space models start from these step sizes, so that their units remember for about 10 to 1000
  steps (Gu et al., 2022, https://arxiv.org/abs/2206.11893).
  """
  _check_init(key, shape, dtype)
  return jax.random.uniform(key, shape, dtype, math.log(0.001), math.log(0.1))
