"""Tests that `unroll` equals a plain `lax.scan` under the transformations of JAX."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rnn_jax import unroll
from rnn_jax.cells import make_cell
from rnn_jax.parallel import vary_alike
from rnn_jax.types import floats_of

NUM_STEPS, BATCH_SIZE, INPUT_SIZE = 5, 4, 3


def plain(cell, params, xs):
  """Runs a cell with `lax.scan`, without the hand-written derivative."""
  params = cell.prepare(params)
  drives = cell.project(params, xs, None)
  zeros = cell.initial_carry((xs.shape[1],), xs.dtype)
  params, drives, carry = vary_alike((params, drives, zeros))

  def step(carry, drive):
    new = cell.update(params, carry, drive, cell.recur(params, carry))
    return new, cell.output(params, new, drive)

  return lax.scan(step, carry, drives)


def make_loss(run, cell):
  def loss(params, xs):
    last, ys = run(cell, params, xs)
    weights = jnp.cos(jnp.arange(ys.shape[0], dtype=xs.dtype))[:, None, None]
    final = (jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(floats_of(last)))
    return jnp.sum(weights * ys**2) + sum(final)

  return loss


def gradient(loss):
  return jax.value_and_grad(loss, argnums=(0, 1))


def mesh():
  return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))


def on_each_device(function, out_specs, check=True):
  """Maps `function(params, xs)` over two devices, each with half of the examples."""
  specs = (P(), P(None, "data"))
  return jax.shard_map(function, mesh=mesh(), in_specs=specs, out_specs=out_specs, check_vma=check)


# `name: (loss, params, xs) -> results`
TRANSFORMATIONS = {}


def transformation(function):
  TRANSFORMATIONS[function.__name__] = function
  return function


@transformation
def eager(loss, params, xs):
  return gradient(loss)(params, xs)


@transformation
def constants_of_a_program(loss, params, xs):
  return jax.jit(lambda: gradient(loss)(params, xs))()


@transformation
def disable_jit(loss, params, xs):
  with jax.disable_jit():
    return gradient(loss)(params, xs)


@transformation
def debug_nans(loss, params, xs):
  with jax.debug_nans(True):
    return jax.jit(gradient(loss))(params, xs)


@transformation
def strict_promotion(loss, params, xs):
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    return jax.jit(gradient(loss))(params, xs)


@transformation
def checkify_indices(loss, params, xs):
  checked = checkify.checkify(gradient(loss), errors=checkify.index_checks)
  with jax.numpy_dtype_promotion("standard"):  # checkify mixes index dtypes
    error, results = jax.jit(checked)(params, xs)
  error.throw()
  return results


@transformation
def checkpoint(loss, params, xs):
  return jax.jit(gradient(jax.checkpoint(loss)))(params, xs)


@transformation
def vmap(loss, params, xs):
  both = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), (params, xs))
  over_params = jax.vmap(gradient(loss), (0, None))
  return jax.jit(jax.vmap(over_params, (None, 0)))(*both)


@transformation
def gradient_of_vmap(loss, params, xs):
  def mean(params, xs):
    return jnp.mean(jax.vmap(loss, (None, 0))(params, xs))

  return jax.jit(gradient(mean))(params, jnp.stack([xs, 2 * xs]))


@transformation
def custom_vmap(loss, params, xs):
  run = jax.custom_batching.custom_vmap(lambda xs: jax.grad(loss)(params, xs))
  run.def_vmap(
    lambda size, batched, xs: (
      jax.vmap(partial(jax.grad(loss), params))(xs),
      jax.tree.map(lambda _: True, params),
    )
  )
  return jax.jit(jax.vmap(run))(jnp.stack([xs, 2 * xs]))


@transformation
def pmap_of_vmap(loss, params, xs):
  per_example = jax.vmap(gradient(loss), (None, 0))
  return jax.pmap(per_example, in_axes=(None, 0))(params, jnp.stack([xs, 2 * xs])[:, None])


@transformation
def shard_map(loss, params, xs):
  return jax.jit(on_each_device(jax.grad(loss, argnums=(0, 1)), (P(), P(None, "data"))))(params, xs)


@transformation
def shard_map_without_check(loss, params, xs):
  def summed(params, xs):
    return lax.psum(jax.grad(loss)(params, xs), "data")

  return jax.jit(on_each_device(summed, P(), check=False))(params, xs)


@transformation
def gradient_of_shard_map(loss, params, xs):
  total = on_each_device(lambda params, xs: lax.psum(loss(params, xs), "data"), P())
  return jax.jit(gradient(total))(params, xs)


@transformation
def automatic_sharding(loss, params, xs):
  return jax.jit(gradient(loss))(params, jax.device_put(xs, NamedSharding(mesh(), P(None, "data"))))


@transformation
def hessian_vector_product(loss, params, xs):
  return jax.jit(lambda *args: jax.jvp(jax.grad(loss), args, args))(params, xs)


@transformation
def loop_of_updates(loss, params, xs):
  def update(params, _):
    value, grads = jax.value_and_grad(loss)(params, xs)
    return jax.tree.map(lambda a, b: a - 0.01 * jnp.conj(b), params, grads), value

  return jax.jit(lambda params: lax.scan(update, params, None, length=3))(params)


@transformation
def branches(loss, params, xs):
  def either(params, xs):
    return lax.cond(xs[0, 0, 0] > 0, loss, lambda *_: 0.0, params, xs)

  return jax.jit(jax.vmap(gradient(either), (None, 0)))(params, jnp.stack([xs, -xs]))


@transformation
def vjp_across_programs(loss, params, xs):
  value, vjp = jax.jit(lambda params, xs: jax.vjp(loss, params, xs))(params, xs)
  return value, jax.jit(lambda vjp: vjp(jnp.ones_like(value)))(vjp)


@transformation
def export_of_symbolic_sizes(loss, params, xs):
  shape = export.symbolic_shape(f"t, b, {INPUT_SIZE}")
  exported = export.export(jax.jit(gradient(loss)))(params, jax.ShapeDtypeStruct(shape, xs.dtype))
  return exported.call(params, xs)


# Clockwork has integers in its carry, and lru has complex numbers. The loops of layer_norm_lstm
# prefetch from their buffers.
CASES = [(name, "lstm") for name in TRANSFORMATIONS] + [
  (name, cell)
  for name in ("checkify_indices", "disable_jit", "export_of_symbolic_sizes", "shard_map")
  for cell in ("clockwork", "layer_norm_lstm", "lru")
]


@pytest.mark.parametrize(("transformation", "name"), CASES)
def test_values_and_gradients_are_those_of_the_plain_loop(x64, transformation, name):
  cell = make_cell(name, 4)
  params = cell.init(jax.random.key(0), INPUT_SIZE)
  # Without jit, every operation of every step is dispatched separately, so use fewer steps.
  num_steps = 2 if transformation == "disable_jit" else NUM_STEPS
  xs = jax.random.normal(jax.random.key(1), (num_steps, BATCH_SIZE, INPUT_SIZE))
  got, want = (
    jax.device_get(TRANSFORMATIONS[transformation](make_loss(run, cell), params, xs))
    for run in (unroll, plain)
  )
  jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), got, want)


TIME = {
  "remat_step": {"remat": "step"},
  "remat_sqrt": {"remat": "sqrt"},
  "scan_unroll": {"scan_unroll": 2},
  "forward_mode": {"forward_mode": True},
  "time_arguments": {"truncation": 2, "resets": True, "lengths": True},
  "associative": {"method": "associative"},
}


@pytest.mark.parametrize("time", TIME.values(), ids=TIME)
def test_time_arguments_under_shard_map_act_as_on_the_whole_batch(x64, time):
  cell = make_cell("lru", 4)
  params = cell.init(jax.random.key(0), INPUT_SIZE)
  xs = jax.random.normal(jax.random.key(1), (NUM_STEPS, BATCH_SIZE, INPUT_SIZE))
  arrays = {
    "resets": jax.random.bernoulli(jax.random.key(2), 0.3, (NUM_STEPS, BATCH_SIZE)),
    "lengths": jnp.array([5, 2, 0, 4]),
  }
  arrays = {key: arrays[key] for key in arrays if key in time}
  options = {key: value for key, value in time.items() if key not in arrays}

  def gradients(params, xs, arrays):
    run = partial(unroll, **options, **arrays)
    return jax.grad(make_loss(run, cell), argnums=(0, 1))(params, xs)

  specs = {"resets": P(None, "data"), "lengths": P("data")}
  mapped = jax.shard_map(
    gradients,
    mesh=mesh(),
    in_specs=(P(), P(None, "data"), {key: specs[key] for key in arrays}),
    out_specs=(P(), P(None, "data")),
  )
  got, want = jax.jit(mapped)(params, xs, arrays), jax.jit(gradients)(params, xs, arrays)
  jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), got, want)


def test_gradient_norms_under_shard_map_are_those_of_the_whole_batch(x64):
  cell = make_cell("lstm", 4)
  params = cell.init(jax.random.key(0), INPUT_SIZE)
  xs = jax.random.normal(jax.random.key(1), (NUM_STEPS, BATCH_SIZE, INPUT_SIZE))
  probe = jax.tree.map(
    lambda leaf: jnp.zeros((NUM_STEPS, BATCH_SIZE)), cell.initial_carry((BATCH_SIZE,))
  )

  def norms(params, xs, probe):
    return jax.grad(lambda probe: make_loss(partial(unroll, probe=probe), cell)(params, xs))(probe)

  examples = P(None, "data")
  mapped = jax.shard_map(norms, mesh=mesh(), in_specs=(P(), examples, examples), out_specs=examples)
  got, want = jax.jit(mapped)(params, xs, probe), norms(params, xs, probe)
  jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9), got, want)


def equations_of(jaxpr):
  """Yields the equations of a jaxpr, including nested ones."""
  for equation in jaxpr.eqns:
    yield equation
    if "jaxpr" in equation.params:
      inner = equation.params["jaxpr"]
      yield from equations_of(getattr(inner, "jaxpr", inner))


def test_gradients_are_summed_over_devices_outside_the_loop():
  cell = make_cell("elman", 4)
  params = cell.init(jax.random.key(0), INPUT_SIZE)
  xs = jnp.ones((NUM_STEPS, BATCH_SIZE, INPUT_SIZE))
  mapped = on_each_device(jax.grad(make_loss(unroll, cell)), P())
  equations = list(equations_of(jax.make_jaxpr(mapped)(params, xs).jaxpr))
  loops = [str(equation) for equation in equations if equation.primitive.name == "scan"]
  assert len(loops) == 2
  assert not any("psum" in loop for loop in loops)
  assert any("psum" in equation.primitive.name for equation in equations)


@pytest.mark.parametrize("options", [{"remat": "sqrt"}, {"method": "associative"}])
def test_options_that_need_a_concrete_number_of_steps_reject_a_symbolic_one(options):
  cell = make_cell("lru", 4)
  params = cell.init(jax.random.key(0), INPUT_SIZE)
  xs = jax.ShapeDtypeStruct(export.symbolic_shape(f"t, 2, {INPUT_SIZE}"), jnp.float32)
  [(name, value)] = options.items()
  with pytest.raises(
    ValueError, match=f"{name}='{value}' needs a concrete number of steps, got symbolic T = t"
  ):
    export.export(jax.jit(lambda params, xs: unroll(cell, params, xs, **options)))(params, xs)


def test_an_explicit_sharding_is_rejected():
  cell = make_cell("elman", 4)
  params = cell.init(jax.random.key(0), INPUT_SIZE)
  explicit = NamedSharding(
    jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,)), P(None, "data")
  )
  xs = jax.device_put(jnp.ones((NUM_STEPS, BATCH_SIZE, INPUT_SIZE)), explicit)
  with pytest.raises(
    ValueError, match=r"xs must not be sharded over mesh axes of type Explicit, got .*@data"
  ):
    unroll(cell, params, xs)
