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
- `unroll` equals a Python loop over the cell's functions, in values, gradients and gradient norms,
  with padding (NaN), resets and truncation; jitted equals eager.

Optional, and checked only if the cell has it: integer tokens as inputs (a cell without them raises
a TypeError or ValueError in `project`), bfloat16 (a cell without it raises an error), `gates`,
`linear` and `recurrent_kernel`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PyTree

from rnn_jax import checks
from rnn_jax.probes import gradient_probe
from rnn_jax.time_loop import unroll
from rnn_jax.types import Carry, Cell, Drive, Params, Shape, floats_of, with_floats

# T steps and B examples. The second example is padded; it and the first are reset.
_LENGTHS = np.array([5, 3, 5])
_RESETS = np.zeros((5, 3), bool)
_RESETS[[3, 0, 4], [0, 1, 1]] = True  # mid-sequence, at the first step, and past the end
_TRUNCATION = 2
_NUM_STEPS, _BATCH_SIZE = _RESETS.shape

_FUNCTIONS = ("init", "initial_carry", "prepare", "project", "recur", "update", "output")


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


class Example:
  """A cell with params, a carry and inputs of random values in float64, shared by all checks.

  Attributes:
    given: params as `init` returns them, moved by a random amount so that biases are not zero.
    params: the result of `prepare(given)`.
    carry: a random carry, leaves [B, ...].
    xs: random inputs [T, B, D].
  """

  def __init__(self, cell: Cell, input_size: int = 3) -> None:
    """Checks that the arguments are a cell and a size; computes nothing yet."""
    checks.instance("cell", cell, Cell)
    checks.integer("input_size", input_size)
    for name in _FUNCTIONS:
      _require(callable(getattr(cell, name)), f"cell.{name} must be a function.")
    self.input_size = input_size
    self.cell = _guarded(cell)

  def init(self, seed: int = 0, dtype: DTypeLike = float) -> Params:
    """Returns the params of a key, as arrays."""
    return jax.tree.map(_as_array, self.cell.init(jax.random.key(seed), self.input_size, dtype))

  @functools.cached_property
  def initial(self) -> Params:
    """Returns the params of one key in float64."""
    with jax.enable_x64(True):
      return self.init(0, jnp.float64)

  @functools.cached_property
  def given(self) -> Params:
    """Returns the initial params, moved by a random amount."""
    # A large step away from the initial params shows more mistakes, but may lead to params for
    # which the cell is undefined, such as a negative time constant.
    with jax.enable_x64(True):
      for scale in (0.3, 0.01, 0.0):
        given = jax.tree.map(
          lambda a, v, scale=scale: a + scale * v if _is_float(a) else a,
          self.initial,
          _draw(self.initial, 1),
        )
        prepared = self.cell.prepare(given)
        step = self.step_from(prepared, self.carry, self.xs[0])
        if all(np.all(np.isfinite(a)) for a in jax.tree.leaves(floats_of(step))):
          return given
    raise AssertionError(
      "A step from the params of cell.init, with a carry and inputs drawn from a normal "
      "distribution, returned values that are not finite."
    )

  @functools.cached_property
  def params(self) -> Params:
    """Returns the prepared params."""
    with jax.enable_x64(True):
      return self.cell.prepare(self.given)

  @functools.cached_property
  def carry(self) -> Carry:
    """Returns a random carry, leaves [B, ...]."""
    return self.draw_carry((_BATCH_SIZE,))

  @functools.cached_property
  def xs(self) -> jax.Array:
    """Returns random inputs [T, B, D]."""
    return self.draw_xs((_NUM_STEPS, _BATCH_SIZE))

  @functools.cached_property
  def drive(self) -> Drive:
    """Returns the drive of the first step."""
    with jax.enable_x64(True):
      return self.cell.project(self.params, self.xs[0])

  @functools.cached_property
  def recurrent(self) -> PyTree:
    """Returns the recurrent product of the first step."""
    with jax.enable_x64(True):
      return self.cell.recur(self.params, self.carry)

  def draw_carry(self, batch_shape: Shape) -> Carry:
    """Returns a random carry; its integer leaves are those of the initial carry."""
    with jax.enable_x64(True):
      zeros = jax.tree.map(_as_array, self.cell.initial_carry(batch_shape, jnp.float64))
      return with_floats(_draw(floats_of(zeros), 2), zeros)

  def draw_xs(self, leading_axes: Shape) -> jax.Array:
    """Returns random inputs [..., D]."""
    with jax.enable_x64(True):
      return _draw(jax.ShapeDtypeStruct((*leading_axes, self.input_size), jnp.float64), 3)

  def step_from(self, params: Params, carry: Carry, x: jax.Array) -> dict[str, PyTree]:
    """Returns what each function of the cell returns in one step, by the function's name."""
    drive = self.cell.project(params, x)
    recurrent = self.cell.recur(params, carry)
    new = self.cell.update(params, carry, drive, recurrent)
    y = self.cell.output(params, new, drive)
    return {"project": drive, "recur": recurrent, "update": new, "output": y}


Check = Callable[[Example], str | None]


def _in_float64(check: Check) -> Check:
  """Lets a check compute in float64."""

  @functools.wraps(check)
  def checked(example: Example) -> str | None:
    with jax.enable_x64(True):
      return check(example)

  return checked


@_in_float64
def check_init(example: Example) -> None:
  """Checks that `init` is a function of its arguments alone, with params of the requested dtype."""
  first = _shapes(lambda: example.init(0, jnp.float64))
  for dtype in (jnp.float32, jnp.float64):
    params = _shapes(lambda dtype=dtype: example.init(0, dtype))
    _require_precision(params, dtype)
    _require(
      _structure(params) == _structure(first)
      and all(
        a.shape == b.shape for (_, a), (_, b) in zip(_leaves(params), _leaves(first), strict=True)
      ),
      "cell.init must return the same structure and shapes for every dtype, but for "
      f"{jnp.dtype(dtype)} it returned {checks.shapes(params)}, and for float64 "
      f"{checks.shapes(first)}.",
    )
  again = example.init(0, jnp.float64)
  _require_equal(
    "cell.init must depend on its arguments alone, but two calls with one key returned different "
    "params. Draw random numbers from `key` alone.",
    again,
    example.initial,
  )
  _require_finite("cell.init must return finite params", example.initial)


def _require_precision(params: Params, dtype: DTypeLike) -> None:
  for path, leaf in _leaves(params):
    _require(
      not _is_float(leaf) or _precision(leaf) == dtype,
      f"cell.init must return params of the requested dtype, here {jnp.dtype(dtype)}, but "
      f"params{path} is {checks.shown(leaf)}. Pass the argument `dtype` on to every function that "
      "makes an array.",
    )


@_in_float64
def check_initial_carry(example: Example) -> None:
  """Checks that `initial_carry` returns zeros of the requested batch axes and dtype."""
  scalar = example.cell.initial_carry((), jnp.float64)
  for batch_shape, dtype in (
    ((), jnp.float32),
    ((), jnp.float64),
    ((_BATCH_SIZE,), jnp.float64),
    ((1,), jnp.float64),
    ((2, _BATCH_SIZE), jnp.float64),
  ):
    carry = example.cell.initial_carry(batch_shape, dtype)
    call = f"cell.initial_carry({batch_shape}, {jnp.dtype(dtype)})"
    _require(
      _structure(carry) == _structure(scalar),
      f"{call} must have the structure {checks.shapes(scalar)} of cell.initial_carry(()), got "
      f"{checks.shapes(carry)}.",
    )
    for (path, leaf), one in zip(_leaves(carry), jax.tree.leaves(scalar), strict=True):
      found = f"carry{path} is {checks.shown(leaf)}"
      _require(hasattr(leaf, "dtype"), f"{call} must hold arrays, but {found}.")
      _require(
        leaf.shape == (*batch_shape, *one.shape),
        f"{call} must have leaves [*batch_shape, ...], here {[*batch_shape, *one.shape]}, but "
        f"{found}.",
      )
      _require(
        not _is_float(leaf) or _precision(leaf) == dtype,
        f"{call} must have the requested dtype, but {found}. Use the argument `dtype`.",
      )
      _require(
        not np.any(leaf),
        f"{call} must be zeros, but carry{path} is not: unroll sets the carry to zeros at resets. "
        "A learned initial carry is an argument of unroll, `carry`.",
      )


@_in_float64
def check_shapes(example: Example) -> None:
  """Checks structures, shapes and dtypes of what the functions of a step return."""
  for dtype in (jnp.float32, jnp.float64):
    _check_shapes(example, dtype, (_BATCH_SIZE,))
  for batch_shape in ((), (1,), (2, _BATCH_SIZE)):
    _check_shapes(example, jnp.float64, batch_shape)
  _check_shapes(example, jnp.float64, (_BATCH_SIZE,), key=True)


def _check_shapes(
  example: Example, dtype: DTypeLike, batch_shape: Shape, key: bool = False
) -> None:
  cell = example.cell
  of = f"for {jnp.dtype(dtype)} inputs with batch axes {batch_shape}" + " and a key" * key

  def check_batch_axes_of(name: str, result: PyTree) -> None:
    for path, leaf in _leaves(result):
      _require(
        leaf.shape[: len(batch_shape)] == batch_shape,
        f"cell.{name} must keep all leading batch axes: {of}, it returned {checks.shown(leaf)}"
        f"{path and f' at {path}'}.",
      )

  def step(key: Any) -> None:
    params = cell.prepare(example.init(0, dtype))
    carry = cell.initial_carry(batch_shape, dtype)
    xs = jnp.zeros((*batch_shape, example.input_size), dtype)
    drive = cell.project(params, xs, key) if key is not None else cell.project(params, xs)
    check_batch_axes_of("project", drive)
    new = cell.update(params, carry, drive, cell.recur(params, carry))
    _require_like(
      f"cell.update must return a carry like the one that it was given: {of}, it got "
      f"{checks.shapes(carry)} and returned {checks.shapes(new)}. An array that the cell creates "
      "must take its dtype from an argument, as in jnp.asarray(c, h.dtype)",
      new,
      carry,
    )
    y = cell.output(params, new, drive)
    check_batch_axes_of("output", y)
    for path, leaf in _leaves(y):
      _require(
        _is_float(leaf) and _precision(leaf) == dtype,
        f"cell.output must keep the dtype: {of}, it returned {checks.shown(leaf)}"
        f"{path and f' at {path}'}.",
      )

  _shapes(step, jax.random.key(0) if key else None)


@_in_float64
def check_purity(example: Example) -> None:
  """Checks that two calls return the same values, and that no call changes its arguments."""
  carry, drive, params = example.carry, example.drive, example.given
  before = [(id(leaf), path) for path, leaf in _leaves((params, carry, drive))]
  first, second = ({"prepare": example.cell.prepare(params)} for _ in range(2))
  for calls in (first, second):
    calls |= example.step_from(calls["prepare"], carry, example.xs[0])
  after = [(id(leaf), path) for path, leaf in _leaves((params, carry, drive))]
  _require(
    before == after,
    "The cell's functions must not change their arguments: after a step, the params, the carry or "
    "the drive held other arrays. Copy a dict before you assign to it.",
  )
  for name in first:
    _require_equal(
      f"cell.{name} must be pure, but two calls with the same arguments returned different values. "
      "It may neither read nor change anything besides its arguments.",
      second[name],
      first[name],
    )


@_in_float64
def check_time_axis(example: Example) -> None:
  """Checks that `project` gives each step the drive that this step has alone."""
  project, params = example.cell.project, example.params
  steps = [project(params, x) for x in example.xs]
  _require_close(
    "cell.project must treat every leading axis alike: called with all steps [T, B, D] at once, it "
    "returned another drive for a step than called with that step [B, D]. A drive may depend on "
    "its own step alone; what mixes steps belongs in the carry.",
    project(params, example.xs),
    jax.tree.map(lambda *leaves: jnp.stack(leaves), *steps),
  )


@_in_float64
def check_batch_axes(example: Example) -> None:
  """Checks that each example of a batch has the step that it has alone, without batch axes."""
  batch_shape = (2, 2)
  carry, x = example.draw_carry(batch_shape), example.draw_xs(batch_shape)
  params = example.params

  @jax.jit
  def both(carry: Carry, x: jax.Array) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    step = functools.partial(example.step_from, params)
    return step(carry, x), jax.vmap(jax.vmap(step))(carry, x)

  together, apart = jax.device_get(both(carry, x))
  for i in np.ndindex(*batch_shape):
    alone = jax.tree.map(lambda a, i=i: a[i], apart)
    for name in ("project", "recur", "update", "output"):
      _require_close(
        f"cell.{name} must compute each example by itself: with batch axes {batch_shape} it "
        f"returned another result for example {i} than with this example alone. Reduce over the "
        "last axis only, and let no result depend on another example or on the position in the "
        "batch.",
        jax.tree.map(lambda a, i=i: a[i], together[name]),
        alone[name],
      )


@_in_float64
def check_recur(example: Example) -> None:
  """Checks that `recur` is linear in the params.

  The time loop holds the params constant in the reverse sweep, and computes their gradient
  afterwards, as one product.
  """
  params, recur = example.params, example.cell.recur
  other = with_floats(_draw(floats_of(params), 7), params)

  def combined(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: 2 * a - b if _is_float(a) else a, a, b)

  _require_close(
    "cell.recur must be linear in the params that it uses: recur(2p − q) must equal "
    "2 recur(p) − recur(q). Compute what is not linear in the params in cell.prepare, or in "
    "cell.update.",
    recur(combined(params, other), example.carry),
    combined(recur(params, example.carry), recur(other, example.carry)),
  )


@_in_float64
def check_gates(example: Example) -> str | None:
  """Checks that `gates` returns named values between 0 and 1, one for each unit and example."""
  cell = example.cell
  if cell.gates is None:
    return "does not apply: cell.gates is None"
  gates = cell.gates(example.params, example.carry, example.drive, example.recurrent)
  _require(
    isinstance(gates, Mapping) and gates and all(isinstance(name, str) for name in gates),
    f"cell.gates must return a dict {{name: values}} of at least one gate, got "
    f"{checks.shapes(gates)}. The field of a cell without gates is None.",
  )
  units, source = jax.tree.leaves(example.carry)[0], "first leaf of the carry"
  if units.ndim > 2:  # a matrix for each head, whose axes are not the units
    units, source = cell.output(example.params, example.carry, example.drive), "output"
  shape = (_BATCH_SIZE, units.shape[-1])
  for name, values in gates.items():
    _require(
      jnp.shape(values) == shape,
      f"cell.gates must return values [*batch, H], here {list(shape)}, one for each unit of the "
      f"{source}, but gate '{name}' is {checks.shown(values)}.",
    )
    _require(
      bool(np.all((values >= 0) & (values <= 1))),
      f"cell.gates must return values from 0 to 1, but gate '{name}' has values from "
      f"{np.min(values):.3g} to {np.max(values):.3g}. Return the gate, not its pre-activation.",
    )
  return None


@_in_float64
def check_linear(example: Example) -> str | None:
  """Checks that the update is a ∘ h + b, with (a, b) from `linear`, in a step and in a scan."""
  cell = example.cell
  if cell.linear is None:
    return "does not apply: cell.linear is None"
  pair = cell.linear(example.params, example.drive)
  _require(
    isinstance(pair, tuple) and len(pair) == 2,
    f"cell.linear must return a pair (a, b), got {checks.shapes(pair)}.",
  )
  a, b = pair
  _require_like("cell.linear must return (a, b) with b like the carry", b, example.carry)
  try:
    # The batch axes of a may have size 1.
    a = jax.tree.map(lambda a, h: jnp.broadcast_to(a, h.shape), a, example.carry)
  except ValueError as error:
    raise AssertionError(
      f"cell.linear must return (a, b) with a like the carry {checks.shapes(example.carry)}, or "
      f"with batch axes of size 1, got {checks.shapes(a)}."
    ) from error
  _require_like("cell.linear must return (a, b) with a like the carry", a, example.carry)
  _require_close(
    "cell.update must be a ∘ h + b if the field `linear` of the cell is set, where (a, b) = "
    "cell.linear(params, drive). Set `linear` to None if the cell is not linear in its carry.",
    cell.update(example.params, example.carry, example.drive, example.recurrent),
    jax.tree.map(lambda a, h, b: a * h + b, a, example.carry, b),
  )
  _compare_with_loop(
    'unroll(..., method="associative"), which calls cell.linear once for all steps,',
    _unrolled(example, method="associative"),
    _looped(example),
  )
  return None


@_in_float64
def check_recurrent_kernel(example: Example) -> str | None:
  """Checks that `recurrent_kernel` is the name of the param W_h, and is set if there is one."""
  claimed, given = example.cell.recurrent_kernel, example.given
  if not isinstance(given, Mapping):
    _require(
      claimed is None,
      f"cell.recurrent_kernel must be the name of a param, but is '{claimed}', and the params are "
      f"no dict: {checks.shapes(given)}. Set it to None.",
    )
    return "does not apply: the params are no dict"
  if claimed is not None:
    _require(
      claimed in given,
      f"cell.recurrent_kernel must be the name of a param, one of {sorted(given)}, got "
      f"'{claimed}'.",
    )
    reason = _not_a_recurrent_kernel(example, claimed)
    _require(
      reason is None,
      f"cell.recurrent_kernel is '{claimed}', but {reason}. The field names a param W_h if recur "
      "returns h W_h (+ b), with h the first leaf of the carry, and if neither prepare nor another "
      "function uses W_h. Set it to None.",
    )
    return None
  for name in given:
    _require(
      _not_a_recurrent_kernel(example, name) is not None,
      f"cell.recurrent_kernel is None, but recur returns h W_h with W_h = params['{name}']. Set "
      f"recurrent_kernel='{name}', which the measures of the recurrent kernel need.",
    )
  return "does not apply: cell.recurrent_kernel is None"


def _not_a_recurrent_kernel(example: Example, name: str) -> str | None:
  """Returns why the param `name` is not the plain recurrent kernel; None if it is."""
  cell, params, carry = example.cell, example.params, example.carry
  w_h, leaves = example.given[name], jax.tree.leaves(carry)
  if not hasattr(w_h, "ndim") or w_h.ndim != 2 or not leaves or leaves[0].ndim != 2:
    return "it is not a matrix, or the first leaf of the carry is not [..., H]"
  if not (isinstance(params, Mapping) and name in params and _equal(params[name], w_h)):
    return "prepare changes this param"
  h = leaves[0]
  zeros = jax.tree.map(jnp.zeros_like, carry)
  recurrent, offset = cell.recur(params, carry), cell.recur(params, zeros)
  if h.shape[1] != w_h.shape[0] or jnp.shape(recurrent) != (_BATCH_SIZE, w_h.shape[1]):
    return "recur does not return h W_h: the shapes differ"
  if not _close(recurrent - offset, h @ w_h):
    return "recur does not return h W_h: the values differ"
  unread = cell.prepare({**example.given, name: jnp.full_like(w_h, jnp.nan)})
  drive = cell.project(unread, example.xs[0])
  new = cell.update(unread, carry, drive, example.recurrent)
  read = {"project": drive, "update": new, "output": cell.output(unread, new, drive)}
  for function, value in read.items():
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(value)):
      return f"{function} reads it too"
  return None


@_in_float64
def check_output(example: Example) -> None:
  """Checks that `output_is_carry` says whether the output is the carry itself."""
  cell, carry = example.cell, example.carry
  y = cell.output(example.params, carry, example.drive)
  same = _structure(y) == _structure(carry) and _equal(y, carry)
  _require(
    cell.output_is_carry == same,
    f"cell.output_is_carry is {cell.output_is_carry}, but output "
    f"{'returns the carry' if same else 'does not return the carry itself'}. Set it to {same}.",
  )


@_in_float64
def check_tokens(example: Example) -> str | None:
  """Checks that integer tokens have the drive and the gradient of their one-hot vectors."""
  cell, params = example.cell, example.params
  tokens = np.arange(_BATCH_SIZE) % example.input_size
  one_hot = (tokens[:, None] == np.arange(example.input_size)).astype(np.float64)

  def pulled_back(xs: Any) -> tuple[PyTree, PyTree]:
    drive, vjp = jax.vjp(
      lambda floats: floats_of(cell.project(with_floats(floats, params), xs)), floats_of(params)
    )
    return drive, vjp(_draw(drive, 4))

  try:
    _shapes(lambda: cell.project(params, jnp.asarray(tokens, jnp.int32)))
  except AssertionError as error:
    if isinstance(error.__cause__, TypeError | ValueError):
      return f"does not apply: the cell takes no tokens ({error.__cause__!s:.100})"
    raise
  dtypes = (np.int32, np.uint8)
  expected, *found = jax.jit(lambda *inputs: list(map(pulled_back, inputs)))(
    one_hot, *map(tokens.astype, dtypes)
  )
  for dtype, (drive, bar) in zip(dtypes, found, strict=True):
    rule = (
      f"cell.project accepts integer tokens, here {np.dtype(dtype)}{[_BATCH_SIZE]}, which must "
      "stand for their one-hot vectors, but"
    )
    hint = "Raise a TypeError for integers if the cell takes no tokens."
    _require_close(f"{rule} the drives differ. {hint}", drive, expected[0])
    _require_close(f"{rule} the gradients of the params differ. {hint}", bar, expected[1])
  return None


@_in_float64
def check_bfloat16(example: Example) -> str | None:
  """Checks that params, carry and output are kept in bfloat16, if the cell supports it."""
  dtype = jnp.bfloat16
  try:
    _require_precision(_shapes(lambda: example.init(0, dtype)), dtype)
    _check_shapes(example, dtype, (_BATCH_SIZE,))
  except AssertionError as error:
    if error.__cause__ is not None:
      return f"does not apply: the cell takes no bfloat16 ({error.__cause__!s:.100})"
    raise
  return None


@_in_float64
def check_derivatives(example: Example) -> str | None:
  """Checks the derivatives of each function against finite differences, in both modes."""
  cell, params, carry = example.cell, example.params, example.carry
  x, drive, recurrent = example.xs[0], example.drive, example.recurrent
  calls: dict[str, tuple[Callable[..., PyTree], tuple[PyTree, ...]]] = {
    "prepare": (cell.prepare, (example.given,)),
    "project": (cell.project, (params, x)),
    "recur": (cell.recur, (params, carry)),
    "update": (cell.update, (params, carry, drive, recurrent)),
    "output": (cell.output, (params, carry, drive)),
  }
  floats = {name: tuple(map(floats_of, args)) for name, (_, args) in calls.items()}

  @functools.partial(jax.jit, static_argnums=0)
  def derivatives(
    forward_mode: bool, floats: dict[str, tuple[PyTree, ...]]
  ) -> dict[str, _Derivatives | None]:
    return {
      name: _derivatives(function, args, floats[name], forward_mode)
      for name, (function, args) in calls.items()
    }

  reason = None
  try:
    results = derivatives(True, floats)
  except (AssertionError, TypeError) as error:
    if "custom_vjp" not in str(error):
      raise
    results = derivatives(False, floats)
    reason = "passed in reverse mode alone, because a function has a jax.custom_vjp"
  for name in calls:
    _compare_derivatives(f"cell.{name}", results[name])
  return reason


class _Derivatives(NamedTuple):
  """The derivatives of a function in one random direction.

  Attributes:
    difference: the derivative by finite differences.
    tangent: the derivative in forward mode, or None.
    along: the inner product of a random cotangent with the tangent, or else the difference.
    product: the same number, computed in reverse mode.
  """

  difference: PyTree
  tangent: PyTree | None
  along: jax.Array
  product: jax.Array


def _derivatives(
  function: Callable[..., PyTree],
  args: tuple[PyTree, ...],
  floats: tuple[PyTree, ...],
  forward_mode: bool,
) -> _Derivatives | None:
  """Returns derivatives at `args`, whose floats are `floats`; None if no result is a float."""

  def moved(*floats: PyTree) -> PyTree:
    return floats_of(function(*map(with_floats, floats, args)))

  value, vjp = jax.vjp(moved, *floats)
  if not jax.tree.leaves(value) or not jax.tree.leaves(floats):
    return None
  direction, cotangent = _draw(floats, 11), _draw(value, 12)
  # The step is so small that it hardly ever moves a pre-activation across the kink of a relu.
  epsilon = 1e-6
  high, low = (
    moved(*jax.tree.map(lambda a, v, s=s: a + s * epsilon * v, floats, direction)) for s in (1, -1)
  )
  difference = jax.tree.map(lambda a, b: (a - b) / (2 * epsilon), high, low)
  tangent = jax.jvp(moved, floats, direction)[1] if forward_mode else None
  along = _inner(cotangent, difference if tangent is None else tangent)
  return _Derivatives(difference, tangent, along, _inner(vjp(cotangent), direction))


def _compare_derivatives(name: str, found: _Derivatives | None) -> None:
  if found is None:
    return
  hint = (
    f"Compare the derivative of {name}, where it is written by hand (jax.custom_jvp, "
    "jax.custom_vjp), with that of the plain function. Functions without a derivative "
    "(jnp.round, stop_gradient) are not allowed in a cell; nor are casts to a lower precision."
  )
  if found.tangent is not None:
    _require_close(
      f"{name}: the derivative in forward mode (jax.jvp) is not that of finite differences. {hint}",
      found.tangent,
      found.difference,
      tolerance=1e-6,
    )
  _require_close(
    f"{name}: the derivative in reverse mode (jax.vjp) is not that of "
    f"{'finite differences' if found.tangent is None else 'forward mode'}. {hint}",
    found.product,
    found.along,
    tolerance=1e-6 if found.tangent is None else 1e-9,
  )


@_in_float64
def check_zeros(example: Example) -> None:
  """Checks that a step from a carry of zeros, with inputs of zeros, has finite gradients.

  Every sequence starts with such a carry, and padded steps have such inputs.
  """
  cell = example.cell
  zeros = cell.initial_carry((_BATCH_SIZE,), jnp.float64)

  def step(params: PyTree, floats: PyTree, x: PyTree) -> PyTree:
    params = cell.prepare(with_floats(params, example.initial))
    result = example.step_from(params, with_floats(floats, zeros), x)
    return floats_of((result["update"], result["output"]))

  args = floats_of(example.initial), floats_of(zeros), jnp.zeros_like(example.xs[0])
  value, vjp = jax.vjp(step, *args)
  where = "with the params of cell.init, a carry of zeros and inputs of zeros"
  _require_finite(f"A step {where} must be finite", value)
  gradients = dict(zip(("params", "carry", "x"), vjp(_draw(value, 5)), strict=True))
  _require_finite(
    f"The gradient of a step {where} must be finite. A square root or a norm of zeros needs a "
    "jnp.where around its argument as well as around its result",
    gradients,
  )


@_in_float64
def check_unroll(example: Example) -> None:
  """Checks that a jitted `unroll` equals an eager Python loop, in values, gradients and norms."""
  unroll(example.cell, example.given, example.xs[:1, :1])  # one step of one example
  _compare_with_loop("unroll under jax.jit", _unrolled(example), _looped(example))


def _unrolled(example: Example, **options: Any) -> dict[str, PyTree]:
  """Returns values, gradients and gradient norms of `unroll`, from one jitted program."""
  probe = gradient_probe(example.cell, _NUM_STEPS, _BATCH_SIZE, jnp.float64)

  @jax.jit
  def run(args: tuple[PyTree, ...], probe: PyTree) -> dict[str, PyTree]:
    def values(args: tuple[PyTree, ...], probe: PyTree) -> PyTree:
      params, floats, xs = args
      final, ys = unroll(
        example.cell,
        with_floats(params, example.given),
        xs,
        with_floats(floats, example.carry),
        lengths=_LENGTHS,
        resets=_RESETS,
        truncation=_TRUNCATION,
        probe=probe,
        **options,
      )
      return floats_of(final), floats_of(ys)

    value, vjp = jax.vjp(values, args, probe)
    gradients, norms = vjp(_draw(value, 6))
    return _results(value, gradients, norms)

  padded = np.arange(_NUM_STEPS)[:, None, None] >= _LENGTHS[None, :, None]
  xs = jnp.where(padded, jnp.nan, example.xs)
  return run((floats_of(example.given), floats_of(example.carry), xs), probe)


def _results(value: PyTree, gradients: PyTree, norms: PyTree) -> dict[str, PyTree]:
  (final, ys), (params, carry, xs) = value, gradients
  return {
    "final carry": final,
    "ys": ys,
    "gradient of the params": params,
    "gradient of the initial carry": carry,
    "gradient of xs": xs,
    "probe's norms ‖dL/dh_t‖": norms,
  }


def _looped(example: Example) -> dict[str, PyTree]:
  """Returns values, gradients and gradient norms of an eager Python loop over the cell's functions.

  The norms are those of the gradients of zeros that are added to every h_t.
  """
  cell = example.cell
  num_steps = np.arange(_NUM_STEPS)[:, None]
  valid = num_steps < _LENGTHS
  resets = _RESETS & valid
  counts = np.zeros(_BATCH_SIZE, int)  # steps since the sequence began
  cuts = np.zeros_like(resets)
  for t in range(_NUM_STEPS):
    counts[resets[t]] = 0
    cuts[t] = valid[t] & (counts > 0) & (counts % _TRUNCATION == 0)
    counts += valid[t]

  def select(condition: np.ndarray, yes: PyTree, no: PyTree) -> PyTree:
    if not condition.any():
      return no
    return jax.tree.map(
      lambda a, b: jnp.where(np.expand_dims(condition, tuple(range(1, b.ndim))), a, b), yes, no
    )

  def values(args: tuple[PyTree, ...], perturbations: list[PyTree]) -> PyTree:
    floats, carry, xs = args
    params = cell.prepare(with_floats(floats, example.given))
    carry, ys = with_floats(carry, example.carry), []
    for t in range(_NUM_STEPS):
      kept = select(resets[t], jax.tree.map(jnp.zeros_like, carry), carry)
      start = select(cuts[t], jax.lax.stop_gradient(kept), kept)
      drive = cell.project(params, xs[t])
      new = cell.update(params, start, drive, cell.recur(params, start))
      new = with_floats(jax.tree.map(jnp.add, floats_of(new), perturbations[t]), new)
      y = cell.output(params, new, drive)
      carry = select(~valid[t], kept, new)
      ys.append(select(~valid[t], jax.tree.map(jnp.zeros_like, y), y))
    return floats_of(carry), floats_of(jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys))

  args = floats_of(example.given), floats_of(example.carry), example.xs
  none = jax.tree.map(jnp.zeros_like, floats_of(example.carry))
  value = values(args, [none] * _NUM_STEPS)  # not from jax.vjp, which traces the cell
  gradients, perturbations = jax.vjp(values, args, [none] * _NUM_STEPS)[1](_draw(value, 6))

  def norms(*leaves: jax.Array) -> np.ndarray:
    flat = np.reshape(np.stack(leaves), (_NUM_STEPS, _BATCH_SIZE, -1))
    return np.linalg.norm(flat, axis=-1)

  return _results(value, gradients, jax.tree.map(norms, *perturbations))


def _compare_with_loop(name: str, found: dict[str, PyTree], wanted: dict[str, PyTree]) -> None:
  for what, value in wanted.items():
    _require_close(
      f"{name} must equal an eager Python loop over project, recur, update and output, but its "
      f"{what} differs. A function of the cell computes something else when it is traced, or when "
      "it is called with all steps, or keeps values from one call to the next.",
      found[what],
      value,
    )


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


def _guarded(cell: Cell) -> Cell:
  """Returns the cell with functions whose errors are AssertionErrors that name the function."""

  def guard(name: str) -> Any:
    function = getattr(cell, name)

    def call(*args: Any) -> Any:
      try:
        return function(*args)
      except AssertionError:
        raise
      except Exception as error:
        given = ", ".join(checks.shapes(arg) for arg in args)
        hint = " check_cell's argument input_size sets another width of the inputs."
        raise AssertionError(
          f"cell.{name} raised {type(error).__name__} for the arguments ({given}): {error}"
          f"{hint if name == 'init' else ''}"
        ) from error

    return call

  names = [*_FUNCTIONS, *(name for name in ("gates", "linear") if getattr(cell, name) is not None)]
  return cell._replace(**{name: guard(name) for name in names})


def _require(condition: Any, message: str) -> None:
  if not condition:
    raise AssertionError(message)


def _require_like(rule: str, found: PyTree, wanted: PyTree) -> None:
  """Requires two pytrees of arrays to have the same structure, shapes and dtypes."""
  try:
    checks.like("it", wanted, found)
  except ValueError as error:
    raise AssertionError(f"{rule}: {error}") from None


def _require_finite(rule: str, tree: PyTree) -> None:
  for path, leaf in _leaves(tree):
    if _is_float(leaf):
      _require(bool(jnp.all(jnp.isfinite(leaf))), f"{rule}, but {path or 'the result'} is not.")


def _require_equal(message: str, found: PyTree, wanted: PyTree) -> None:
  _require(_structure(found) == _structure(wanted), message)
  _require(_equal(found, wanted), message)


def _require_close(message: str, found: PyTree, wanted: PyTree, tolerance: float = 1e-9) -> None:
  """Requires two pytrees to be equal to rounding."""
  _require(
    _structure(found) == _structure(wanted),
    f"{message} Their structures differ: {checks.shapes(found)}, {checks.shapes(wanted)}.",
  )
  for (path, a), b in zip(_leaves(found), jax.tree.leaves(wanted), strict=True):
    at = f" at {path}" if path else ""
    shapes = f"{message} Their shapes{at} differ: {checks.shown(a)}, {checks.shown(b)}."
    _require(jnp.shape(a) == jnp.shape(b), shapes)
    if not _close(a, b, tolerance):
      apart = np.max(np.abs(np.asarray(a) - np.asarray(b)))
      size = np.max(np.abs(b))
      raise AssertionError(
        f"{message} The largest difference{at} is {apart:.3g}, and the largest value is {size:.3g}."
      )


def _close(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
  """Returns whether two arrays differ by rounding, relative to their largest value."""
  a, b = np.asarray(a), np.asarray(b)
  if a.dtype == bool or not a.size:
    return np.array_equal(a, b)
  return np.allclose(a, b, rtol=tolerance, atol=tolerance * max(1e-3, float(np.max(np.abs(b)))))


def _equal(a: PyTree, b: PyTree) -> bool:
  """Returns whether two pytrees of one structure hold equal arrays."""
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(
    a is b or (jnp.shape(a) == jnp.shape(b) and np.array_equal(np.asarray(a), np.asarray(b)))
    for a, b in leaves
  )


def _leaves(tree: PyTree) -> Iterator[tuple[str, Any]]:
  """Yields (path, leaf) for each leaf of a pytree; the path is text like ['cell'][0]."""
  for path, leaf in jax.tree.leaves_with_path(tree):
    yield jax.tree_util.keystr(path), leaf


def _structure(tree: PyTree) -> object:
  return jax.tree.structure(tree)


def _shapes(function: Callable[..., PyTree], *args: Any) -> PyTree:
  return jax.eval_shape(function, *args)


def _as_array(leaf: Any) -> jax.Array:
  """Returns an array of the params; raises if a leaf is none."""
  _require(
    isinstance(leaf, jax.Array | np.ndarray),
    f"cell.init and cell.initial_carry must return pytrees of arrays, but a leaf is {leaf!r:.60}. "
    "Constants of the cell belong in its closure.",
  )
  return jnp.asarray(leaf)


def _is_float(leaf: Any) -> bool:
  """Returns whether an array holds real or complex numbers."""
  return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _precision(leaf: Any) -> np.dtype:
  """Returns the dtype of an array's real part."""
  return jnp.finfo(leaf.dtype).dtype


def _draw(like: PyTree, seed: int) -> PyTree:
  """Returns random values for the real and complex leaves of a pytree, and ones elsewhere."""
  random = np.random.default_rng(seed)

  def leaf(a: Any) -> jax.Array:
    if not _is_float(a):
      return jnp.ones(a.shape, a.dtype)
    values = random.standard_normal((2, *a.shape))
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
      return jnp.asarray(values[0] + 1j * values[1], a.dtype)
    return jnp.asarray(values[0], a.dtype)

  return jax.tree.map(leaf, like)


def _inner(a: PyTree, b: PyTree) -> jax.Array:
  """Returns Re Σ a b. Nothing is conjugated, because JAX's vjp is the transpose."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return sum((jnp.sum(x * y).real for x, y in pairs), start=jnp.zeros(()))
