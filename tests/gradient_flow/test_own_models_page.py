"""The code of OWN_MODELS.md runs, and its numbers are those of `unroll` with the same weights."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax
from rnn_jax import gradient_flow, gradient_probe, make_cell, unroll
from rnn_jax.gradient_flow import scan_gradients
from rnn_jax.interop import params_from_linen, params_from_nnx

PAGE = Path(gradient_flow.__file__).with_name("OWN_MODELS.md")
H, T, B = 16, 20, 4
CLOSE = {"rtol": 1e-4, "atol": 1e-7}
HAS_EQUINOX = importlib.util.find_spec("equinox") is not None


@pytest.fixture(scope="module")
def page():
  """Returns (the variables that the page's code defines, what it prints)."""
  blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
  names: dict = {}
  # As for users, dtypes may be mixed; those of Flax's cells in bfloat16 are.
  standard = jax.numpy_dtype_promotion("standard")
  with standard, contextlib.redirect_stdout(io.StringIO()) as out:
    for i, block in enumerate(blocks):
      if HAS_EQUINOX or "equinox" not in block:
        exec(compile(block, f"{PAGE.name}, block {i}", "exec"), names)
  return names, out.getvalue()


def gru_of(variables):
  """Returns our GRU, its params and the readout's, from the variables of the page's Linen model."""
  layers = variables["params"]
  cell, readout = layers["layers_0"]["cell"], layers["layers_1"]
  ours = params_from_linen("gru", cell, inner_bias=True)
  return make_cell("gru", H, inner_bias=True), ours, readout


def page_errors(page, readout, ys):
  predictions = (ys @ readout["kernel"] + readout["bias"][None, None])[..., 0]
  return (jnp.swapaxes(predictions, 0, 1) - page["targets"]) ** 2


def test_linen(page):
  page, printed = page
  xs = jnp.swapaxes(page["xs"], 0, 1)
  mask = np.arange(T)[None] < page["lengths"][:, None]
  start = page["model"].init(jax.random.key(1), page["xs"])
  cell, params, readout = gru_of(start)

  def loss(probe):
    ys = unroll(cell, params, xs, probe=probe)[1]
    return jnp.sum(jnp.where(mask, page_errors(page, readout, ys), 0.0)) / 50

  expected = jax.jit(jax.grad(loss))(gradient_probe(cell, T, B))
  np.testing.assert_allclose(page["norms"], expected, **CLOSE)
  assert np.all((page["norms"] > 0) == mask.T)
  assert "scan of 20 steps at " in printed and ": carry c[1] [4, 16]\n()\n" in printed


def test_training_is_that_without_measuring(page):
  page, _ = page
  variables = page["model"].init(jax.random.key(1), page["xs"])
  given = page["xs"], page["targets"], page["lengths"]
  gradient = jax.jit(jax.grad(page["loss"]))
  for _ in range(3):
    step = jax.tree.map(lambda g: -0.1 * g, gradient(variables, *given))
    variables = optax.apply_updates(variables, step)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), page["variables"], variables)


def test_seeds(page):
  page, _ = page
  one = jax.tree.map(lambda a: a[3], page["seeds"])
  given = page["xs"], page["targets"], page["lengths"]
  (alone,) = jax.jit(scan_gradients(page["loss"]))(one, *given).scans[0].gradients
  np.testing.assert_allclose(page["by_seed"][3], alone, **CLOSE)


def test_bfloat16(page):
  page, printed = page
  cell, params, readout = gru_of(page["variables"])
  xs = jnp.swapaxes(page["xs"], 0, 1)

  def loss(probe):
    return jnp.mean(page_errors(page, readout, unroll(cell, params, xs, probe=probe)[1]))

  expected = jax.jit(jax.grad(loss))(gradient_probe(cell, T, B))
  assert page["mixed"].dtype == jnp.float32 and page["low"].dtype == jnp.bfloat16
  for norms in (page["mixed"], page["low"]):
    np.testing.assert_allclose(norms.astype(jnp.float32), expected, rtol=0.05)
  assert "float32 bfloat16\n" in printed


@pytest.mark.parametrize(("dtype", "smallest"), [("bfloat16", 1e-38), ("float16", 6e-8)])
def test_a_norm_in_half_precision_is_correct_down_to_the_smallest_number(dtype, smallest):
  def loss(h):
    return jnp.sum(jax.lax.scan(lambda h, _: (h / 32, None), h, length=30)[0])

  (found,) = scan_gradients(loss)(jnp.ones((1, H), dtype)).scans[0].gradients
  exact = 32.0 ** -np.arange(30)  # of each of the H = 16 entries
  kept = exact > smallest
  assert found.dtype == dtype and 0 < np.sum(kept) < 30
  norms = np.asarray(found, np.float64)[::-1, 0]
  np.testing.assert_allclose(norms[kept], 4 * exact[kept], rtol=0.01)
  assert not np.any(norms[~kept])


def test_nnx(page):
  page, _ = page
  found, xs = page["nnx_found"], jnp.swapaxes(page["xs"], 0, 1)
  model = nnx.merge(page["definition"], page["params"], page["rest"])
  grads = nnx.grad(lambda model: jnp.mean((model(page["xs"]) - page["targets"]) ** 2))(model)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), found.grads, grads)
  params = params_from_nnx("gru", nnx.to_pure_dict(nnx.state(model.rnn.cell, nnx.Param)))
  dense = {"kernel": model.readout.kernel[...], "bias": model.readout.bias[...]}
  cell = make_cell("gru", H)

  def loss(probe):
    return jnp.mean(page_errors(page, dense, unroll(cell, params, xs, probe=probe)[1]))

  expected = jax.jit(jax.grad(loss))(gradient_probe(cell, T, B))
  np.testing.assert_allclose(found.scans[0].gradients[0], expected, **CLOSE)


@pytest.mark.skipif(not HAS_EQUINOX, reason="equinox is not installed")
def test_equinox(page):
  page, _ = page
  cell = page["eqx"].nn.LSTMCell(3, H, key=page["keys"][0])
  readout = page["eqx"].nn.Linear(H, 1, key=page["keys"][1])
  params = {"w_x": cell.weight_ih.T, "w_h": cell.weight_hh.T, "b": cell.bias}
  ours, xs = make_cell("lstm", H), jnp.swapaxes(page["xs"], 0, 1)
  dense = {"kernel": readout.weight.T, "bias": readout.bias}

  def loss(probe):
    ys = unroll(ours, params, xs, probe=probe)[1]
    return jnp.mean(page_errors(page, dense, ys))

  expected = jax.jit(jax.grad(loss))(gradient_probe(ours, T, B))
  np.testing.assert_allclose(page["hidden"], expected.hidden, **CLOSE)
  np.testing.assert_allclose(page["cell"], expected.cell, **CLOSE)


def test_tap(page):
  page, _ = page
  cell = make_cell("elman", H)
  params = {"w_x": page["w"]["x"], "w_h": page["w"]["h"], "b": jnp.zeros(H)}

  def loss(probe):
    return jnp.sum(unroll(cell, params, page["inputs"], probe=probe)[0] ** 2)

  expected = jax.jit(jax.grad(loss))(gradient_probe(cell, T, B))
  np.testing.assert_allclose(page["my_norms"], expected, **CLOSE)
  np.testing.assert_allclose(np.linalg.norm(page["my_vectors"], axis=-1), expected, **CLOSE)
  assert rnn_jax.probe_like(page["carry"], T).shape == page["probe"].shape


def test_profile(page):
  page, printed = page
  cell, params, readout = gru_of(page["variables"])
  xs = jnp.swapaxes(page["xs"], 0, 1)

  def loss(y):
    predictions = (y @ readout["kernel"])[:, 0] + readout["bias"]
    return (predictions - page["targets"][:, -1]) ** 2

  (profile,) = gradient_flow.lag_profile([cell], [params], xs, loss)
  np.testing.assert_allclose(page["profile"], profile, atol=1e-3)
  assert len(printed.splitlines()[-1].split()) >= B
