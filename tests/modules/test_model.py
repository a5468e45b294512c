"""Tests of the networks that training accepts and rejects at run time."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import BidirectionalRNN, make_cell
from rnn_jax.losses import squared_error
from rnn_jax.modules import Recurrent
from rnn_jax.optimizers import make_optimizer
from rnn_jax.probes import gradient_probe
from rnn_jax.tasks import Batch
from rnn_jax.training import init_state, update
from rnn_jax.windows import train_windows

T, B, D, H = 6, 2, 3, 4
CELL = make_cell("gru", H)
BATCH = Batch(jnp.ones((T, B, D)), jnp.zeros((T, B, H)), jnp.ones((T, B), bool))
OPTIMIZER = make_optimizer("sgd", 0.1)


class Own(nn.Module):
  """A user's network of one layer, with only the methods that training requires."""

  def setup(self):
    self.layer = Recurrent(CELL)

  def __call__(
    self,
    xs,
    carries=None,
    *,
    probes=None,
    deterministic=True,
    key=None,
    truncation=None,
    resets=None,
  ):
    carry = None if carries is None else carries[0]
    probe = None if probes is None else probes[0]
    carry, ys = self.layer(xs, carry, probe=probe, key=key, truncation=truncation, resets=resets)
    return (carry,), ys

  @nn.nowrap
  def probes(self, xs):
    return (gradient_probe(CELL, *xs.shape[:2]),)

  @nn.nowrap
  def initial_carries(self, batch_size):
    return (CELL.initial_carry((batch_size,)),)


def test_a_users_own_network_is_trained_and_streamed():
  model = Own()
  state = jax.jit(functools.partial(init_state, model, OPTIMIZER))(jax.random.key(0), BATCH.xs)
  step = functools.partial(update, model, OPTIMIZER, squared_error, truncation=2)
  one, _, metrics = jax.jit(step)(state, BATCH)
  assert metrics.norms[0].shape == (T, B) and np.all(metrics.norms[0] > 0)
  stream = functools.partial(train_windows, model, OPTIMIZER, squared_error, window=3)
  two, _, metrics = jax.jit(stream)(state, BATCH)
  assert (one.step, two.step) == (1, 2) and metrics.loss.shape == (2,)


BOTH = BidirectionalRNN([CELL], H)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda state: update(*state, BATCH, truncation=2), "unexpected keyword argument 'truncation'"),
    (lambda state: update(*state, BATCH, [None]), "unexpected keyword argument 'carries'"),
    (
      lambda state: train_windows(*state, BATCH, 3),
      "model must have a method 'initial_carries', as DeepRNN has, got BidirectionalRNN",
    ),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_bidirectional_network_is_rejected_even_without_type_checks(call, message):
  state = init_state(BOTH, OPTIMIZER, jax.random.key(0), BATCH.xs)
  with pytest.raises(TypeError, match=message):
    call((BOTH, OPTIMIZER, squared_error, state))
