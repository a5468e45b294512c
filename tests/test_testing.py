"""`check_cell` accepts correct cells of any form, and names the mistake of each incorrect cell."""

from __future__ import annotations

import itertools
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import Cell, make_cell, testing
from rnn_jax.cells import gru, residual, zoneout
from rnn_jax.types import unprepared

H = 4
ELMAN, GRU, MINGRU = (make_cell(name, H) for name in ("elman", "gru", "mingru"))


@chex.dataclass(frozen=True)
class Memory:
  """A carry: a hidden state, and a count of steps."""

  hidden: jax.Array
  count: jax.Array


def own_cell():
  """Returns a cell with nested params, a dataclass as its carry, and a dict as its output.

  It takes neither tokens nor bfloat16.
  """

  def init(key, input_size, dtype=float):
    if dtype == jnp.bfloat16:
      raise ValueError("float32 or float64 only")
    keys = jax.random.split(key, 2)
    kernels = [
      jax.random.normal(k, (n, H), dtype) for k, n in zip(keys, (input_size, H), strict=True)
    ]
    return {"layers": [{"kernel": k / 2} for k in kernels]}

  def initial_carry(batch_shape, dtype=float):
    count = jnp.zeros(batch_shape, jnp.int32)
    return Memory(hidden=jnp.zeros((*batch_shape, H), dtype), count=count)

  def project(params, xs, key=None):
    if not jnp.issubdtype(xs.dtype, jnp.floating):
      raise TypeError("xs must be vectors")
    return (xs @ params["layers"][0]["kernel"],)

  def update(params, carry, drive, recurrent):
    moved = jnp.tanh(drive[0] + carry.hidden @ params["layers"][1]["kernel"])
    active = (carry.count % 3 != 2)[..., None]
    hidden = jnp.where(active, moved, carry.hidden)
    return Memory(hidden=hidden, count=carry.count + 1)

  def output(params, carry, drive):
    return {"y": carry.hidden * drive[0]}

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=unprepared,
    project=project,
    recur=lambda params, carry: (),
    update=update,
    output=output,
  )


def test_a_cell_of_ones_own_passes_and_the_result_says_what_does_not_apply():
  result = testing.check_cell(own_cell(), input_size=2)
  assert set(result) == set(testing.CHECKS)
  assert {name for name, text in result.items() if text != "passed"} == {
    *("bfloat16", "gates", "linear", "recurrent_kernel", "tokens"),
  }
  assert result["tokens"] == "does not apply: the cell takes no tokens (xs must be vectors)"
  assert "float32 or float64 only" in result["bfloat16"]


@pytest.mark.parametrize("cell", [zoneout(GRU, 0.3), MINGRU], ids=["gru", "mingru"])
def test_cells_of_the_library_pass(cell):
  result = testing.check_cell(cell)
  assert result["tokens"] == result["bfloat16"] == "passed"


def test_a_custom_vjp_is_checked_in_reverse_mode_alone():
  @jax.custom_vjp
  def tanh(x):
    return jnp.tanh(x)

  tanh.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, bar: (bar * (1 - y**2),))
  cell = ELMAN._replace(update=lambda params, h, drive, recurrent: tanh(drive + recurrent))
  reason = testing.check_derivatives(testing.Example(cell))
  assert reason == "passed in reverse mode alone, because a function has a jax.custom_vjp"

  tanh.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, bar: (bar * (1 - y),))
  with pytest.raises(AssertionError, match=r"cell.update: the derivative in reverse mode"):
    testing.check_derivatives(testing.Example(cell))


@jax.custom_jvp
def wrong_tanh(x):
  return jnp.tanh(x)


@wrong_tanh.defjvp
def _(primals, tangents):
  y = jnp.tanh(primals[0])
  return y, 0.5 * (1 - y**2) * tangents[0]


CALLS = itertools.count()


def changed(cell, **functions):
  """Returns the cell with functions f replaced by `functions[name](f)`."""
  return cell._replace(**{name: wrap(getattr(cell, name)) for name, wrap in functions.items()})


def after(change):
  """Returns a decorator of functions, which applies `change` to their results."""
  return lambda function: lambda *args: change(function(*args))


def trained_by_the_batch(params, h, drive, recurrent):
  new = jnp.tanh(drive + recurrent)
  return new - jnp.mean(new, axis=0, keepdims=True)


def grows_in_place(params, h, drive, recurrent):
  params["b"] = params["b"] + 1
  return jnp.tanh(drive + recurrent)


# {mistake: (the check that fails, the cell, what the message says)}
WRONG = {
  "init ignores the dtype": (
    testing.check_init,
    changed(ELMAN, init=lambda f: lambda key, size, dtype=float: f(key, size, jnp.float32)),
    r"cell.init must return params of the requested dtype, here float64, but params\['b'\] is "
    r"float32\[4\]",
  ),
  "init draws with NumPy": (
    testing.check_init,
    changed(
      ELMAN,
      init=after(lambda p: p | {"b": p["b"] + np.random.standard_normal()}),
    ),
    "cell.init must depend on its arguments alone",
  ),
  "a param that is no array": (
    testing.check_init,
    changed(ELMAN, init=after(lambda p: p | {"gain": 2.0})),
    "must return pytrees of arrays, but a leaf is 2.0",
  ),
  "a carry of ones": (
    testing.check_initial_carry,
    changed(ELMAN, initial_carry=after(jnp.ones_like)),
    r"cell.initial_carry\(\(\), float32\) must be zeros",
  ),
  "one batch axis only": (
    testing.check_initial_carry,
    changed(ELMAN, initial_carry=lambda f: lambda shape, dtype=float: f(shape[:1], dtype)),
    r"must have leaves \[\*batch_shape, ...\], here \[2, 3, 4\], but carry is float64\[2, 4\]",
  ),
  "a carry of another precision": (
    testing.check_shapes,
    changed(ELMAN, update=after(lambda h: h.astype(float))),
    r"cell.update must return a carry like .* float32 .* returned float64\[3, 4\]",
  ),
  "a carry of another structure": (
    testing.check_shapes,
    changed(ELMAN, update=after(lambda h: (h,))),
    r"cell.update must return a carry like .* returned \(float32\[3, 4\],\)",
  ),
  "a transposed drive": (
    testing.check_shapes,
    ELMAN._replace(project=lambda params, xs, key=None: (xs @ params["w_x"]).T),
    "cell.project must keep all leading batch axes",
  ),
  "a branch on values": (
    testing.check_shapes,
    changed(ELMAN, update=after(lambda h: h if h.sum() > 0 else -h)),
    "cell.update raised TracerBoolConversionError",
  ),
  "a counter in the closure": (
    testing.check_purity,
    changed(ELMAN, update=after(lambda h: h + next(CALLS))),
    "cell.update must be pure",
  ),
  "params changed in place": (
    testing.check_purity,
    ELMAN._replace(update=grows_in_place),
    "must not change their arguments",
  ),
  "a drive of all steps": (
    testing.check_time_axis,
    changed(ELMAN, project=after(lambda a: jnp.cumsum(a, axis=0))),
    "cell.project must treat every leading axis alike",
  ),
  "a batch mean": (
    testing.check_batch_axes,
    ELMAN._replace(update=trained_by_the_batch),
    r"cell.update must compute each example by itself: .* for example \(0, 0\)",
  ),
  "a drive that depends on the place in the batch": (
    testing.check_batch_axes,
    changed(ELMAN, project=after(lambda a: a + jnp.arange(a.size, dtype=a.dtype).reshape(a.shape))),
    r"cell.project must compute each example by itself: .* for example \(0, 1\)",
  ),
  "recur squares its kernel": (
    testing.check_recur,
    ELMAN._replace(recur=lambda params, h: h @ params["w_h"] ** 2),
    "cell.recur must be linear in the params",
  ),
  "an output that is not declared": (
    testing.check_output,
    ELMAN._replace(output_is_carry=False),
    "cell.output_is_carry is False, but output returns the carry. Set it to True",
  ),
  "gates of another width": (
    testing.check_gates,
    changed(GRU, gates=after(lambda gates: {k: v[..., :1] for k, v in gates.items()})),
    r"cell.gates must return values \[\*batch, H\], here \[3, 4\], .* is float64\[3, 1\]",
  ),
  "gates before their sigmoid": (
    testing.check_gates,
    changed(GRU, gates=after(lambda gates: {k: 9 * v - 4 for k, v in gates.items()})),
    "cell.gates must return values from 0 to 1",
  ),
  "a kernel that prepare changes": (
    testing.check_recurrent_kernel,
    make_cell("clockwork", H)._replace(recurrent_kernel="w_h"),
    "cell.recurrent_kernel is 'w_h', but prepare changes this param",
  ),
  "a kernel that update reads too": (
    testing.check_recurrent_kernel,
    ELMAN._replace(
      update=lambda params, h, drive, recurrent: jnp.tanh(drive + recurrent + h @ params["w_h"])
    ),
    "cell.recurrent_kernel is 'w_h', but update reads it too",
  ),
  "no such kernel": (
    testing.check_recurrent_kernel,
    ELMAN._replace(recurrent_kernel="kernel"),
    r"must be the name of a param, one of \['b', 'w_h', 'w_x'\], got 'kernel'",
  ),
  "a kernel that is not declared": (
    testing.check_recurrent_kernel,
    GRU._replace(recurrent_kernel=None),
    "Set recurrent_kernel='w_h'",
  ),
  "tokens read as numbers": (
    testing.check_tokens,
    changed(
      ELMAN,
      project=lambda f: (
        lambda p, xs, key=None: (
          f(p, xs) if xs.ndim > 1 else xs[:, None].astype(float) * p["w_x"][:1]
        )
      ),
    ),
    r"accepts integer tokens, here int32\[3\], which must stand for their one-hot vectors",
  ),
  "bfloat16 params of another dtype": (
    testing.check_bfloat16,
    changed(
      ELMAN,
      init=lambda f: (
        lambda key, size, dtype=float: f(key, size, np.promote_types(dtype, np.float32))
      ),
      update=lambda f: lambda p, h, drive, recurrent: f(p, h, drive, recurrent).astype(h.dtype),
      output=lambda f: lambda p, h, drive: h,
    ),
    "here bfloat16, but params",
  ),
  "a tangent with a wrong factor": (
    testing.check_derivatives,
    ELMAN._replace(update=lambda params, h, drive, recurrent: wrong_tanh(drive + recurrent)),
    r"cell.update: the derivative in forward mode \(jax.jvp\) is not that of finite differences",
  ),
  "a gradient that is stopped": (
    testing.check_derivatives,
    changed(ELMAN, project=after(jax.lax.stop_gradient)),
    "cell.project: the derivative in forward mode",
  ),
  "the norm of zeros": (
    testing.check_zeros,
    changed(ELMAN, update=after(lambda h: h / (1 + jnp.linalg.norm(h, axis=-1, keepdims=True)))),
    "The gradient of a step .* must be finite",
  ),
  "another function under jit": (
    testing.check_unroll,
    changed(ELMAN, update=after(lambda h: 2 * h if isinstance(h, jax.core.Tracer) else h)),
    "unroll under jax.jit must equal an eager Python loop .* differs",
  ),
  "a linear that is another function": (
    testing.check_linear,
    changed(MINGRU, linear=after(lambda pair: (pair[0], 2 * pair[1]))),
    "cell.update must be a ∘ h . b if the field `linear` of the cell is set",
  ),
  "a linear that depends on its step": (
    testing.check_linear,
    changed(
      MINGRU,
      linear=after(lambda p: p if p[1].ndim == 2 else (p[0], jnp.cumsum(p[1], axis=0))),
    ),
    r"unroll\(..., method=.associative.\), .* must equal an eager Python loop",
  ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_named(mistake):
  check, cell, message = WRONG[mistake]
  with pytest.raises(AssertionError, match=message):
    check(testing.Example(cell))


def test_check_cell_raises_the_first_error_and_keeps_the_setting_of_x64():
  before = jax.config.jax_enable_x64
  with pytest.raises(AssertionError, match=r"cell.update must compute each example by itself"):
    testing.check_cell(ELMAN._replace(update=trained_by_the_batch))
  assert jax.config.jax_enable_x64 == before


def test_wrong_arguments_are_named(unchecked_types):
  with pytest.raises(TypeError, match="cell must be a Cell, got 'gru'"):
    testing.check_cell("gru")
  with pytest.raises(ValueError, match="input_size must be at least 1, got 0"):
    testing.check_cell(GRU, 0)
  with pytest.raises(AssertionError, match=r"cell.output must be a function"):
    testing.check_cell(GRU._replace(output=None))
  with pytest.raises(AssertionError, match=r"cell.init raised ValueError .* argument input_size"):
    testing.check_cell(residual(gru(4)))


def test_it_runs_outside_the_suite():
  code = (
    "from rnn_jax import make_cell, testing\n"
    "result = testing.check_cell(make_cell('indrnn', 4))\n"
    "import jax, sys\n"
    "assert not jax.config.jax_enable_x64 and 'pytest' not in sys.modules\n"
    "print(*sorted(set(result.values())), sep='; ')"
  )
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert run.stdout.startswith("does not apply: ") and "passed" in run.stdout
