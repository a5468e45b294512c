"""Tests of `cell_from_step`: any step function is a Cell, with the whole time loop and measures."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from own_cells import OWN, Counted, H, counting, gating, nested, normal

from rnn_jax import BidirectionalRNN, DeepRNN, gradient_flow, gradient_probe, make_cell, unroll
from rnn_jax.cells import CELLS, layer_norm, residual, stack, zoneout
from rnn_jax.checkpoints import restore, save
from rnn_jax.interop import CarryAndOutput, cell_from_step
from rnn_jax.tasks import Batch
from rnn_jax.testing import check_cell
from rnn_jax.training import init_state, update
from rnn_jax.types import floats_of, with_floats

T, B = 5, 2
KEY = jax.random.key(0)
close = functools.partial(chex.assert_trees_all_close, rtol=1e-9, atol=1e-11)
every_cell = pytest.mark.parametrize("name", OWN)


def draw(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


XS, WEIGHTS = functools.partial(draw, 1, T, B, H), functools.partial(draw, 2, T, B, H)


@functools.cache
def problem(name):
  cell = OWN[name]()
  return cell, cell.init(KEY, H)


def plain_scan(cell, params, xs, slots=None):
  """Runs the cell in a plain scan; adds slots to the carries, if given. Returns (carries, ys)."""

  def body(carry, inputs):
    x, slot = inputs
    carry = cell.update(params, carry, x, ())
    if slot is not None:
      carry = with_floats(jax.tree.map(jnp.add, floats_of(carry), slot), carry)
    return carry, (carry, cell.output(params, carry, x))

  carry = cell.initial_carry((xs.shape[1],), xs.dtype)
  return jax.lax.scan(body, carry, (xs, slots))[1]


def gradients(run, params, xs):
  """Returns the gradients of the weighted outputs with respect to params and xs."""

  def loss(floats, xs):
    return jnp.sum(WEIGHTS() * run(with_floats(floats, params), xs))

  return jax.grad(loss, argnums=(0, 1))(floats_of(params), xs)


@pytest.mark.usefixtures("x64")
@every_cell
@pytest.mark.parametrize("time", [{}, {"remat": "step"}, {"remat": "sqrt"}, {"truncation": T}])
def test_gradients_are_those_of_a_plain_scan_jitted_or_not(name, time):
  cell, params = problem(name)
  ours = functools.partial(
    gradients, lambda params, xs: unroll(cell, params, xs, **time)[1], params
  )
  plain = jax.jit(functools.partial(gradients, lambda *args: plain_scan(cell, *args)[1], params))
  expected = plain(XS())
  close(jax.jit(ours)(XS()), expected)
  close(ours(XS()), expected)


@pytest.mark.usefixtures("x64")
@every_cell
def test_arguments_of_time_act_as_on_any_cell(name):
  # `forward_mode` runs a plain scan, so it is the reference for the reverse pass of the time loop.
  cell, params = problem(name)
  time = {
    "truncation": 2,
    "lengths": np.array([T, 3]),
    "resets": np.arange(T * B).reshape(T, B) % 4 == 2,
    "reverse": True,
  }

  @jax.jit
  def both(xs):
    return [
      gradients(lambda p, x, f=f: unroll(cell, p, x, forward_mode=f, **time)[1], params, xs)
      for f in (False, True)
    ]

  close(*both(XS()))


@pytest.mark.usefixtures("x64")
@every_cell
def test_measures_and_probe_are_those_of_a_plain_scan(name):
  cell, params = problem(name)
  xs, probe = XS(), gradient_probe(cell, T, B)
  slots = floats_of(cell.initial_carry((T, B)))

  @jax.jit
  def run(xs):
    def last_loss(slots):
      return jnp.sum(plain_scan(cell, params, xs, slots)[1][-1] ** 2)

    def of_probe(probe):
      return jnp.sum(unroll(cell, params, xs, probe=probe)[1][-1] ** 2)

    profile = gradient_flow.lag_profile([cell], [params], xs, lambda y: jnp.sum(y**2, -1))
    return jax.grad(last_loss)(slots), jax.grad(of_probe)(probe), profile[0]

  bars, norms, profile = run(xs)
  expected = jax.tree.map(lambda a: np.sqrt((a**2).sum(axis=tuple(range(2, a.ndim)))), bars)
  close(norms, expected)
  close(jax.tree.map(lambda a: 10 ** a[::-1], profile), expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["nested", "counting"])
def test_jacobians_and_lyapunov_exponents_match_finite_differences(name):
  cell, params = problem(name)
  xs = XS()
  jacobians = gradient_flow.step_jacobians([cell], [params], xs)[0]
  carries, _ = plain_scan(cell, params, xs)
  before, x = jax.tree.map(lambda a: a[1], carries), xs[2]
  h = before.h if name == "counting" else before

  def moved(h):
    carry = Counted(before.count, h) if name == "counting" else h
    new = cell.update(params, carry, x, ())
    return new.h if name == "counting" else new

  for j in range(H):
    change = 1e-6 * np.eye(H)[j : j + 1]
    np.testing.assert_allclose(
      jacobians[2, :, :, j], (moved(h + change) - moved(h - change)) / 2e-6, rtol=1e-6, atol=1e-9
    )
  exponents = gradient_flow.lyapunov_spectrum([cell], [params], xs)[0]
  volumes = np.log(np.abs(np.linalg.det(jacobians))).mean(0)
  np.testing.assert_allclose(exponents.sum(1), volumes, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_every_other_measure_accepts_params_with_integers():
  cell, params = problem("nested")
  layers = [cell, cell], [params, params], XS()
  bias = gradient_flow.truncation_bias(*layers, lambda ys: jnp.sum(ys**2), truncations=[1, T])
  np.testing.assert_allclose(bias.cosine[-1], 1, rtol=1e-9)
  direction = [jax.tree.map(jnp.ones_like, params)] * 2
  tangents = gradient_flow.sensitivity(*layers, direction=direction)[1]
  change = 1e-6

  def last_carry(scale):
    moved = [with_floats(jax.tree.map(lambda a: a + scale, floats_of(p)), p) for p in layers[1]]
    ys = unroll(cell, moved[0], XS())[1]
    return unroll(cell, moved[1], ys)[0]

  expected = (last_carry(change) - last_carry(-change)) / (2 * change)
  np.testing.assert_allclose(tangents[-1], expected, rtol=1e-6, atol=1e-8)
  assert np.all(np.isfinite(gradient_flow.singular_values(*layers)[0]))
  assert np.all(np.isfinite(gradient_flow.jacobian_norm(*layers, key=KEY)[0]))
  assert gradient_flow.omega(*layers, lambda ys: jnp.sum(ys**2))[0] > 0


@pytest.mark.usefixtures("x64")
@every_cell
@pytest.mark.parametrize(
  "wrap", [lambda c: zoneout(c, 0.1), residual, layer_norm, lambda c: stack([c, c])]
)
def test_wrappers_accept_any_cell(name, wrap):
  cell = wrap(problem(name)[0])
  params = cell.init(KEY, H)

  @jax.jit
  def both(xs):
    return [
      gradients(lambda p, x, f=f: unroll(cell, p, x, forward_mode=f)[1], params, xs)
      for f in (False, True)
    ]

  close(*both(XS()))


def test_networks_are_trained_and_saved_with_such_cells(tmp_path):
  cells = [nested(), counting(), gating()]
  model, optimizer = DeepRNN(cells, output_size=1), optax.sgd(0.05)
  xs = np.asarray(XS(), np.float32)
  batch = Batch(xs, np.zeros((T, B, 1), np.float32), np.ones((T, B), bool))
  state = init_state(model, optimizer, KEY, xs)

  def loss(ys, targets):
    return jnp.sum((ys - targets) ** 2, -1)

  run = jax.jit(functools.partial(update, model, optimizer, loss))
  later, _, first = run(state, batch)
  for _ in range(5):
    later, _, metrics = run(later, batch)
  assert metrics.loss < first.loss
  old, new = state.params["layers_0"]["cell"], later.params["layers_0"]["cell"]
  chex.assert_trees_all_equal(new["order"], old["order"])
  assert not np.array_equal(new["layers"][0][1], old["layers"][0][1])
  save(tmp_path / "state", later)
  chex.assert_trees_all_equal(restore(tmp_path / "state", state), later)

  found = gradient_flow.first_nonfinite(
    model, later.params, batch, loss, optimizer=optimizer, opt_state=later.opt_state
  )
  assert found is None
  both_ways = BidirectionalRNN([nested()])
  _, ys = both_ways.apply(both_ways.init(KEY, xs), xs)
  assert ys.shape == (T, B, 2 * H)


def test_the_output_is_read_from_the_carry_where_it_can_be():
  assert nested().initial_carry((B,)).shape == (B, H)
  assert isinstance(counting().initial_carry((B,)), Counted)
  carry = gating().initial_carry((B,))
  assert isinstance(carry, CarryAndOutput) and carry.y.shape == (B, H)
  init = lambda key, size: normal(key, size, H)  # noqa: E731
  same = cell_from_step(lambda w, h, x: (h := jnp.tanh(h + x @ w), h), init, jnp.zeros(H))
  assert same.output_is_carry and not nested().output_is_carry
  given = cell_from_step(
    lambda w, h, x: (h + x @ w, x), init, jnp.zeros(H), output=lambda w, h, x: 2 * h
  )
  _, ys = unroll(given, jnp.eye(H), np.ones((T, B, H), np.float32))
  np.testing.assert_allclose(ys[:, 0, 0], 2 * np.arange(1, T + 1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_params_carry_and_outputs_have_the_precision_of_xs(x64, dtype):
  for make in OWN.values():
    cell = make()
    params = cell.init(KEY, H, dtype)
    carry, ys = jax.eval_shape(functools.partial(unroll, cell), params, XS().astype(dtype))
    assert {a.dtype for a in jax.tree.leaves(floats_of((params, carry, ys)))} == {jnp.dtype(dtype)}


def test_tokens_are_one_hot_vectors_of_the_params_input_size():
  # The kernel [D + H, H] has no axis of size D.
  def init(key, input_size):
    return {"w": normal(key, input_size + H, H)}

  def step(params, h, x):
    return jnp.tanh(jnp.concatenate([x, h]) @ params["w"])

  cell, tokens = cell_from_step(step, init, jnp.zeros(H)), np.array([[0, 3], [4, 1]])
  params = cell.init(KEY, 5)
  one_hot = np.eye(5, dtype=np.float32)[tokens]
  chex.assert_trees_all_close(unroll(cell, params, tokens), unroll(cell, params, one_hot))
  with pytest.raises(ValueError, match=r"xs must be \[T, B, 5\], got \[2, 2, 4\]"):
    unroll(cell, params, one_hot[..., :4])
  with pytest.raises(ValueError, match="tokens from 0 to 4, got 5 to 5"):
    unroll(cell, params, np.full((2, 2), 5))


def test_a_declared_linear_runs_as_an_associative_scan(x64):
  def step(params, h, x):
    return params["a"] * h + x

  cell = cell_from_step(step, lambda key, size: {"a": jnp.full(size, 0.9)}, jnp.zeros(H))
  cell = cell._replace(linear=lambda params, x: (jnp.broadcast_to(params["a"], x.shape), x))
  params = cell.init(KEY, H)
  loop, associative = (unroll(cell, params, XS(), method=m) for m in ("loop", "associative"))
  close(loop, associative)
  close(loop[1], plain_scan(cell, params, XS())[1])


def test_a_step_may_close_over_a_traced_array():
  @jax.jit
  def gradient(scale, w):
    def loss(w):
      cell = cell_from_step(
        lambda w, h, x: jnp.tanh(scale * x @ w), lambda k, n: normal(k, n, H), jnp.zeros(H)
      )
      return jnp.sum(unroll(cell, w, jnp.ones((1, B, H)))[1])

    return jax.grad(loss)(w)

  slope = 0.5 * B * (1 - np.tanh(0.5) ** 2)
  np.testing.assert_allclose(gradient(0.5, jnp.eye(H)), np.full((H, H), slope), rtol=1e-5)


def init_w(key, input_size):
  return {"w": normal(key, input_size, H)}


def bad(step, carry=None, init=init_w, **options):
  return lambda: cell_from_step(step, init, jnp.zeros(H) if carry is None else carry, **options)


@pytest.mark.parametrize(
  ("make", "kind", "message"),
  [
    (bad(lambda p, h, x: {"h": h}), TypeError, r"step must return a carry with the structure of"),
    (
      bad(lambda p, h, x: h[None]),
      ValueError,
      r"x float32\[1\] must be float32\[3\], got float32\[",
    ),
    (bad(lambda p, h, x: h > 0), ValueError, r"must be float32\[3\], got bool\[3\]"),
    (
      bad(lambda p, h, x: (h, {"a": h})),
      TypeError,
      r"y must be one array, got {'a': float32\[3\]}",
    ),
    (bad(lambda p, h, x: (h, h.sum())), ValueError, r"y must be floats \[W\] for one example, got"),
    (bad(lambda p, h, x: h, carry=(jnp.zeros(2),) * 2), TypeError, "output must be given if step"),
    (bad(lambda p, h, x: h, {"a": np.ones(2)}), ValueError, r"initial_carry\['a'\] must be zeros"),
    (bad(lambda p, h, x: h, "zeros"), TypeError, "initial_carry must be an array of numbers, got"),
    (
      lambda: bad(lambda p, h, x: (jnp.tanh(h + x @ p["w"]), jnp.append(h, x)))().init(KEY, 2),
      ValueError,
      r"a y whose size does not depend on that of x.* got \[4\] and \[5\]",
    ),
  ],
)
def test_a_step_that_is_no_cell_is_refused(make, kind, message):
  with pytest.raises(kind, match=message):
    make()


def test_the_users_own_error_says_what_was_traced():
  with pytest.raises(TypeError, match="contracting dimensions") as caught:
    bad(lambda p, h, x: h @ jnp.zeros((7, 7)))()
  assert caught.value.__notes__[-1:] == [
    "(while tracing init and step for x float32[1]; give input_size= if they accept only one size)"
  ]


@pytest.mark.parametrize("name", ["nested", "gating"])
def test_such_cells_keep_the_contract_of_cell(name):
  check_cell(OWN[name]())


def test_a_sweep_trains_a_registered_cell(monkeypatch, tmp_path):
  import experiments
  from experiments.sweep.figures import gradients as figures

  def own(hidden_size):
    """A cell of one's own."""

    def step(params, h, x):
      h = jnp.tanh(x @ params["layers"][0] + h[params["order"]] @ params["layers"][1])
      return h, h @ params["layers"][1]

    def init(key, input_size):
      kernels = normal(key, input_size, hidden_size), normal(key, hidden_size, hidden_size)
      return {"layers": kernels, "order": jnp.arange(hidden_size)[::-1]}

    return cell_from_step(step, init, jnp.zeros(hidden_size))

  monkeypatch.setitem(CELLS, "own", own)
  monkeypatch.setattr(figures, "save_all", lambda *_: ["no picture"])
  jax.devices()
  settings = experiments.SweepSettings(match_params=70, measures=["lag"], compilation_cache="none")
  axes = {"cell": ["own"], "task": "adding", "sequence_length": 8, "batch_size": 4}
  axes |= {"steps": 2, "seed": [0, 1]}
  data = experiments.run_sweep(settings, axes, tmp_path / "sweep", progress=False)
  assert data.sizes["run"] == 2
  assert np.all(np.isfinite(data["loss"]))


def test_the_size_of_such_a_network_is_known():
  from experiments.networks.matched_width import count_params

  cells = [nested(), make_cell("gru", 4)]
  assert count_params(cells, 2) == (2 * H + H * H + H + H + H * H) + 12 * (H + 4 + 1)
