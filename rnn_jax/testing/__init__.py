"""Checks that a cell of your own keeps the contract of `Cell`.

    from rnn_jax import testing

    def test_my_cell():                              # under pytest
      testing.check_cell(my_cell(8))

    $ python -c "from mylab import my_cell; from rnn_jax import testing; \\
                 testing.check_cell(my_cell(8))"     # or in a shell, or in a notebook

`check_cell` runs all `CHECKS`. Each of them can also run alone. It takes an `Example`, which is a
cell with params, a carry and inputs; several checks of one example share its values:

    example = testing.Example(my_cell(8), input_size=3)
    testing.check_derivatives(example)

A check raises an `AssertionError` whose message names the function of the cell, the rule, what
came, and what to do. It returns None, or the reason why it does not apply to this cell.

The checks need neither pytest nor a setting of JAX. They compute in float64, whatever
`jax_enable_x64` says, and leave the setting as it is. So a cell must support float64: its arrays
take their dtype from its arguments, and it casts nothing to a fixed precision.

The contract, which is checked for every cell:

- `init` depends on its arguments alone; the params have the requested dtype. `initial_carry` is
  zeros. Both may be pytrees of any nesting, and may have integer leaves.
- Every function is pure, can be traced, and accepts any number of leading batch axes, also a batch
  of one. No example's result depends on another example, nor one step's drive on another step.
- The carry keeps its structure, shapes and dtypes in float32 and float64.
- `recur` is linear in the params that it uses.
- `gates`, `linear`, `recurrent_kernel` and `output_is_carry` say what the cell does.
- Derivatives are those of finite differences, in forward mode too, and finite at zeros.
- `unroll` under `jax.jit` equals a Python loop over the cell's functions, whose values are computed
  eagerly, in values, gradients and gradient norms, with padding (NaN), resets and truncation.

Optional, and checked only if the cell has it: integer tokens as inputs (a cell without them raises
a TypeError or ValueError in `project`), bfloat16 (a cell without it raises an error), `gates`,
`linear` and `recurrent_kernel`.
"""

from __future__ import annotations

from collections.abc import Mapping

from rnn_jax.testing._derivatives import check_derivatives, check_recur, check_tokens, check_zeros
from rnn_jax.testing._example import Check, Example
from rnn_jax.testing._fields import check_gates, check_output, check_recurrent_kernel
from rnn_jax.testing._independence import check_batch_axes, check_purity, check_time_axis
from rnn_jax.testing._shapes import check_bfloat16, check_init, check_initial_carry, check_shapes
from rnn_jax.testing._unroll import check_linear, check_unroll
from rnn_jax.types import Cell

__all__ = [
  "CHECKS",
  "Check",
  "Example",
  "check_batch_axes",
  "check_bfloat16",
  "check_cell",
  "check_derivatives",
  "check_gates",
  "check_init",
  "check_initial_carry",
  "check_linear",
  "check_output",
  "check_purity",
  "check_recur",
  "check_recurrent_kernel",
  "check_shapes",
  "check_time_axis",
  "check_tokens",
  "check_unroll",
  "check_zeros",
]

CHECKS: Mapping[str, Check] = {
  "init": check_init,
  "initial_carry": check_initial_carry,
  "shapes": check_shapes,
  "purity": check_purity,
  "time_axis": check_time_axis,
  "batch_axes": check_batch_axes,
  "recur": check_recur,
  "output": check_output,
  "gates": check_gates,
  "recurrent_kernel": check_recurrent_kernel,
  "tokens": check_tokens,
  "bfloat16": check_bfloat16,
  "derivatives": check_derivatives,
  "zeros": check_zeros,
  "unroll": check_unroll,
  "linear": check_linear,
}


def check_cell(cell: Cell, input_size: int = 3) -> dict[str, str]:
  """Checks that a cell keeps the contract of `Cell`, as the module's docstring states it.

  It takes a few seconds, most of which JAX needs to compile.

  Args:
    cell: the cell.
    input_size: D, the width of the inputs, for a cell that does not accept every width.
  Returns:
    {name of each check: "passed", or why the check does not apply}.
  Raises:
    AssertionError: if the cell breaks a rule. The message names the function of the cell, the rule,
      and what came.
    TypeError, ValueError: if `cell` is not a `Cell`, or if the input size is below 1.
  """
  example = Example(cell, input_size)
  return {name: check(example) or "passed" for name, check in CHECKS.items()}
