"""Tests that the hand-written reverse pass equals JAX's derivative of a plain `lax.scan`.

`forward_mode=True` selects the plain scan, which serves as the reference.
"""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_kinds import KINDS, WRAPPED

from rnn_jax import gradient_probe, make_cell, unroll
from rnn_jax.gradient_flow import truncation_bias
from rnn_jax.types import floats_of, with_floats

T, B, D, H = 7, 2, 2, 3

LENGTHS = np.array([7, 4])
RESETS = np.zeros((T, B), bool)
RESETS[[3, 5], [0, 1]] = True

TIMES = [
  {},
  {"reverse": True, "scan_unroll": 3},
  {"truncation": 3, "lengths": LENGTHS, "resets": RESETS},
  {"truncation": 2, "lengths": LENGTHS, "reverse": True, "remat": "step"},
  {"truncation": 2, "resets": RESETS, "remat": "sqrt"},
]
CUT = {"truncation": 3, "resets": RESETS}


def draw(seed, like):
  random = np.random.default_rng(seed)

  def leaf(a):
    values = 0.6 * random.standard_normal((2, *a.shape))
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
      return jnp.asarray(values[0] + 1j * values[1], a.dtype)
    return jnp.asarray(values[0], a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a

  return jax.tree.map(leaf, like)


def problem(name, options, dtype=float, num_steps=T):
  cell = WRAPPED[name](H) if name in WRAPPED else make_cell(name, H, **options)
  input_size = H if name in WRAPPED else D
  params = draw(1, jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size, dtype)))
  carry = draw(2, cell.initial_carry((B,), dtype))
  xs = draw(3, jax.ShapeDtypeStruct((num_steps, B, input_size), dtype))
  return cell, (params, xs, carry), gradient_probe(cell, num_steps, B, dtype)


def score(result):
  """Returns a scalar loss that gives each entry of outputs and final carry a different weight."""
  leaves = jax.tree.leaves(floats_of(result))
  return sum(jnp.vdot(draw(20 + i, a), jnp.sin(a)).real for i, a in enumerate(leaves))


# Each cell leads to a different buffer plan; `rnn_jax.testing.check_unroll` tests all. The plan
# also depends on whether a step starts from the carry as it is, i.e. without resets and truncation.
# Padding, direction and rematerialization affect all plans alike.
@pytest.mark.parametrize(
  ("name", "options", "time", "dtype"),
  [
    *((name, {}, TIMES[2], jnp.float64) for name in KINDS),
    ("gru", {"reset": "before"}, CUT, jnp.float64),
    *((name, {}, TIMES[0], jnp.float64) for name in ("gru", "lru")),
    *((name, {}, TIMES[1], jnp.float64) for name in ("lstm", "lru")),
    *((name, {}, TIMES[3], jnp.float64) for name in ("elman", "lstm")),
    *((name, {}, TIMES[4], jnp.float64) for name in ("gru", "elman")),
    *((name, {}, TIMES[2], jnp.float32) for name in ("lstm", "lru")),
    *((name, {}, TIMES[2] | {"key": 5}, jnp.float64) for name in ("zoneout lstm", "all of a gru")),
  ],
  ids=lambda v: v if isinstance(v, str) else "+".join(v) if isinstance(v, dict) else v.__name__,
)
def test_values_gradients_and_norms_are_those_of_the_plain_loop(x64, name, options, time, dtype):
  cell, (params, xs, carry), probe = problem(name, options, dtype)
  given = params, xs, floats_of(carry)
  if "key" in time:
    time = time | {"key": jax.random.key(time["key"])}

  @functools.partial(jax.jit, static_argnums=0)
  def everything(forward_mode):
    def loss(arrays, probe):
      params, xs, floats = arrays
      start = with_floats(floats, carry)
      result = unroll(cell, params, xs, start, probe=probe, forward_mode=forward_mode, **time)
      return score(result), result

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(given, probe)

  rtol = 1e-11 if dtype == jnp.float64 else 2e-4
  chex.assert_trees_all_close(everything(False), everything(True), rtol=rtol, atol=0.05 * rtol)


def late_product():
  """Returns an Elman cell that computes its recurrent product in `update`.

  Before the product, `update` casts the kernel and multiplies it by a constant from its closure.
  """
  cell, constant = make_cell("elman", H), jnp.asarray(np.diag(range(1, H + 1)), jnp.float64)

  def update(params, carry, drive, recurrent):
    w_h = constant @ jnp.asarray(params["w_h"], jnp.float64)
    return jnp.tanh(drive + recurrent + carry @ w_h)

  return cell._replace(recur=lambda params, carry: jnp.zeros_like(carry), update=update)


def mean_square(ys):
  return jnp.mean(ys**2)


def test_eager_gradients_are_those_under_jit(x64):
  cell = late_product()
  params = draw(1, jax.eval_shape(lambda: cell.init(jax.random.key(0), D, float)))
  xs = draw(3, jax.ShapeDtypeStruct((T, B, D), float))

  def gradients(params, xs):
    gradient = jax.grad(lambda params, xs: score(unroll(cell, params, xs)), (0, 1))(params, xs)
    return gradient, truncation_bias([cell], [params], xs, mean_square, truncations=[2])

  chex.assert_trees_all_close(gradients(params, xs), jax.jit(gradients)(params, xs), rtol=1e-11)


# Each kind of cell is tested once. Each direction is tested with one gated and one ungated cell.
@pytest.mark.parametrize(
  ("time", "name"),
  [(TIMES[1], "elman"), (TIMES[1], "lstm"), (TIMES[2], "gru"), (TIMES[2], "lru")],
  ids=lambda v: v if isinstance(v, str) else "+".join(v),
)
def test_a_batch_of_one_has_the_gradients_of_that_example_in_a_batch(x64, name, time):
  # With a batch of one the loops prefetch from their buffers, as they do for every batch on devices
  # other than CPUs.
  cell, (params, xs, carry), probe = problem(name, {})
  slices = {"lengths": np.s_[:1], "resets": np.s_[:, :1]}
  alone = {key: value[slices[key]] if key in slices else value for key, value in time.items()}

  @functools.partial(jax.jit, static_argnums=0)
  def gradients(one):
    given, part = (alone, np.s_[:1]) if one else (time, np.s_[:])

    start = jax.tree.map(lambda a: a[part], carry)

    def loss(params, xs, floats, probe):
      result = unroll(cell, params, xs, with_floats(floats, start), probe=probe, **given)
      return score(jax.tree.map(lambda a: a[..., :1, :], floats_of(result)))

    probes = jax.tree.map(lambda a: a[:, part], probe)
    return jax.grad(loss, argnums=(0, 1, 2, 3))(params, xs[:, part], floats_of(start), probes)

  params_bar, xs_bar, carry_bar, norms = gradients(False)
  carry_bar = jax.tree.map(lambda a: a[:1], carry_bar)
  norms = jax.tree.map(lambda a: a[:, :1], norms)
  expected = (params_bar, xs_bar[:, :1], carry_bar, norms)
  chex.assert_trees_all_close(gradients(True), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
  ("name", "time", "orders"),
  [
    ("lstm", TIMES[0], ("forward", "reverse")),
    ("gru", TIMES[2], ("reverse",)),
    ("lru", TIMES[2], ("forward",)),
    ("elman", TIMES[4], ("forward", "reverse")),
  ],
  ids=lambda v: v if isinstance(v, str) else "+".join(v),
)
def test_hessian_vector_products_are_those_of_the_plain_loop(x64, name, time, orders):
  cell, (params, xs, carry), _ = problem(name, {})
  arrays = params, xs, floats_of(carry)
  direction = draw(40, arrays)

  @functools.partial(jax.jit, static_argnums=0)
  def products(forward_mode):
    def loss(arrays):
      params, xs, floats = arrays
      start = with_floats(floats, carry)
      return score(unroll(cell, params, xs, start, forward_mode=forward_mode, **time))

    def along(arrays):
      pairs = zip(jax.tree.leaves(jax.grad(loss)(arrays)), jax.tree.leaves(direction), strict=True)
      return sum(jnp.vdot(g, d).real for g, d in pairs)

    # Under truncation, forward-over-reverse and reverse-over-reverse products differ, because the
    # truncated gradient is not the gradient of any function, so its Jacobian need not be symmetric.
    over_reverse = {
      "forward": lambda: jax.jvp(jax.grad(loss), (arrays,), (direction,))[1],
      "reverse": lambda: jax.grad(along)(arrays),
    }
    if forward_mode and "truncation" not in time:
      return [over_reverse["forward"]()] * len(orders)
    return [over_reverse[order]() for order in orders]

  chex.assert_trees_all_close(products(False), products(True), rtol=1e-10, atol=1e-11)


def test_gradient_of_the_norms_is_that_of_the_plain_loop(x64):
  # The objective is a function of the norms, like a regularizer against vanishing gradients.
  cell, arrays, probe = problem("lstm", {})

  @functools.partial(jax.jit, static_argnums=0)
  @functools.partial(jax.grad, argnums=1)
  def penalty(forward_mode, arrays):
    def loss(probe):
      params, xs, carry = arrays
      return score(unroll(cell, params, xs, carry, probe=probe, forward_mode=forward_mode))

    norms = jax.tree.leaves(jax.grad(loss)(probe))
    return sum(jnp.vdot(draw(30 + i, a), jnp.log(a)) for i, a in enumerate(norms))

  chex.assert_trees_all_close(penalty(False, arrays), penalty(True, arrays), rtol=1e-9, atol=1e-10)


def test_a_weakly_typed_carry_gives_the_same_gradients(x64):
  cell, (params, xs, carry), _ = problem("lem", {})

  @jax.jit
  @jax.grad
  def total(carry):
    return score(unroll(cell, params, xs, carry))

  weak = jax.tree.map(lambda a: jnp.full(a.shape, 2.0), carry)
  strong = jax.tree.map(lambda a: jnp.full(a.shape, 2.0, a.dtype), carry)
  assert weak.hidden.weak_type and not strong.hidden.weak_type
  chex.assert_trees_all_equal(total(weak), total(strong))


def test_jvp_raises_unless_forward_mode_is_set(x64):
  cell, (params, xs, carry), _ = problem("elman", {})
  with pytest.raises(TypeError, match="forward-mode"):
    jax.jvp(lambda params: unroll(cell, params, xs, carry), (params,), (params,))


def test_a_complex_cell_with_several_drives_and_no_recurrent_product(x64):
  # h' = λ ∘ h + gain · u where the mask is True, else h' = h; y = gain · Re h. The carry is complex
  # and the drive is a dict with a boolean leaf.
  def project(params, xs, key=None):
    u = (xs @ params["w_x"]).astype(complex)
    return {"u": u, "gain": jnp.tanh(xs[..., :1]), "mask": xs[..., :1] > -0.5}

  def update(params, h, drive, recurrent):
    nu, theta = params["nu"][None], params["theta"][None]
    gain = drive["gain"].astype(complex)
    moved = jnp.exp(jax.lax.complex(-jnp.exp(nu), theta)) * h + gain * drive["u"]
    return jnp.where(drive["mask"], moved, h)

  shapes = {"w_x": (D, H), "nu": (H,), "theta": (H,)}
  params = draw(1, {k: jax.ShapeDtypeStruct(s, float) for k, s in shapes.items()})
  cell = make_cell("elman", H)._replace(
    init=lambda key, input_size, dtype=float: params,
    initial_carry=lambda shape, dtype=float: jnp.zeros((*shape, H), complex),
    project=project,
    recur=lambda params, h: (),
    update=update,
    output=lambda params, h, drive: h.real * drive["gain"],
  )
  xs = draw(3, jax.ShapeDtypeStruct((T, B, D), float))
  probe = jnp.zeros((T, B))

  @functools.partial(jax.jit, static_argnums=0)
  def everything(forward_mode):
    def loss(params, xs, probe):
      _, ys = unroll(cell, params, xs, probe=probe, forward_mode=forward_mode, truncation=4)
      return score(ys)

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(params, xs, probe)

  chex.assert_trees_all_close(everything(False), everything(True), rtol=1e-11, atol=1e-12)


def test_a_cell_with_an_integer_step_counter_in_its_carry(x64):
  # The carry is (h, count), and h changes only at every third step.
  base = make_cell("elman", H)

  def update(params, carry, drive, recurrent):
    h, count = carry
    moved = base.update(params, h, drive, recurrent)
    return jnp.where((count % 3 == 0)[..., None], moved, h), count + 1

  cell = base._replace(
    initial_carry=lambda shape, dtype=float: (
      jnp.zeros((*shape, H), dtype),
      jnp.zeros(shape, jnp.int32),
    ),
    recur=lambda params, carry: base.recur(params, carry[0]),
    update=update,
    output=lambda params, carry, drive: carry[0],
  )
  _, (params, xs, _), _ = problem("elman", {})

  @jax.jit
  @jax.grad
  def counted(params):
    return score(unroll(cell, params, xs)[1])

  @jax.jit
  @jax.grad
  def thinned(params):
    ys = unroll(base, params, xs[::3])[1]
    return score(jnp.repeat(ys, 3, axis=0)[:T])

  chex.assert_trees_all_close(counted(params), thinned(params), rtol=1e-11)
