"""Half precision: bfloat16 and float16, and casts between them and float32.

| dtype | smallest normal | smallest subnormal | largest | digits |
|---|---|---|---|---|
| float32 | 1.2e-38 | 1.4e-45 | 3.4e38 | 7.2 |
| bfloat16 | 1.2e-38 | 9.2e-41 | 3.4e38 | 2.4 |
| float16 | 6.1e-5 | 6.0e-8 | 65504 | 3.3 |

A number below the smallest subnormal becomes zero. A subnormal number has fewer digits, and many
devices flush it to zero: XLA does so on CPUs in float32 and bfloat16, but not in float16.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rnn_jax import checks

# The dtypes in which a network whose params are float32 can be trained.
DTYPES = ("float32", "bfloat16", "float16")

Tree = TypeVar("Tree")


def check_dtype(name: str, dtype: Any) -> np.dtype:
  """Returns one of `DTYPES` as a dtype.

  Raises:
    TypeError, ValueError: if `dtype` is not a dtype, or none of `DTYPES`.
  """
  checks.float_dtype(name, dtype)
  return np.dtype(checks.choice(name, str(jnp.dtype(dtype)), DTYPES))


def cast(tree: Tree, dtype: DTypeLike) -> Tree:
  """Returns the pytree with its arrays of floats in another precision.

  All other leaves are unchanged: integers, booleans, keys, and complex numbers, which have no half
  precision.
  """
  return jax.tree.map(lambda a: jnp.asarray(a, dtype) if _is_float(a) else a, tree)


def at_least_float32(tree: Tree) -> Tree:
  """Returns the pytree with its half-precision arrays as float32; all other leaves are unchanged.

  Measures are computed in at least float32. In half precision, the logarithm of a small norm is
  wrong by whole decades, and JAX has no QR decomposition for these dtypes.
  """
  return jax.tree.map(lambda a: jnp.asarray(a, np.float32) if _is_half(a) else a, tree)


def wide(dtype: DTypeLike) -> np.dtype:
  """Returns the real dtype of the same precision, or float32 for half precision."""
  real = np.dtype(jnp.finfo(dtype).dtype)
  return real if real.itemsize >= 4 else np.dtype(np.float32)


def _is_float(leaf: Any) -> bool:
  known = isinstance(leaf, jax.Array | np.ndarray)
  return known and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _is_half(leaf: Any) -> bool:
  return _is_float(leaf) and leaf.dtype.itemsize < 4
