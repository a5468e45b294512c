"""`first_nonfinite` finds NaN and infinities where the tests plant them, and nothing else."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import draw

from rnn_jax import DeepRNN, make_cell
from rnn_jax.gradient_flow import NonFinite, describe_nonfinite, first_nonfinite
from rnn_jax.gradient_flow.training_step import step_tensors
from rnn_jax.losses import squared_error
from rnn_jax.optimizers import make_optimizer
from rnn_jax.tasks import Batch
from rnn_jax.training import TrainState, update
from rnn_jax.types import Cell, unprepared

T, B, D, H, OUT = 5, 2, 3, 3, 2
ENTRY = (1, 2)


BATCH = Batch(draw(0, T, B, D), draw(1, T, B, OUT), jnp.ones((T, B), bool))


def with_params(cells, **options):
  model = DeepRNN(cells, OUT, **options)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), BATCH.xs))["params"]
  leaves, structure = jax.tree.flatten(shapes)
  return model, structure.unflatten([draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def where(place):
  return place and place[:6]


@jax.custom_vjp
def poisoned(a, here):
  return a


poisoned.defvjp(
  lambda a, here: (a, here),
  lambda here, g: (jnp.where(here > 0, jnp.nan, g), jnp.zeros_like(here)),
)


def plantable(cell):
  """Wraps a cell so that one entry of a tensor is NaN at a chosen step.

  The wrapped cell's params are {"cell": the cell's params, "times": {plant: time step}}, with a
  time step for every key of PLANTS. If the time step is −1, no NaN is planted.
  """

  def init(key, input_size, dtype=float):
    return {"cell": cell.init(key, input_size), "times": {name: jnp.zeros(()) for name in PLANTS}}

  def project(params, xs, key=None):
    one = jnp.zeros((B, H)).at[ENTRY].set(1.0)
    now = jnp.arange(len(xs), dtype=float)
    here = {
      name: jnp.where((now == time)[:, None, None], one[None], 0.0)
      for name, time in params["times"].items()
    }
    drive = cell.project(params["cell"], xs, key)
    wide = jnp.tile(here["drive"], (1, 1, drive.shape[-1] // H))
    return jnp.where(wide > 0, jnp.nan, drive), here

  def carry_update(params, carry, drive, recurrent):
    drive, here = drive
    new = cell.update(params["cell"], carry, drive, recurrent)
    *others, last = jax.tree.leaves(new)
    last = poisoned(jnp.where(here["carry"] > 0, jnp.nan, last), here["backward"])
    return jax.tree.unflatten(jax.tree.structure(new), [*others, last])

  def output(params, carry, drive):
    drive, here = drive
    y = poisoned(cell.output(params["cell"], carry, drive), here["output backward"])
    return jnp.where(here["output"] > 0, jnp.nan, y)

  def recur(params, carry):
    return cell.recur(params["cell"], carry)

  return Cell(
    init=init,
    initial_carry=cell.initial_carry,
    prepare=unprepared,
    project=project,
    recur=recur,
    update=carry_update,
    output=output,
  )


# For every kind of planted NaN, the (phase, tensor) that `first_nonfinite` must report.
PLANTS = {
  "drive": ("forward", "drive.0"),
  "carry": ("forward", "cell or hidden"),
  "output": ("forward", "output"),
  "backward": ("backward", "recurrent"),
  "output backward": ("backward", "hidden"),
}


@pytest.fixture(scope="module")
def planted():
  """A function that plants a NaN and returns what `first_nonfinite` finds, a NonFinite or None.

  Call it as `planted(layer, plant, time, **arguments)`, where `plant` is a key of PLANTS and
  `arguments` are passed to `first_nonfinite`.
  """
  model, params = with_params([plantable(make_cell("lstm", H)), plantable(make_cell("elman", H))])

  def find(layer=0, plant="drive", time=-1, **arguments):
    changed = jax.tree.map(lambda a: a, params)
    for i in range(2):
      for name in PLANTS:
        at = time if (i, name) == (layer, plant) else -1
        changed[f"layers_{i}"]["cell"]["times"][name] = jnp.asarray(at, float)
    return first_nonfinite(model, changed, BATCH, squared_error, **arguments)

  return find


def test_a_finite_step_has_no_nonfinite_value(planted):
  assert planted() is None


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("layer", [0, 1])
def test_planted_nan_is_found_where_it_is(planted, layer, plant):
  phase, tensor = PLANTS[plant]
  for time in range(T):
    place = planted(layer, plant, time)
    name = ("cell", "hidden")[layer] if " or " in tensor else tensor
    expected = (phase, layer, time, name, (1, 2), "nan")
    assert where(place) == expected
    assert not place.overflow and 0 < place.largest < 100


def test_time_arguments_act_as_in_training(planted):
  lengths = jnp.array([T, 3])
  arguments = {"lengths": lengths, "truncation": jnp.asarray(2), "reverse": True, "remat": "sqrt"}
  assert planted(1, "carry", 4, **arguments) is None  # step 4 is padding in example 1
  for time in range(3):
    assert planted(1, "carry", time, **arguments).time == time
    assert planted(0, "backward", time, **arguments).time == time


MODEL, PARAMS = with_params([make_cell("elman", H)] * 2)
find = functools.partial(first_nonfinite, MODEL)


def test_params_are_checked_first():
  bad = jax.tree.map(lambda a: a, PARAMS)
  bad["layers_1"]["cell"]["w_h"] = bad["layers_1"]["cell"]["w_h"].at[2, 1].set(-jnp.inf)
  batch = BATCH._replace(xs=BATCH.xs.at[0, 0, 0].set(jnp.nan))
  place = find(bad, batch, squared_error)
  assert where(place) == ("params", 1, None, "layers_1.cell.w_h", (2, 1), "inf")


def test_inputs_are_checked_unless_they_are_padded_or_masked():
  lengths = jnp.array([T, 3])
  mask = jnp.arange(T)[:, None] < lengths[None]
  for name, entry in (("xs", (1, 0)), ("targets", (1, 1))):
    broken = BATCH._replace(**{name: getattr(BATCH, name).at[(3, *entry)].set(jnp.nan)})
    place = find(PARAMS, broken, squared_error)
    assert where(place) == ("forward", None, 3, name, entry, "nan")
    padded, masked = broken._replace(mask=mask, lengths=lengths), broken._replace(mask=mask)
    places = find(PARAMS, padded, squared_error), find(PARAMS, masked, squared_error, mask=mask)
    # The cotangent of a masked loss is 0, but the loss's derivative at a NaN target is NaN, and so
    # is their product, 0 · NaN.
    after = ("backward", None, 3, "readout", entry, "nan")
    for place in places:
      assert where(place) == (after if name == "targets" else None)


def test_initial_carries_are_checked():
  carries = [jnp.zeros((B, H)), jnp.zeros((B, H)).at[ENTRY].set(jnp.nan)]
  place = find(PARAMS, BATCH, squared_error, carries=carries)
  assert where(place) == ("forward", 1, None, "initial_carry", ENTRY, "nan")


def test_overflow_is_reported():
  place = find(jax.tree.map(lambda a: 1e20 * a, PARAMS), BATCH, squared_error)
  assert where(place) == ("forward", None, 0, "loss", (0,), "inf")
  assert place.overflow and 1e19 < place.largest < 1e21


ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def test_a_norm_may_overflow_though_every_entry_is_finite():
  # The gradients of the readout's two biases are 3e38 each, so their norm overflows.
  place = find(ZEROS, BATCH, lambda y, _: jnp.sum(3e38 * y, axis=-1))
  assert where(place) == ("backward", None, None, "grad_norm", (), "inf")
  assert place.overflow and place.largest == pytest.approx(3e38, rel=1e-6)


def test_derivative_of_a_root_at_zero_is_found():
  loss = lambda y, _: jnp.sqrt(jnp.sum(y**2, axis=-1))  # noqa: E731
  place = find(ZEROS, BATCH, loss)
  assert where(place) == ("backward", None, T - 1, "readout", (0, 0), "nan")
  text = describe_nonfinite(place)
  assert "dL/d(readout) is nan" in text and "overflow" not in text


def test_updated_params_are_checked_if_there_is_an_optimizer():
  huge = optax.sgd(3e38)
  big = jax.tree.map(lambda a: 5 * a, PARAMS)
  assert find(big, BATCH, squared_error) is None
  place = find(big, BATCH, squared_error, optimizer=huge, opt_state=huge.init(big))
  assert where(place)[:3] == ("update", None, None) and place.tensor.startswith("head")
  assert place.value == "inf"


class Counted(NamedTuple):
  hidden: jax.Array
  count: jax.Array


def counting(cell, bad_step):
  """Adds a step counter to the cell's carry and makes its recurrent product infinite at one step.

  Args:
    cell: the cell, whose carry is a single array.
    bad_step: the step, from 0, whose recurrent product is infinite.
  """

  def recur(params, carry):
    now = carry.count[..., None] == bad_step
    return jnp.where(now, jnp.inf, cell.recur(params, carry.hidden))

  def update(params, carry, drive, recurrent):
    return Counted(cell.update(params, carry.hidden, drive, recurrent), carry.count + 1)

  return cell._replace(
    initial_carry=lambda shape, dtype=float: Counted(
      cell.initial_carry(shape, dtype), jnp.zeros(shape, jnp.int32)
    ),
    recur=recur,
    update=update,
    output=lambda params, carry, drive: carry.hidden,
  )


def test_carries_may_hold_integers():
  model, params = with_params([make_cell("elman", H), counting(make_cell("elman", H), 3)])
  place = first_nonfinite(model, params, BATCH, squared_error)
  # Only the recurrent product is infinite: the carry stays finite, because tanh(∞) = 1.
  assert where(place) == ("forward", 1, 3, "recurrent", (0, 0), "inf")


def test_the_recomputed_step_equals_the_training_step():
  model, params = with_params([make_cell("elman", H)] * 2, dropout=0.5)
  arguments = {"truncation": 2, "resets": jnp.zeros((T, B), bool).at[3, 1].set(True)}
  key = jax.random.key(3)
  optimizer = optax.sgd(0.1)
  state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  @jax.jit
  def train(state):
    return update(model, optimizer, squared_error, state, BATCH, key=key, **arguments)

  new, _, metrics = train(state)
  hashable = model.clone(cells=tuple(model.cells))
  forward, grads, cotangents, grad_norm = step_tensors(
    hashable, squared_error, params, BATCH, None, key, **arguments
  )
  np.testing.assert_allclose(forward.mean_loss, metrics.loss, rtol=1e-5)
  np.testing.assert_allclose(grad_norm, metrics.grad_norm, rtol=1e-5)
  norms = [
    jax.tree.map(lambda a: B * jnp.linalg.norm(a, axis=-1), r.carry) for r in cotangents.layers
  ]
  moved = jax.tree.map(lambda a, b: (a - b) / 0.1, params, new.params)
  for ours, theirs in ((norms, list(metrics.norms)), (grads, moved)):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_recomputed_step_in_half_precision_equals_the_training_step():
  model, params = with_params([make_cell("lstm", H)])
  optimizer = make_optimizer("sgd", 0.1, loss_scale=8.0)
  state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
  step = jax.jit(functools.partial(update, model, optimizer, squared_error, dtype="bfloat16"))
  _, _, metrics = step(state, BATCH)
  hashable = model.clone(cells=tuple(model.cells))
  found = step_tensors(
    hashable, squared_error, params, BATCH, None, None, np.dtype("bfloat16"), jnp.float32(8)
  )
  assert found.forward.layers[0].carry.cell.dtype == found.forward.readout.dtype == jnp.bfloat16
  assert found.grad_norm.dtype == jnp.float32
  np.testing.assert_allclose(found.forward.mean_loss, metrics.loss, rtol=0.01)
  np.testing.assert_allclose(found.grad_norm / 8, metrics.grad_norm, rtol=0.01)


def test_an_overflow_of_a_scaled_loss_in_float16_is_located():
  model, params = with_params([make_cell("elman", H)])
  finite = BATCH._replace(mask=jnp.ones((T, B), bool))
  for scale, phase in ((1.0, None), (2.0**30, "backward")):
    optimizer = make_optimizer("sgd", 0.1, loss_scale=scale)
    place = first_nonfinite(
      model,
      params,
      finite,
      squared_error,
      optimizer=optimizer,
      opt_state=optimizer.init(params),
      dtype="float16",
    )
    assert (place and place.phase) == phase
  assert (place.time, place.tensor, place.value) == (T - 1, "readout", "inf")


def test_description():
  place = NonFinite("backward", 0, 17, "hidden", (3, 5), "inf", 1.25e38, True)
  assert describe_nonfinite(place) == (
    "backward, layers_0, time 17: dL/d(hidden) is inf at [3, 5]: an overflow, "
    "after entries up to 1.2e+38"
  )
  place = NonFinite("params", 1, None, "layers_1.cell.b", (2,), "nan", 1.5, False)
  text = "params: layers_1.cell.b is nan at [2], after entries up to 1.5"
  assert describe_nonfinite(place) == text


@pytest.mark.parametrize(
  ("penalty", "phase", "tensor"),
  [
    (lambda w: jnp.sum(w) / 0, "forward", "penalty"),
    (lambda w: jnp.sum(jnp.sqrt(0 * w)), "backward", "layers_0.cell.w_h"),
    (lambda w: 2e38 * jnp.sum(w - jax.lax.stop_gradient(w)), "backward", "grad_norm"),
    (lambda w: jnp.sum(w), None, None),
  ],
)
def test_a_penalty_and_its_gradient_are_part_of_the_step(penalty, phase, tensor):
  model, params = with_params([make_cell("elman", H)])

  def of_kernel(params, batch):
    assert batch is BATCH
    return penalty(params["layers_0"]["cell"]["w_h"])

  found = first_nonfinite(model, params, BATCH, squared_error, penalty=of_kernel)
  assert found is None if phase is None else (found.phase, found.tensor) == (phase, tensor)
