"""Sensitivity of the carry to the params, against a closed form and finite differences."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw

from rnn_jax import make_cell, unroll
from rnn_jax.gradient_flow import sensitivity

T, B, D, H = 5, 2, 2, 3


def test_scalar_recurrence_has_its_closed_form(x64):
  # h_t = Σ_j λ^j x_{t−j}, so dh_t/dλ = Σ_j j λ^(j−1) x_{t−j}.
  num_steps, lam = 20, -0.9
  cell = make_cell("elman", 1, activation="linear")
  params = {"w_x": jnp.ones((1, 1)), "w_h": jnp.full((1, 1), lam), "b": jnp.zeros(1)}
  direction = {**jax.tree.map(jnp.zeros_like, params), "w_h": jnp.ones((1, 1))}
  xs = draw(0, num_steps, B, 1)
  (got,) = jax.jit(functools.partial(sensitivity, [cell]))([params], xs, direction=[direction])
  expected = [
    sum(j * lam ** (j - 1) * np.asarray(xs)[t - j] for j in range(1, t + 1)) + np.zeros((B, 1))
    for t in range(num_steps)
  ]
  np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def test_sensitivity_of_all_layers_equals_finite_differences(x64):
  cells, params, input_size = [make_cell("lstm", H), make_cell("gru", H)], [], D
  for depth, cell in enumerate(cells):
    shapes = jax.eval_shape(lambda cell=cell, size=input_size: cell.init(jax.random.key(0), size))
    params.append({k: draw(10 * depth + len(k), *a.shape) for k, a in shapes.items()})
    input_size = H
  direction = jax.tree.map(lambda a: draw(a.size, *a.shape), params)
  xs, size = draw(80, T, B, D), 1e-5

  @jax.jit
  def carries(way):
    moved = jax.tree.map(lambda a, d: a + way * size * d, params, direction)
    ys, layers = xs, []
    for cell, cell_params in zip(cells, moved, strict=True):
      watched = cell._replace(output=lambda p, c, d, cell=cell: (c, cell.output(p, c, d)))
      _, (carry, ys) = unroll(watched, cell_params, ys)
      layers.append(carry)
    return tuple(layers)

  got = jax.jit(functools.partial(sensitivity, cells))(params, xs, direction=direction)
  expected = jax.tree.map(lambda a, b: (a - b) / (2 * size), carries(1.0), carries(-1.0))
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda d: {"w_h": d["w_h"]}, "direction must have the structure"),
    (
      lambda d: {**d, "b": d["b"][:1]},
      r"direction\[0\]\['b'\] must be float32\[3\], got float32\[1\]",
    ),
    (
      lambda d: {**d, "b": d["b"].astype(int)},
      r"direction\[0\]\['b'\] must be float32\[3\], got int32\[3\]",
    ),
  ],
)
def test_a_direction_unlike_the_params_is_refused(change, message):
  cell = make_cell("elman", H)
  params = {"w_x": draw(0, D, H), "w_h": draw(1, H, H), "b": draw(2, H)}
  with pytest.raises(ValueError, match=message):
    sensitivity([cell], [params], draw(80, T, B, D), direction=[change(params)])
