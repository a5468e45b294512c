"""Tests that errors name the wrong attribute or argument of a network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import BidirectionalRNN, ConditionedDecoder, DeepRNN, EncoderDecoder, make_cell
from rnn_jax.modules import Bidirectional, DecoderInputs, Recurrent

T, B, D, H, V = 4, 3, 2, 5, 6
KEY = jax.random.key(0)
CELL = make_cell("elman", H)
XS, TOKENS = np.ones((T, B, D), np.float32), np.zeros((T, B), np.int32)
READER, WRITER = DeepRNN([CELL], vocabulary_size=V), DeepRNN([CELL], V, V)
INPUTS = DecoderInputs(np.ones((B, D), np.float32), None, TOKENS)
PAIR = DecoderInputs(TOKENS, None, TOKENS)


def fresh(module, *xs, **options):
  """Returns the shapes of a module's variables."""
  return jax.eval_shape(lambda: module.init(KEY, *(xs or (XS,)), **options))


def network(kind=DeepRNN, **attributes):
  return lambda: fresh(kind(**{"cells": [CELL], **attributes}))


def call(xs=XS, *arguments, model=None, **options):
  """Returns a function that calls a network whose variables were initialized for XS."""
  model = model or DeepRNN([CELL], output_size=1)

  def run():
    variables = fresh(model)
    return jax.eval_shape(lambda v: model.apply(v, xs, *arguments, **options), variables)

  return run


def decoder(xs):
  module = ConditionedDecoder(WRITER)
  variables = fresh(module, INPUTS)
  return lambda: jax.eval_shape(lambda v: module.apply(v, xs), variables)


def translator(xs=PAIR, encoder=READER, decoder=WRITER, **options):
  return lambda: fresh(EncoderDecoder(encoder, decoder), xs, **options)


# Wrong calls with their expected errors: (call, error, message).
CASES = [
  *(
    case
    for kind in (DeepRNN, BidirectionalRNN)
    for case in (
      (network(kind, cells="lstm"), TypeError, "cells must be a sequence, one cell a layer, got"),
      (network(kind, cells=["lstm"]), TypeError, "cells[0] must be a Cell, got 'lstm'."),
      (network(kind, hidden_sizes=3), TypeError, "hidden_sizes must be a Sequence, got 3."),
      (network(kind, hidden_sizes=[0]), ValueError, "hidden_sizes must be at least 1, got 0."),
      (network(kind, dropout=1.0), ValueError, "dropout must be below 1, got 1.0."),
      (network(kind, pooled="no"), TypeError, "pooled must be True or False, got 'no'."),
      (network(kind, tied=1), TypeError, "tied must be True or False, got 1."),
    )
  ),
  (network(learned_carry=1), TypeError, "learned_carry must be True or False, got 1."),
  (call(XS[0]), ValueError, "xs must be [T, B, D], or integer tokens [T, B], got [3, 2]"),
  (call(None), TypeError, "xs must be an array of floats or integers, got None."),
  (
    call(XS.astype(bool)),
    TypeError,
    "xs must be an array of floats or integers, got bool[4, 3, 2]",
  ),
  (call(XS[..., :1]), ValueError, "xs must be [T, B, 2], got [4, 3, 1]."),
  (call(XS, 3), TypeError, "carries must be a sequence, one entry a layer, got int."),
  (call(XS, CELL.initial_carry((B,))), TypeError, "carries must be a sequence, one entry a layer"),
  (call(XS, [np.ones((B, 1))]), ValueError, "carry must be float32[3, 5], got float64[3, 1]."),
  (
    call(XS, make_cell("lstm", H).initial_carry((B,))),
    TypeError,
    "carries must be a sequence, one entry a layer, got LSTMCarry.",
  ),
  (call(probes="x"), TypeError, "probes must be a sequence, one entry a layer, got str."),
  (call(key=3), TypeError, "key must be a random key, such as jax.random.key(0), got 3."),
  (
    call(model=BidirectionalRNN([CELL]), probes=[3]),
    TypeError,
    "probe must be a pair (forward, backward), got 3.",
  ),
  (lambda: DeepRNN([CELL]).probes(XS[0, 0]), ValueError, "xs must be [T, B, D], or integer tokens"),
  (lambda: DeepRNN([CELL]).probes(None), ValueError, "xs must be [T, B, D], or integer tokens"),
  (
    lambda: DeepRNN([CELL]).cell_params({"layers_0": {}}),
    ValueError,
    "variables must be those of this network, {'params': {'layers_0': {'cell': …}, …}}, got",
  ),
  (lambda: DeepRNN([CELL]).trunk(None, XS), ValueError, "variables must be those of this network"),
  (lambda: DeepRNN([CELL]).initial_carries(0), ValueError, "batch_size must be at least 1, got 0."),
  (call(np.float32(1), method="readout"), ValueError, "ys must be [..., H], got np.float32(1.0)."),
  (lambda: fresh(Recurrent("lstm")), TypeError, "cell must be a Cell, got 'lstm'."),
  (lambda: fresh(Bidirectional("lstm")), TypeError, "cell must be a Cell, got 'lstm'."),
  (
    lambda: fresh(ConditionedDecoder("x"), INPUTS),
    TypeError,
    "decoder must be a DeepRNN, got 'x'.",
  ),
  (decoder(TOKENS), TypeError, "xs must be a DecoderInputs, got int32[4, 3]."),
  (
    decoder(INPUTS._replace(source=XS)),
    ValueError,
    "source and tokens must have the same B, got [4, 3, 2] and [4, 3].",
  ),
  (
    decoder(INPUTS._replace(source=np.ones((B, D, 1)))),
    ValueError,
    "source must be a batch of vectors [B, D], got [3, 2, 1].",
  ),
  (
    decoder(INPUTS._replace(source=np.ones((B, D), int))),
    TypeError,
    "source must be an array of floats, got int32[3, 2].",
  ),
  (lambda: ConditionedDecoder(WRITER).probes(TOKENS), TypeError, "xs must be a DecoderInputs"),
  (translator(encoder="x"), TypeError, "encoder must be a DeepRNN, got 'x'."),
  (translator(decoder="x"), TypeError, "decoder must be a DeepRNN, got 'x'."),
  (translator(TOKENS), TypeError, "xs must be a DecoderInputs, got int32[4, 3]."),
  (translator(encoder=WRITER), ValueError, "encoder must have no output_size, got 6."),
  (
    translator(PAIR._replace(source=TOKENS[:, :2])),
    ValueError,
    "source and tokens must have the same B, got [4, 2] and [4, 3].",
  ),
  (translator(probes=3), TypeError, "probes must be a pair (encoder, decoder), got 3."),
  (translator(key=jnp.ones(2)), TypeError, "key must be a random key"),
  (lambda: EncoderDecoder(READER, WRITER).probes(TOKENS), TypeError, "xs must be a DecoderInputs"),
]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("call", "error", "message"), CASES)
def test_wrong_arguments_are_named(call, error, message):
  with pytest.raises(error) as caught:
    call()
  assert message in str(caught.value)
