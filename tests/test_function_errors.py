"""Tests of the errors of probes, clipping, losses, sampling, training and parallel runs."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import BidirectionalRNN, ConditionedDecoder, DeepRNN, gradient_probe, make_cell
from rnn_jax.clipping import clip_by_global_norm, clip_cotangent, was_clipped, with_clip_state
from rnn_jax.losses import cross_entropy, masked_mean, squared_error
from rnn_jax.modules import DecoderInputs
from rnn_jax.optimizers import make_optimizer
from rnn_jax.parallel import fetch, map_runs, psum, shard, spread
from rnn_jax.penalties import omega_penalty
from rnn_jax.probes import scaled_norm, tap, tree_norm
from rnn_jax.sampling import choose, decode, generate
from rnn_jax.tasks import Batch
from rnn_jax.training import init_state, update
from rnn_jax.windows import train_windows

T, B, D, H, V = 4, 3, 2, 5, 6
KEY = jax.random.key(0)
LSTM = make_cell("lstm", H)
CARRY = LSTM.initial_carry((B,))
A_KEY = "key must be a random key, such as jax.random.key(0), got 3."


def zeros(*shape, dtype=np.float32):
  return np.zeros(shape, dtype)


def each(change):
  return jax.tree.map(change, CARRY)


PROBES = [
  (lambda: gradient_probe("lstm", T, B), TypeError, "cell must be a Cell, got 'lstm'."),
  (lambda: gradient_probe(LSTM, T, -1), ValueError, "batch_size must be at least 1, got -1."),
  (lambda: gradient_probe(LSTM, T, B, int), TypeError, "dtype must be a float dtype, got <class"),
  (lambda: gradient_probe(LSTM, T, B, "x"), TypeError, "dtype must be a float dtype, got 'x'."),
  (lambda: tap(CARRY, zeros(B)), ValueError, "probe must have the structure LSTMCarry("),
  (lambda: tap(CARRY, each(lambda _: zeros(7))), ValueError, "probe.hidden must be float32[3], go"),
  (lambda: tap(CARRY, each(lambda _: zeros(B, dtype=int))), ValueError, "float32[3], got int64"),
  (
    lambda: scaled_norm(jnp.arange(3)),
    TypeError,
    "x must be an array of floats or complex numbers, got int32[3].",
  ),
  (lambda: scaled_norm("x"), TypeError, "x must be an array of floats or complex numbers, got 'x'"),
  (lambda: tree_norm({}), ValueError, "tree must have at least one array, got {}."),
  (lambda: tree_norm({"a": True}), TypeError, "tree must be an array of floats or complex numbers"),
]

THRESHOLDS = [
  (-1.0, ValueError, "must be greater than 0, got -1.0."),
  (0, ValueError, "must be greater than 0, got 0."),
  (np.nan, ValueError, "must be finite, got nan."),
  (np.ones(2), TypeError, "must be a number, got float64[2]."),
  ("x", TypeError, "must be a number, got 'x'."),
  (None, TypeError, "must be a number, got None."),
  (1j, TypeError, "must be a number, got 1j."),
]

CLIPPING = [
  *(
    (functools.partial(call, wrong), error, f"{name} {message}")
    for wrong, error, message in THRESHOLDS
    for name, call in (
      ("clip_norm", clip_by_global_norm),
      ("threshold", lambda c: clip_cotangent(CARRY, c)),
      ("threshold", lambda c: was_clipped([zeros(T, B)], c)),
    )
  ),
  (
    lambda: jax.jit(lambda c: clip_cotangent(CARRY, c))(zeros(2)),
    TypeError,
    "threshold must be a real scalar, got float32[2].",
  ),
  (
    lambda: clip_cotangent((zeros(2, H), zeros(3, H)), 1.0),
    ValueError,
    "carry must have leaves [B, ...] of one B, got (float32[2, 5], float32[3, 5]).",
  ),
  (
    lambda: clip_cotangent([], 1.0),
    ValueError,
    "carry must have leaves [B, ...] of one B, got [].",
  ),
  (
    lambda: was_clipped(zeros(T, B), 1.0),
    TypeError,
    "norms must be a sequence, one entry a layer, got ndarray.",
  ),
  (lambda: was_clipped(CARRY, 1.0), TypeError, "one entry a layer, got LSTMCarry."),
  (
    lambda: was_clipped([zeros(T, B, dtype=int)], 1.0),
    TypeError,
    "norms must be an array of floats",
  ),
  (
    lambda: was_clipped([(zeros(T, B), zeros(B))], 1.0),
    ValueError,
    "norms must have leaves [T, B] of one shape, got (float32[4, 3], float32[3]).",
  ),
  (lambda: with_clip_state(1.0), TypeError, "clip must be a GradientTransformation, got 1.0."),
]

LOSSES = [
  (
    lambda: cross_entropy(zeros(B, V, dtype=int), zeros(B, dtype=int)),
    TypeError,
    "logits must be an array of floats, got int",
  ),
  (
    lambda: cross_entropy(None, zeros(B, dtype=int)),
    TypeError,
    "logits must be an array of floats",
  ),
  (
    lambda: cross_entropy(zeros(B, V), np.full(B, V)),
    ValueError,
    f"targets must hold tokens from 0 to {V - 1}, got {V} to {V}.",
  ),
  (
    lambda: cross_entropy(zeros(B, V), zeros(B, dtype=bool)),
    TypeError,
    "targets must be an array o",
  ),
  (
    lambda: cross_entropy(zeros(B, 0), zeros(B, dtype=int)),
    ValueError,
    "targets must be [...] and",
  ),
  (lambda: squared_error(zeros(B, D, dtype=complex), zeros(B, D)), TypeError, "outputs must be an"),
  (
    lambda: squared_error(zeros(B, D), zeros(B, D, dtype=int)),
    TypeError,
    "targets must be an array",
  ),
  (
    lambda: squared_error(zeros(B, D), None),
    TypeError,
    "targets must be an array of floats, got No",
  ),
  (lambda: masked_mean(zeros(T, B), zeros(T, B)), TypeError, "mask must be an array of booleans"),
  (
    lambda: masked_mean(zeros(T, B, dtype=int), None),
    TypeError,
    "values must be an array of floats",
  ),
  (
    lambda: masked_mean(zeros(T, B), zeros(T, B, dtype=bool), zeros(3, dtype=int)),
    ValueError,
    "count must be a scalar, got int32[3].",
  ),
  (
    lambda: masked_mean(zeros(B), zeros(B, dtype=bool), "x"),
    TypeError,
    "count must be an array of",
  ),
]

WRITER, TRUTHS = DeepRNN([LSTM], V, V), zeros(T, B, dtype=np.int32)
TOKEN = TRUTHS[0]


def generating(model=WRITER, carries=(CARRY,), token=TOKEN, key=KEY, num_steps=2, **options):
  return lambda: generate(model, {}, carries, token, key, num_steps, **options)


def decoding(model=None, xs=DecoderInputs(zeros(B, D), None, TRUTHS), eos=0):  # noqa: B008
  model = model or ConditionedDecoder(WRITER)
  return lambda: decode(model, {}, xs, KEY, 2, eos=eos)


SAMPLING = [
  (lambda: choose(3, zeros(V)), TypeError, A_KEY),
  (
    lambda: choose(KEY, zeros(V, dtype=int)),
    TypeError,
    "logits must be an array of floats, got int",
  ),
  (lambda: choose(KEY, None), TypeError, "logits must be an array of floats, got None."),
  (lambda: choose(KEY, zeros(V), -1), ValueError, "temperature must be at least 0, got -1."),
  (lambda: choose(KEY, zeros(V), 1.0, V + 1), ValueError, "top_k must be at most the vocabulary's"),
  (generating(model="x"), TypeError, "model must be a DeepRNN, got 'x'."),
  (generating(model=BidirectionalRNN([LSTM])), TypeError, "model must be a DeepRNN, got"),
  (
    generating(carries=CARRY),
    TypeError,
    "carries must be a sequence, one entry a layer, got LSTMC",
  ),
  (generating(carries=3), TypeError, "carries must be a sequence, one entry a layer, got int."),
  (generating(carries=[CARRY] * 2), ValueError, "carries must have 1 entries, one a layer, got 2."),
  (generating(token=zeros(B)), TypeError, "token must be an array of integers, got float32[3]."),
  (generating(token=TRUTHS), ValueError, "token must be [B] with B at least 1, got [4, 3]."),
  (generating(token=TOKEN[:0]), ValueError, "token must be [B] with B at least 1, got [0]."),
  (generating(key=3), TypeError, A_KEY),
  (generating(num_steps=0), ValueError, "num_steps must be at least 1, got 0."),
  *(
    case
    for name in ("eos", "reset_at")
    for case in (
      (generating(**{name: 1.5}), TypeError, f"{name} must be an integer, got 1.5."),
      (generating(**{name: -1}), ValueError, f"{name} must be at least 0, got -1."),
      (
        generating(**{name: V}),
        ValueError,
        f"{name} must be below the vocabulary's 6 tokens, got 6",
      ),
    )
  ),
  (
    decoding(WRITER),
    TypeError,
    "model must be a ConditionedDecoder or an EncoderDecoder, got Deep",
  ),
  (decoding(xs=TRUTHS), TypeError, "xs must be a DecoderInputs, got int32[4, 3]."),
  (decoding(eos=None), TypeError, "eos must be an integer, got None."),
]

NETWORK, SGD = DeepRNN([LSTM], 1), make_optimizer("sgd", 0.1)
BATCH = Batch(zeros(T, B, D), zeros(T, B, 1), np.ones((T, B), bool))
MODEL = "model must have the methods init, apply and probes, as DeepRNN has, got str."


def training(
  function, *window, model=NETWORK, optimizer=SGD, loss=squared_error, batch=BATCH, **options
):
  """Returns a function that traces `function` with these arguments, without computing anything.

  Args:
    function: `update` or `train_windows`.
    *window: the argument `window` of `train_windows`; nothing for `update`.
    model: the model; a valid one by default, as are `optimizer`, `loss` and `batch`.
    **options: further arguments; the argument `state` is valid unless given here.
  """

  def run():
    state = init_state(NETWORK, SGD, KEY, BATCH.xs)
    state = options.pop("state", state)
    return function(model, optimizer, loss, state, batch, *window, **options)

  return lambda: jax.eval_shape(run)


TRAINING = [
  *(
    case
    for call in (
      functools.partial(training, update),
      functools.partial(training, train_windows, 2),
    )
    for case in (
      (call(model="x"), TypeError, MODEL),
      (
        call(optimizer="sgd"),
        TypeError,
        "optimizer must be a GradientTransformation, from make_op",
      ),
      (call(loss=None), TypeError, "loss must be a function, got None."),
      (call(loss=lambda ys, _: ys), ValueError, "mask must have the shape of the values ("),
      (
        call(loss=lambda ys, _: (ys, 0)),
        TypeError,
        "values must be an array of floats, got (",
      ),
      (call(state={}), TypeError, "state must be a TrainState, from init_state, got {}."),
      (call(batch=tuple(BATCH)), TypeError, " must be a Batch, got (float32[4, 3, 2], "),
      (
        call(batch=BATCH._replace(mask=None)),
        ValueError,
        "batch.mask must be [T, B] of bool, got N",
      ),
      (call(batch=BATCH._replace(mask=zeros(T, B))), ValueError, "of bool, got float32[4, 3]."),
      (call(key=3), TypeError, A_KEY),
      (call(clip_carry=zeros(2)), TypeError, "clip_carry must be a number, got float32[2]."),
      (call(psum=3), TypeError, "psum must be a function, got 3."),
    )
  ),
  (training(update, penalty=3), TypeError, "penalty must be a function, got 3."),
  (
    training(update, carries=3),
    TypeError,
    "carries must be a sequence, one entry a layer, got int",
  ),
  (
    training(train_windows, 2, resets=zeros(T, B)),
    TypeError,
    "resets must be an array of booleans, got float32[4, 3].",
  ),
  (
    training(train_windows, 2, resets=zeros(2, 2, dtype=bool)),
    ValueError,
    "resets must be [N, B] = (4, 3), got (2, 2).",
  ),
  (training(train_windows, 2, carries=3), TypeError, "carries must be a Sequence, got 3."),
  (
    training(train_windows, 2, batch=BATCH._replace(xs=BATCH.xs[1:])),
    ValueError,
    "stream must have leaves [N, B, ...] with N = 4, got float32[3, 3, 2].",
  ),
  (training(train_windows, 2, tolerance=1), ValueError, "tolerance must be below 1, got 1."),
  (lambda: init_state("x", SGD, KEY, BATCH.xs), TypeError, MODEL),
  (
    lambda: init_state(NETWORK, "sgd", KEY, BATCH.xs),
    TypeError,
    "optimizer must be a GradientTran",
  ),
  (lambda: init_state(NETWORK, SGD, 3, BATCH.xs), TypeError, A_KEY),
  (
    lambda: omega_penalty(BidirectionalRNN([LSTM]), squared_error, 1.0),
    TypeError,
    "model must have the methods trunk and readout, as DeepRNN has, got BidirectionalRNN.",
  ),
  (lambda: omega_penalty(NETWORK, None, 1.0), TypeError, "loss must be a function, got None."),
  (lambda: omega_penalty(NETWORK, squared_error, -1), ValueError, "weight must be at least 0, got"),
]


def shared(function):
  """Returns a function that traces `function` under a `vmap` whose axis stands for four devices."""
  return lambda: jax.eval_shape(jax.vmap(function, axis_name="devices"), zeros(4, T, B))


PARALLEL = [
  (lambda: map_runs(None), TypeError, "function must be a function, got None."),
  (lambda: map_runs(max, "cpu"), TypeError, "devices must be a sequence of devices, got 'cpu'."),
  (lambda: map_runs(max, []), ValueError, "devices must hold at least one device, got none."),
  (lambda: map_runs(max, ["cpu"]), TypeError, "devices[0] must be a Device, got 'cpu'."),
  (lambda: spread(zeros(1), 1), TypeError, "devices must be a sequence of devices, got 1."),
  (
    lambda: spread(zeros(7), jax.devices()[:1]),
    ValueError,
    "tree must have leaves [devices, ...] with 1 entries, got float32[7].",
  ),
  (lambda: spread(1.0, jax.devices()[:1]), ValueError, "with 1 entries, got 1.0."),
  (lambda: fetch({"a": zeros(1)}), TypeError, "tree must hold JAX arrays, got float32[1]."),
  *(
    case
    for function in (shard, psum)
    for case in (
      (lambda f=function: f(zeros(T, B), 0), ValueError, "count must be at least 1, got 0."),
      (lambda f=function: f(zeros(T, B), 1.5), TypeError, "count must be an integer, got 1.5."),
      (
        shared(lambda a, f=function: f(a, 3)),
        ValueError,
        "count must divide the number of devices 4, got 3.",
      ),
    )
  ),
  (shared(lambda a: shard(a, 2)), ValueError, "count must divide the batch size 3, got 2."),
  (
    shared(lambda a: shard(a[0, 0], 2)),
    ValueError,
    "batch must have leaves [T, B, ...] or [B], go",
  ),
]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
  ("call", "error", "message"),
  [*PROBES, *CLIPPING, *LOSSES, *SAMPLING, *TRAINING, *PARALLEL],
)
def test_wrong_arguments_are_named(call, error, message):
  with pytest.raises(error) as caught:
    call()
  assert message in str(caught.value)
