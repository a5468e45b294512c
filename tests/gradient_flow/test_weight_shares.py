"""Weight shares: each step's term of dL/dW_h, the sum of the terms, and their norms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_kinds import PLAIN
from networks import draw, mean_loss, network

from rnn_jax import make_cell, step, unroll
from rnn_jax.gradient_flow import weight_share_norms, weight_shares

T, B, D, H = 3, 3, 2, 4


def test_a_share_is_the_gradient_of_a_kernel_used_at_that_step_only(x64):
  # A test of the shares' sum alone would not notice shares that are shifted by one step.
  cells, params = network(["elman", "gru"], H)

  @jax.jit
  def run(params, xs):
    def loss(kernels):
      ys = xs
      for cell, cell_params, kernel in zip(cells, params, kernels, strict=True):
        carry, outputs = cell.initial_carry((B,)), []
        for x, w_h in zip(ys, kernel, strict=True):
          own = {**cell_params, "w_h": w_h}
          drive = cell.project(own, x)
          carry = step(cell, own, carry, drive)
          outputs.append(cell.output(own, carry, drive))
        ys = jnp.stack(outputs)
      return mean_loss(ys)

    kernels = [jnp.stack([p["w_h"]] * T) for p in params]
    return weight_shares(cells, params, xs, mean_loss), jax.grad(loss)(kernels)

  for share, expected in zip(*run(params, draw(80, T, B, D)), strict=True):
    np.testing.assert_allclose(share, expected, rtol=1e-10, atol=1e-14)
    assert not np.any(share[0])


@pytest.mark.parametrize("name", PLAIN)
def test_shares_sum_to_the_gradient_and_share_norms_are_their_norms(x64, name):
  (cell,), (params,) = network([name], H)

  @jax.jit
  def run(params, xs):
    gradient = jax.grad(lambda p: mean_loss(unroll(cell, p, xs)[1]))(params)
    shares = weight_shares([cell], [params], xs, mean_loss)
    return gradient["w_h"], *shares, *weight_share_norms([cell], [params], xs, mean_loss)

  gradient, share, norm = run(params, draw(80, T, B, D))
  np.testing.assert_allclose(jnp.sum(share, axis=0), gradient, rtol=1e-10, atol=1e-14)
  assert norm[0] == -np.inf
  explicit = np.linalg.norm(share.reshape(T, -1), axis=1)
  np.testing.assert_allclose(10 ** norm[1:], explicit[1:], rtol=1e-10)


@pytest.mark.parametrize("gain", [0.1, 10.0])
def test_share_norms_of_a_linear_recurrence_are_right_far_outside_the_float_range(gain):
  # If h_t = g h_{t−1} Q with an orthogonal Q, h_0 = x_0 and L = v · h_{T−1}, then
  # ‖share_t‖ = ‖x_0‖ ‖v‖ g^(T−2) for every t ≥ 1.
  num_steps = 300
  q = np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))[0]
  params = {"w_x": jnp.eye(H), "w_h": jnp.asarray(gain * q, float), "b": jnp.zeros(H)}
  cell = make_cell("elman", H, activation="linear")
  # The second example's weight makes its loss negligible.
  weights = jnp.asarray([[3.0], [1e-30]])
  xs = jnp.zeros((num_steps, 2, H)).at[0, :, 0].set(1e-20 if gain > 1 else 1.0)

  @jax.jit
  def norms(xs):
    return weight_share_norms([cell], [params], xs, lambda ys: jnp.sum(weights * ys[-1, :, :1]))[0]

  # Compare only steps at which h is in the float range, because h is stored as plain floats.
  steps = np.arange(1, 30 if gain < 1 else 50)
  start = np.log10(3) + (-20 if gain > 1 else 0)
  expected = start + (num_steps - 2) * np.log10(gain)
  np.testing.assert_allclose(norms(xs)[steps], np.full(len(steps), expected), rtol=1e-5)


@pytest.mark.parametrize("measure", [weight_shares, weight_share_norms])
@pytest.mark.parametrize(
  ("name", "options"), [("gru", {"reset": "before"}), ("antisymmetric", {}), ("clockwork", {})]
)
def test_a_cell_without_a_recurrent_kernel_is_refused_by_its_index(measure, name, options):
  cells, params = network(["elman", name], H)
  cells[1] = make_cell(name, H, **options)
  with pytest.raises(ValueError, match=r"a recurrent kernel.*h W_h.*cells\[1\] has none"):
    jax.eval_shape(lambda xs: measure(cells, params, xs, mean_loss), draw(80, T, B, D))


def test_a_loss_that_is_not_a_scalar_is_refused():
  cells, params = network(["elman"], H)
  with pytest.raises(ValueError, match=r"loss must return a scalar, got \[3, 3\]"):
    weight_share_norms(cells, params, draw(80, T, B, D), lambda ys: ys[..., 0])
