"""Products with matrix memories, whose derivatives XLA:CPU computes fast.

JAX's own rules for these products multiply whole matrices and sum the result over keys or values.
XLA:CPU runs such sums 10 to 40 times slower than a matrix-vector product of the same size. The
rules of this module use matrix-vector products for the derivatives with respect to vectors and
scalars, and elementwise products, which fuse with others, for those with respect to memories.

They have the precision "highest", which accelerators use for sums, but not for products.

S is a memory of P keys × P values, k and q are keys, and v is a value.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from rnn_jax.types import Array, CellArray

Vector = Float[CellArray, "*batch P"]
Memory = Float[CellArray, "*batch P P"]


@jax.custom_jvp
def read(q: Vector, s: Memory) -> Float[Array, "*batch P"]:
  """Returns q S, the value that the memory holds under the key q.

  The backward pass multiplies the cotangent's entries by those of q. JAX's own rule would compute a
  matrix product and transpose it.
  """
  return jnp.einsum("...k,...kv->...v", q, s)


@read.defjvp
def _read_jvp(
  primals: tuple[CellArray, CellArray], tangents: tuple[CellArray, CellArray]
) -> tuple[Array, Array]:
  (q, s), (q_dot, s_dot) = primals, tangents
  return read(q, s), read(q_dot, s) + jnp.sum(q[..., None] * s_dot, axis=-2)


@jax.custom_jvp
def outer(
  k: Float[CellArray, "*batch K"], v: Float[CellArray, "*batch V"]
) -> Float[Array, "*batch K V"]:
  """Returns kᵀ v, the memory that holds the value v under the key k."""
  return k[..., None] * v[..., None, :]


@outer.defjvp
def _outer_jvp(
  primals: tuple[CellArray, CellArray], tangents: tuple[CellArray, CellArray]
) -> tuple[Array, Array]:
  (k, v), (k_dot, v_dot) = primals, tangents
  # The transpose of this product is a matrix-vector product.
  product = functools.partial(jnp.einsum, "...k,...v->...kv", precision="highest")
  return outer(k, v), product(k_dot, v) + product(k, v_dot)


@jax.custom_jvp
def scaled(a: Float[CellArray, "*batch"], s: Memory) -> Float[Array, "*batch P P"]:
  """Returns a S, for one factor a per memory."""
  return a[..., None, None] * s


@scaled.defjvp
def _scaled_jvp(
  primals: tuple[CellArray, CellArray], tangents: tuple[CellArray, CellArray]
) -> tuple[Array, Array]:
  (a, s), (a_dot, s_dot) = primals, tangents
  entries = s.reshape(*a.shape, s.shape[-2] * s.shape[-1])
  change = jnp.einsum("...,...p->...p", a_dot, entries, precision="highest")
  return scaled(a, s), change.reshape(s.shape) + scaled(a, s_dot)
