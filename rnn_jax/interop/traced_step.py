"""The equations of a step: whether y can be computed from the new carry, and how."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import primitives
from jaxtyping import Array, PyTree

from rnn_jax import checks
from rnn_jax._jaxprs import is_variable, part, without_calls
from rnn_jax.types import Carry, Params

# Dtypes of x to try in turn if a step does not accept the default one.
_OTHER_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
_LEAF: object = jax.tree.structure(0.0)


class TracedStep(NamedTuple):
  """The equations of one step for one example, and how y follows from the new carry.

  Attributes:
    compute_y: a function of the values of constants, params, x and `carried`, in this order, which
      returns [y].
    constants: the arrays that the step closes over.
    carried: {variable: leaf of the new carry}, for the variables whose values the leaf holds.
    y: shape and dtype of y.
    y_is_readable: whether y depends on the old carry only through the new carry.
    y_is_carry: whether the new carry is one array, and y is that array.
  """

  compute_y: Callable[..., list[Array]]
  constants: Sequence[Any]
  carried: Mapping[core.Var, int]
  y: jax.ShapeDtypeStruct
  y_is_readable: bool
  y_is_carry: bool

  @classmethod
  def of(cls, run: Callable[..., PyTree], params: Params, carry: Carry, x: Any) -> TracedStep:
    """Traces `run(params, carry, x) -> (new carry, y)`."""
    traced, (_, y) = jax.make_jaxpr(run, return_shape=True)(params, carry, x)
    # Functions under `jax.jit` are inlined, because one may compute both y and the new carry.
    while calls := [e for e in traced.jaxpr.eqns if e.primitive is primitives.jit_p]:
      traced = without_calls(traced, calls)
    jaxpr = traced.jaxpr
    num_carries = len(jax.tree.leaves(carry))
    *of_params, x_variable = jaxpr.invars
    cut = len(of_params) - num_carries
    of_params, old_carry = of_params[:cut], of_params[cut:]
    *new_carry, y_variable = jaxpr.outvars

    carried = {v: leaf for leaf, v in reversed([*enumerate(new_carry)]) if is_variable(v)}
    for equation in jaxpr.eqns:
      # An array that the carry holds in another shape can be read from it, too.
      if equation.primitive.name in ("reshape", "squeeze") and equation.outvars[0] in carried:
        carried.setdefault(equation.invars[0], carried[equation.outvars[0]])
    # Params, x and constants are not read from the carry, except for y if it is one of them.
    for v in {*of_params, x_variable, *jaxpr.constvars} - {y_variable}:
      carried.pop(v, None)
    needed, equations = [y_variable], []
    for equation in reversed(jaxpr.eqns):
      if any(v in needed and v not in carried for v in equation.outvars):
        equations.append(equation)
        needed += equation.invars
    operands = [*jaxpr.constvars, *of_params, x_variable, *carried]
    return cls(
      compute_y=part(jaxpr, operands, equations[::-1], [y_variable]),
      constants=traced.consts,
      carried=carried,
      y=y,
      y_is_readable=not any(v in needed and v not in carried for v in old_carry),
      y_is_carry=jax.tree.structure(carry) == _LEAF and y_variable is new_carry[0],
    )

  def read_y(self, params: Params, carry: Carry, x: Array) -> Array:
    """Returns y, computed from the new carry."""
    if not self.y_is_readable:
      raise ValueError(
        "step must compute y from the new carry for every dtype or for none, got a y that depends "
        f"on the old carry for {checks.shapes(carry)} and x {checks.shown(x)}."
      )
    leaves = jax.tree.leaves(carry)
    carried = [_reshaped(leaves[leaf], v) for v, leaf in self.carried.items()]
    return self.compute_y(*self.constants, *jax.tree.leaves((params, x)), *carried)[0]


def first_success(trace: Callable[..., TracedStep], sizes: Iterable[int]) -> TracedStep:
  """Returns the first `trace(size of x, dtype)` that succeeds; raises the first error if none."""
  errors: list[Exception] = []
  for size, dtype in itertools.product(dict.fromkeys(sizes), (float, *_OTHER_DTYPES)):
    try:
      return trace(size, dtype)
    except Exception as error:  # a user's function may raise anything
      kind = jax.dtypes.canonicalize_dtype(dtype)
      error.add_note(
        f"(while tracing init and step for x {kind}[{size}]; give input_size= if they accept "
        "only one size)"
      )
      errors.append(error)
  raise errors[0]


def _reshaped(a: Array, variable: core.Var) -> Array:
  """Returns `a` in the shape of the variable."""
  aval: Any = variable.aval
  return a if a.shape == aval.shape else a.reshape(aval.shape)
