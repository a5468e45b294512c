"""Cells of Flax, Equinox and Haiku as a Cell: the same values and gradients as in their library.

Each reference is the library's own loop. Params are random, biases too.
"""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from flax import nnx

from rnn_jax import DeepRNN, gradient_flow, unroll
from rnn_jax.interop import from_equinox, from_haiku, from_linen, from_nnx

T, B, D, H = 4, 2, 3, 4
KEY = jax.random.key(0)
EXACT = {"rtol": 1e-11, "atol": 1e-12}
XS = np.random.default_rng(3).standard_normal((T, B, D))
eqx = pytest.importorskip("equinox", reason="equinox is not installed")
hk = pytest.importorskip("haiku", reason="dm-haiku is not installed")


def linen(module):
  zeros = jax.tree.map(np.zeros_like, module.initialize_carry(KEY, (B, D)))

  def run(params, xs):
    carry = jax.tree.map(lambda a: jnp.asarray(a, xs.dtype), zeros)
    rnn = nn.RNN(module, time_major=True)
    return rnn.apply({"params": {"cell": params}}, xs, initial_carry=carry)

  return from_linen(module), run


def of_nnx(kind):
  make = functools.partial(kind, hidden_features=H, dtype=float, param_dtype=float)

  def run(params, xs):
    module = make(D, rngs=nnx.Rngs(0))
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(module, state)
    carry = module.initialize_carry((B, D), rngs=nnx.Rngs(0))
    return nnx.RNN(module, time_major=True)(xs, initial_carry=carry)

  return from_nnx(make), run


def equinox(kind, carry):
  make = functools.partial(kind, hidden_size=H)

  def run(params, xs):
    module = eqx.combine(params, make(D, key=KEY))

    def body(carry, x):
      carry = module(x, carry)
      return carry, jax.tree.leaves(carry)[0]

    def one(xs):
      return jax.lax.scan(body, jax.tree.map(lambda a: jnp.asarray(a, xs.dtype), carry), xs)[1]

    return jax.vmap(one, 1, 1)(xs)

  return from_equinox(make, carry), run


def haiku(make):
  def unrolled(xs):
    core = make()
    carry = jax.tree.map(lambda a: a.astype(xs.dtype), core.initial_state(B))
    return hk.dynamic_unroll(core, xs, carry)[0]

  return from_haiku(make), hk.without_apply_rng(hk.transform(unrolled)).apply


ZEROS = np.zeros(H)
CELLS = {
  "linen SimpleCell": lambda: linen(nn.SimpleCell(H)),
  "linen GRUCell": lambda: linen(nn.GRUCell(H)),
  "linen MGUCell": lambda: linen(nn.MGUCell(H)),
  "linen LSTMCell": lambda: linen(nn.LSTMCell(H)),
  "linen OptimizedLSTMCell": lambda: linen(nn.OptimizedLSTMCell(H)),
  "nnx SimpleCell": lambda: of_nnx(nnx.SimpleCell),
  "nnx GRUCell": lambda: of_nnx(nnx.GRUCell),
  "nnx LSTMCell": lambda: of_nnx(nnx.LSTMCell),
  "nnx OptimizedLSTMCell": lambda: of_nnx(nnx.OptimizedLSTMCell),
  "equinox GRUCell": lambda: equinox(eqx.nn.GRUCell, ZEROS),
  "equinox LSTMCell": lambda: equinox(eqx.nn.LSTMCell, (ZEROS, ZEROS)),
  "haiku VanillaRNN": lambda: haiku(lambda: hk.VanillaRNN(H)),
  "haiku GRU": lambda: haiku(lambda: hk.GRU(H)),
  "haiku LSTM": lambda: haiku(lambda: hk.LSTM(H)),
  "haiku DeepRNN": lambda: haiku(lambda: hk.DeepRNN([hk.LSTM(H), jnp.tanh, hk.GRU(H)])),
}


def params_of(cell):
  return drawn(jax.eval_shape(lambda: cell.init(KEY, D)), 5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_are_those_of_the_librarys_own_loop(name):
  cell, run = CELLS[name]()
  params = params_of(cell)

  @jax.jit
  def both(params, xs):
    def score(run, params, xs):
      ys = run(params, xs)
      return jnp.sum(jnp.sin(ys) * jnp.arange(1.0, T + 1)[:, None, None]), ys

    gradient = jax.grad(score, argnums=(1, 2), has_aux=True)
    return gradient(lambda p, x: unroll(cell, p, x)[1], params, xs), gradient(run, params, xs)

  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    chex.assert_trees_all_close(*both(params, XS), **EXACT)
  # These libraries' y is a leaf of the carry, or is computed from it.
  assert "y" not in getattr(cell.initial_carry(()), "_fields", ())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
  "name", ["linen LSTMCell", "nnx GRUCell", "equinox LSTMCell", "haiku LSTM"]
)
def test_measures_match_finite_differences_and_a_plain_scan(name):
  cell, _ = CELLS[name]()
  params, xs = params_of(cell), jnp.asarray(XS)
  jacobian = gradient_flow.step_jacobians([cell], [params], xs)[0][-1]
  carry, _ = unroll(cell, params, xs[:-1])
  leaves, structure = jax.tree.flatten(carry)

  @jax.jit
  def moved(s):
    new = cell.update(params, structure.unflatten(jnp.split(s, len(leaves), -1)), xs[-1], ())
    return jnp.concatenate(jax.tree.leaves(new), -1)

  s = np.concatenate(leaves, -1)
  for j, direction in enumerate(1e-6 * np.eye(s.shape[-1])[:, None]):
    difference = (moved(s + direction) - moved(s - direction)) / 2e-6
    np.testing.assert_allclose(jacobian[:, :, j], difference, rtol=1e-6, atol=1e-9)

  def last_loss(slots):
    def body(carry, inputs):
      x, slot = inputs
      carry = jax.tree.map(jnp.add, cell.update(params, carry, x, ()), slot)
      return carry, cell.output(params, carry, x)

    return jnp.sum(jax.lax.scan(body, cell.initial_carry((B,)), (xs, slots))[1][-1] ** 2)

  bars = jax.jit(jax.grad(last_loss))(cell.initial_carry((T, B)))
  profile = gradient_flow.lag_profile([cell], [params], xs, lambda y: jnp.sum(y**2, -1))[0]
  norms = jax.tree.map(lambda a: np.linalg.norm(a, axis=-1)[::-1], bars)
  chex.assert_trees_all_close(jax.tree.map(lambda a: 10**a, profile), norms, rtol=1e-9, atol=1e-13)
  exponents = gradient_flow.lyapunov_spectrum([cell], [params], xs[-1:], carries=[carry])[0]
  volume = np.log(np.abs(np.linalg.det(jacobian)))
  np.testing.assert_allclose(exponents.sum(1), volume, rtol=1e-7)


def test_init_draws_the_modules_own_params_from_the_key():
  gru = from_linen(nn.GRUCell(H))
  own = nn.GRUCell(H).init(KEY, jnp.zeros((1, H)), jnp.zeros((1, D)))["params"]
  chex.assert_trees_all_equal(gru.init(KEY, D), own)
  of_key = from_nnx(functools.partial(nnx.GRUCell, hidden_features=H))
  state = nnx.state(nnx.GRUCell(D, H, rngs=nnx.Rngs(KEY)), nnx.Param)
  chex.assert_trees_all_equal(of_key.init(KEY, D), nnx.to_pure_dict(state))
  gru = from_equinox(functools.partial(eqx.nn.GRUCell, hidden_size=H), jnp.zeros(H))
  own = eqx.filter(eqx.nn.GRUCell(D, H, key=KEY), eqx.is_array)
  chex.assert_trees_all_equal(gru.init(KEY, D), own)
  assert gru.init(KEY, D, "bfloat16").weight_hh.dtype == jnp.bfloat16


def test_a_network_of_modules_reads_tokens():
  cells = [from_linen(nn.GRUCell(H)), from_haiku(lambda: hk.LSTM(H))]
  model, tokens = DeepRNN(cells, vocabulary_size=5, output_size=5), np.array([[0, 4], [2, 1]])
  variables = model.init(KEY, tokens)
  assert set(variables["params"]["layers_0"]["cell"]) == {"ir", "iz", "in", "hr", "hz", "hn"}
  _, ys = model.apply(variables, tokens)
  assert ys.shape == (2, B, 5) and np.all(np.isfinite(ys))


def test_a_module_that_knows_its_input_size_reads_tokens():
  cell = from_equinox(functools.partial(eqx.nn.GRUCell, hidden_size=H), jnp.zeros(H))
  params, tokens = cell.init(KEY, 5), np.array([[0, 4], [2, 1]])
  one_hot = np.eye(5, dtype=np.float32)[tokens]
  chex.assert_trees_all_close(unroll(cell, params, tokens), unroll(cell, params, one_hot))


class OneSizeCell(nn.RNNCellBase):
  """A cell whose carry is as wide as its input, which has a fixed size."""

  @nn.compact
  def __call__(self, carry, x):
    h = jnp.tanh(x @ self.param("kernel", nn.initializers.lecun_normal(), (D, D)) + carry)
    return h, h

  @nn.nowrap
  def initialize_carry(self, rng, input_shape):
    return jnp.zeros(input_shape)

  num_feature_axes = 1


class OneSizeCore(hk.RNNCore):
  def __call__(self, x, carry):
    kernel = hk.get_parameter("kernel", (D, H), init=hk.initializers.RandomNormal())
    return (h := jnp.tanh(x @ kernel + carry)), h

  def initial_state(self, batch_size):
    return jnp.zeros((batch_size, H))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
  "make",
  [
    lambda **size: from_linen(OneSizeCell(), **size),
    lambda **size: from_nnx(lambda _, rngs: nnx.GRUCell(D, H, rngs=rngs), **size),
    lambda **size: from_equinox(lambda _, key: eqx.nn.GRUCell(D, H, key=key), ZEROS, **size),
    lambda **size: from_haiku(lambda: OneSizeCore(), **size),
  ],
)
def test_a_module_that_accepts_only_one_input_size(make):
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    with pytest.raises(Exception, match=r".") as caught:
      make()
    assert "input_size" in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    cell = make(input_size=D)
    params = cell.init(KEY, D)
    carry, _ = unroll(cell, params, XS)
    h = cell.initial_carry((B,))
    for x in XS:
      h = cell.update(params, h, jnp.asarray(x), ())
    np.testing.assert_allclose(carry, h, **EXACT)
    _, of_tokens = unroll(cell, params, np.array([[0, 2]]))
    _, of_vectors = unroll(cell, params, np.eye(D)[[[0, 2]]])
    np.testing.assert_allclose(of_tokens, of_vectors, **EXACT)
    with pytest.raises(ValueError, match="input_size must be 3, the one that this cell accepts, g"):
      cell.init(KEY, D + 1)
