"""Tests of bidirectional layers and networks."""

from __future__ import annotations

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import BidirectionalRNN, DeepRNN, make_cell, unroll
from rnn_jax.cells import zoneout
from rnn_jax.modules import Bidirectional

T, B, D, H, OUT = 6, 2, 2, 4, 2
LENGTHS = np.array([6, 3])

assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


def draw(seed, *shape):
  return jnp.asarray(0.6 * np.random.default_rng(seed).standard_normal(shape), float)


def network(merge, name="gru", depth=2, **options):
  model = BidirectionalRNN([make_cell(name, H)] * depth, OUT, merge=merge, **options)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), draw(0, T, B, D)))
  leaves, structure = jax.tree.flatten(shapes)
  return model, structure.unflatten([draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


@pytest.mark.parametrize(("merge", "name"), [("concat", "elman"), ("sum", "lstm")])
def test_a_layer_merges_the_cell_run_forward_and_over_the_reversed_sequence(merge, name):
  model, variables = network(merge, name, depth=1)
  xs, params = draw(90, T, B, D), variables["params"]
  kernel, bias = params["head"]["kernel"], params["head"]["bias"]

  @jax.jit
  def by_hand(xs):
    cell, layer = model.cells[0], params["layers_0"]
    forward, f = unroll(cell, layer["forward"]["cell"], xs)
    backward, b = unroll(cell, layer["backward"]["cell"], xs[::-1])
    ys = f + b[::-1] if merge == "sum" else jnp.concatenate([f, b[::-1]], axis=-1)
    return ((forward, backward),), ys @ kernel + bias[None, None]

  assert_close(jax.jit(model.apply)(variables, xs), by_hand(xs))


def test_a_padded_sequence_gives_the_same_as_the_sequence_alone():
  model, variables = network("concat")
  xs = np.asarray(draw(90, T, B, D))
  padded = np.where(np.arange(T)[:, None, None] < LENGTHS[None, :, None], xs, np.float32(np.nan))
  carries, ys = jax.device_get(jax.jit(model.apply)(variables, padded, lengths=LENGTHS))
  for b, length in enumerate(LENGTHS):
    alone, expected = jax.jit(model.apply)(variables, xs[:length, b : b + 1])
    assert_close(ys[:length, b : b + 1], expected)
    for padded, own in zip(jax.tree.leaves(carries), jax.tree.leaves(alone), strict=True):
      assert_close(padded[b], own[0])


def test_a_mask_skips_the_same_steps_in_both_directions():
  model, variables = network("concat")
  xs, steps = np.asarray(draw(90, T, B, D)), np.array([0, 2, 3])
  mask = np.isin(np.arange(T), steps)[:, None].repeat(B, axis=1)
  carries, ys = jax.jit(model.apply)(variables, xs, mask=mask)
  assert_close((carries, ys[steps]), jax.jit(model.apply)(variables, xs[steps]))


def test_a_padded_sequence_has_the_gradients_of_the_sequence_alone():
  model, variables = network("sum", depth=1)
  xs = np.asarray(draw(90, T, B, D))
  valid = np.arange(T)[:, None, None] < LENGTHS[None, :, None]

  def loss(xs, lengths, valid):
    _, ys = model.apply(variables, xs, lengths=lengths)
    return jnp.sum(jnp.where(valid, ys, 0) ** 2)

  grad = jax.jit(jax.grad(loss))
  padded = np.asarray(grad(np.where(valid, xs, np.float32(np.nan)), LENGTHS, valid))
  for b, length in enumerate(LENGTHS):
    own = xs[:length, b : b + 1]
    alone = grad(own, np.array([length]), np.ones((length, 1, 1), bool))
    assert_close(padded[:length, b : b + 1], alone)
    np.testing.assert_array_equal(padded[length:, b], 0)


def test_every_output_depends_on_every_step():
  model, variables = network("sum", depth=1)

  @jax.jit
  @jax.jacobian
  def outputs(xs):
    return model.apply(variables, xs)[1][:, 0, 0]

  assert np.all(np.any(outputs(draw(90, T, 1, D)) != 0, axis=-1))


def test_each_direction_draws_its_own_masks():
  # With the same params in both directions and a single step, only the zoneout masks can differ.
  layer, xs = Bidirectional(zoneout(make_cell("elman", 50), 0.5)), draw(90, 1, B, D)

  @jax.jit
  def run(key):
    params = layer.init(jax.random.key(0), xs)["params"]
    same = {"params": dict.fromkeys(params, params["forward"])}
    return [layer.apply(same, xs, key=key)[1] for key in (None, key)]

  mean, drawn = (np.split(np.asarray(ys), 2, axis=-1) for ys in run(jax.random.key(1)))
  np.testing.assert_array_equal(*mean)
  # A zero is an entry that zoneout has kept from the initial carry.
  assert np.any((drawn[0] == 0) != (drawn[1] == 0))


def test_probes_give_the_norms_of_both_directions():
  model, variables = network("concat", "lstm")
  xs, weights = draw(90, T, B, D), draw(91, T, B, OUT)

  @jax.jit
  @jax.grad
  def norms(probes):
    return jnp.sum(weights * model.apply(variables, xs, probes=probes)[1])

  found = norms(model.probes(xs))
  chex.assert_trees_all_equal_structs(found, model.probes(xs))
  (_, _), (forward, backward) = found
  # At the last step of each direction, dL/dh comes only from the readout, through the half of the
  # readout's kernel that reads this direction.
  kernel = variables["params"]["head"]["kernel"]
  half = weights @ kernel.T
  assert_close(forward.hidden[-1], np.linalg.norm(half[-1, :, :H], axis=-1))
  assert_close(backward.hidden[0], np.linalg.norm(half[0, :, H:], axis=-1))


def test_the_call_takes_neither_truncation_nor_carries_nor_resets():
  signature = inspect.signature(BidirectionalRNN.__call__)
  assert not {"carries", "truncation", "resets", "time"} & set(signature.parameters)
  assert "carries" in inspect.signature(DeepRNN.__call__).parameters


def test_an_unknown_merge_is_refused():
  with pytest.raises(ValueError, match="Unknown merge 'mean'"):
    BidirectionalRNN([make_cell("gru", H)], merge="mean").init(jax.random.key(0), draw(0, T, B, D))
