"""Tests of error messages: they name the argument, the value it got, and its choices if any."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from other_array import OtherArray

from rnn_jax import CELLS, DeepRNN, gradient_probe, make_cell, unroll
from rnn_jax.initializers import recurrent_kernel
from rnn_jax.losses import squared_error
from rnn_jax.optimizers import OPTIMIZERS, make_optimizer
from rnn_jax.tasks import Batch, adding, charlm, copy_memory, temporal_order
from rnn_jax.text import Corpus, build_vocabulary, lanes
from rnn_jax.training import init_state
from rnn_jax.windows import train_windows

T, B, D, H = 5, 3, 2, 4

CELL = make_cell("lstm", H)
SHAPES = {"w_x": (D, 4 * H), "w_h": (H, 4 * H), "b": (4 * H,)}
PARAMS = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
ELMAN = make_cell("elman", H)
ELMAN_PARAMS = {name: leaf[..., :H] for name, leaf in PARAMS.items()}
XS = np.zeros((T, B, D), np.float32)
SMALL = np.zeros((B, H - 1), np.float32)
HALF = np.zeros((B, H), np.float16)


def loop(xs=XS, carry=None, **time):
  return lambda: unroll(CELL, PARAMS, xs, carry, **time)


def cell(name="elman", hidden_size=H, **options):
  return lambda: make_cell(name, hidden_size, **options)


def model(*cells, xs=XS, call=(), **attributes):
  """Returns a function that traces a DeepRNN's `init`, which raises the same errors as `apply`.

  Args:
    *cells: the cells; an LSTM by default.
    xs: the inputs.
    call: further arguments of the call.
    **attributes: attributes of the DeepRNN.
  """

  def run():
    network = DeepRNN(list(cells) or [CELL], **attributes)
    return jax.eval_shape(lambda: network.init(jax.random.key(0), xs, **dict(call)))

  return run


def traced(**arrays):
  return lambda: jax.jit(lambda arrays: unroll(CELL, PARAMS, XS, **arrays))(arrays)


def words(*parts):
  """Returns a regular expression for these texts in this order, with anything in between."""
  return ".*".join(re.escape(part) for part in parts)


@pytest.mark.usefixtures("unchecked_types")
def test_lengths_mask_and_resets_may_be_arrays_of_another_library():
  time = {
    "lengths": np.array([2, 5, 1]),
    "mask": ~np.eye(T, B, k=-1, dtype=bool),
    "resets": np.eye(T, B, dtype=bool),
  }
  other = {name: OtherArray(a) for name, a in time.items()}
  np.testing.assert_array_equal(
    loop(np.ones((T, B, D)), **other)()[1], loop(np.ones((T, B, D)), **time)()[1]
  )


UNROLL = [
  (
    lambda: unroll(ELMAN, ELMAN_PARAMS, XS, OtherArray([[0]])),
    ValueError,
    words("carry must be float32[3, 4], got tensor([[0]])."),
  ),
  (cell("LSTM"), ValueError, words("Unknown cell 'LSTM'; did you mean 'lstm'?")),
  (
    loop(XS[0]),
    ValueError,
    words("xs must be [T, B, D]", "tokens [T, B]", "got (3, 2)", "float32"),
  ),
  (loop(XS[:0]), ValueError, words("xs must", "T and B at least 1", "got (0, 3, 2)")),
  (loop(np.zeros((T, B, D), int)), ValueError, words("xs must", "got (5, 3, 2)", "int")),
  (loop(np.full((T, B), D)), ValueError, words("xs must hold tokens from 0 to 1, got 2 to 2.")),
  (
    loop(np.full((T, B), -1), remat="sqrt"),
    ValueError,
    words("xs must hold tokens from 0 to 1, got -1 to -1."),
  ),
  (loop(remat="sqr"), ValueError, words("remat 'sqr'", "mean 'sqrt'?", "of: none, sqrt, step.")),
  (loop(scan_unroll=0), ValueError, words("scan_unroll must be at least 1, got 0.")),
  (loop(scan_unroll=1.5), TypeError, words("scan_unroll must be an integer, got 1.5.")),
  (loop(unroll=2), TypeError, words("no argument 'unroll'; it is called 'scan_unroll'.")),
  (loop(truncated=2), TypeError, words("unroll() has no argument 'truncated'.")),
  (loop(reverse="no"), TypeError, words("reverse must be True or False, got 'no'.")),
  (loop(key=3), TypeError, words("key must be a random key", "got 3.")),
  (
    loop(XS.astype(complex)),
    TypeError,
    words("xs must be an array of floats or integers, got complex64[5, 3, 2]"),
  ),
  (lambda: unroll("lstm", PARAMS, XS), TypeError, words("cell must be a Cell, got 'lstm'.")),
  (
    loop(np.zeros((T, B, 7), np.float32)),
    ValueError,
    words("xs must be [T, B, 2], got [5, 3, 7]."),
  ),
  (
    lambda: unroll(make_cell("lstm", H + 1), PARAMS, XS),
    ValueError,
    words("params['b'] must be floats [20], got float32[16]."),
  ),
  (
    lambda: unroll(CELL, {"w_x": PARAMS["w_x"]}, XS),
    ValueError,
    words("params must have the structure", "'w_h': float32[4, 16]", "got {'w_x'"),
  ),
  (loop(truncation=0), ValueError, words("truncation must be at least 1, got 0.")),
  (loop(truncation=-3), ValueError, words("truncation must be at least 1, got -3.")),
  (loop(truncation=2.0), TypeError, words("truncation must be an integer, got 2.0.")),
  (loop(truncation=True), TypeError, words("truncation must be an integer, got True.")),
  (loop(truncation="5"), TypeError, words("truncation must be an integer, got '5'.")),
  (loop(truncation=np.int32(0)), ValueError, words("truncation must be at least 1, got 0.")),
  (lambda: loop(truncation=jnp.int32(0))(), ValueError, words("truncation must be at least 1")),
  (traced(truncation=2.5), TypeError, words("truncation must be an integer scalar", "float32[]")),
  (traced(truncation=np.ones(2, int)), TypeError, words("truncation must", "scalar", "int32[2]")),
  (loop(lengths=np.ones(2, int)), ValueError, words("lengths must be [B] = (3,), got (2,).")),
  (loop(lengths=np.ones(B)), TypeError, words("lengths must be integers, got float")),
  (
    loop(lengths=[[1], [2, 3]]),
    TypeError,
    words("lengths must be integers [B], got [[1], [2, 3]]."),
  ),
  (
    loop(resets=[[True], []]),
    TypeError,
    words("resets must be booleans [T, B], got [[True], []]."),
  ),
  (loop(clip_carry=[[1], []]), TypeError, words("clip_carry must be a number, got [[1], []].")),
  (
    loop(key=np.zeros(3, np.uint32)),
    TypeError,
    words("key must be a random key, such as jax.random.key(0), got uint32[3]."),
  ),
  (loop(lengths=np.array([0, 1, 6])), ValueError, words("lengths", "from 0 to T = 5, got 0 to 6")),
  (loop(lengths=np.array([-1, 1, 5])), ValueError, words("lengths", "T = 5, got -1 to 5.")),
  (
    loop(resets=np.ones((B, T), bool)),
    ValueError,
    words("resets must be [T, B] = (5, 3), got (3, 5)"),
  ),
  (loop(resets=np.ones((T, B))), TypeError, words("resets must be bool, got float")),
  (loop(mask=np.ones(T, bool)), ValueError, words("mask must be [T, B] = (5, 3), got (5,)")),
  (loop(mask=np.ones((T, B))), TypeError, words("mask must be bool, got float")),
  (
    loop(carry=SMALL),
    ValueError,
    words("carry must have the structure LSTMCarry(hidden=float32[3, 4]", "got float32[3, 3]."),
  ),
  (
    loop(carry=(HALF, HALF)),
    ValueError,
    words("carry must have the structure LSTMCarry(", "got (float16[3, 4], float16[3, 4])."),
  ),
  (
    loop(carry=CELL.initial_carry((B,))._replace(cell=SMALL)),
    ValueError,
    words("carry.cell must be float32[3, 4], got float32[3, 3]."),
  ),
  (
    loop(carry=CELL.initial_carry((B,))._replace(cell=HALF)),
    ValueError,
    words("carry.cell must be float32[3, 4], got float16[3, 4]."),
  ),
  (
    loop(probe=gradient_probe(CELL, T + 1, B)),
    ValueError,
    words("probe.hidden must be float32[5, 3], got float32[6, 3]."),
  ),
  (
    loop(probe=gradient_probe(make_cell("gru", H), T, B)),
    ValueError,
    words("probe must have the structure", "LSTMCarry"),
  ),
  (
    lambda: unroll(ELMAN, ELMAN_PARAMS, XS, probe=gradient_probe(CELL, T, B)),
    ValueError,
    words("probe must have the structure", "LSTMCarry"),
  ),
]

MAKE_CELL = [
  (cell("lstn"), ValueError, words("cell 'lstn'; did you mean 'lstm'?", ", ".join(sorted(CELLS)))),
  (cell("zzz"), ValueError, words("Unknown cell 'zzz'. Choose one of: ", ", ".join(sorted(CELLS)))),
  (
    cell("lstm", forget_bais=1.0),
    ValueError,
    words(
      "option of cell lstm 'forget_bais'; did you mean 'forget_bias'?",
      "chrono, forget_bias, forget_gate, recurrent_gain, recurrent_kernel.",
    ),
  ),
  (
    cell("elman", forget_bias=1.0),
    ValueError,
    words("option of cell elman 'forget_bias'", "activation, recurrent_gain, recurrent_kernel."),
  ),
  *((cell(name, 0), ValueError, words("hidden_size must be at least 1, got 0.")) for name in CELLS),
  *((cell(n, 4.0), TypeError, words("hidden_size must be an integer, got 4.0.")) for n in CELLS),
  (cell(activation="tan"), ValueError, words("activation 'tan'", "'tanh'?", "linear, relu, tanh.")),
  (
    cell("gru", reset="befor"),
    ValueError,
    words("reset 'befor'", "'before'?", "after, before, none."),
  ),
  *(
    (
      cell(name, recurrent_kernel="ortogonal"),
      ValueError,
      words("recurrent_kernel 'ortogonal'", "'orthogonal'?", "gaussian, identity, orthogonal."),
    )
    for name in ("elman", "gru", "lstm")
  ),
  (cell(recurrent_gain=np.inf), ValueError, words("recurrent_gain must be finite, got inf.")),
  (
    cell(recurrent_gain=10**400),
    ValueError,
    words(f"recurrent_gain must be finite, got 1{'0' * 400}."),
  ),
  (cell(recurrent_gain="big"), TypeError, words("recurrent_gain must be a number, got 'big'.")),
  (cell(recurrent_gain=True), TypeError, words("recurrent_gain must be a number, got True.")),
  (cell("lstm", forget_bias=np.nan), ValueError, words("forget_bias must be finite, got nan.")),
  (cell("lstm", forget_bias=[1]), TypeError, words("forget_bias must be a number, got [1].")),
  (
    lambda: CELL.init(jax.random.key(0), 0),
    ValueError,
    words("input_size must be at least 1, got 0."),
  ),
  (lambda: recurrent_kernel("x"), ValueError, words("recurrent_kernel 'x'", "gaussian, identity")),
]

DEEP_RNN = [
  (
    lambda: jax.eval_shape(lambda: DeepRNN([]).init(jax.random.key(0), XS)),
    ValueError,
    words("cells must hold at least one cell, got none."),
  ),
  (model(output_size=0), ValueError, words("output_size must be at least 1, got 0.")),
  (model(output_size=2.0), TypeError, words("output_size must be an integer, got 2.0.")),
  (model(vocabulary_size=-1), ValueError, words("vocabulary_size must be at least 1, got -1.")),
  (
    model(vocabulary_size=3, embedding_size=0),
    ValueError,
    words("embedding_size must be at least 1, got 0."),
  ),
  (model(embedding_size=3), ValueError, words("embedding_size needs vocabulary_size, got None.")),
  (model(dropout=1.0), ValueError, words("dropout must be below 1, got 1.0.")),
  (model(dropout=-0.1), ValueError, words("dropout must be at least 0, got -0.1.")),
  (model(dropout="no"), TypeError, words("dropout must be a number, got 'no'.")),
  (
    model(xs=np.zeros((T, B), np.int32)),
    ValueError,
    words("xs must be floats unless vocabulary_size is given, got int32[5, 3]."),
  ),
  (
    model(CELL, CELL, call={"carries": [None]}),
    ValueError,
    words("carries must have 2 entries, one a layer, got 1."),
  ),
  (
    model(CELL, call={"probes": [None, None]}),
    ValueError,
    words("probes must have 1 entries, one a layer, got 2."),
  ),
  (model(call={"truncation": 0}), ValueError, words("truncation must be at least 1, got 0.")),
]

PROBE = [
  (lambda: gradient_probe(CELL, 0, B), ValueError, words("num_steps must be at least 1, got 0.")),
  (lambda: gradient_probe(CELL, T, 0), ValueError, words("batch_size must be at least 1, got 0.")),
  (
    lambda: gradient_probe(CELL, 5.0, B),
    TypeError,
    words("num_steps must be an integer, got 5.0."),
  ),
  (lambda: gradient_probe(CELL, T, "3"), TypeError, words("batch_size must", "integer, got '3'.")),
]

TINY = Corpus("tiny.txt", np.frombuffer(b"a" * 10, np.uint8), build_vocabulary(b"a"), "")

TASK = [
  (lambda: adding(1, B), ValueError, words("sequence_length must be at least 2, got 1.")),
  (lambda: copy_memory(20, B), ValueError, words("sequence_length must be at least 21, got 20.")),
  (lambda: temporal_order(9, B), ValueError, words("sequence_length must be at least 10, got 9.")),
  (
    lambda: charlm(5, B, TINY),
    ValueError,
    words(
      "sequence_length must be below 5, half of the 10 characters of corpus tiny.txt", "got 5."
    ),
  ),
  *(
    (
      lambda make=make: make(30.0, B),
      TypeError,
      words("sequence_length must be an integer, got 30.0"),
    )
    for make in (adding, copy_memory, temporal_order, charlm)
  ),
  *(
    (lambda make=make: make(30, 0), ValueError, words("batch_size must be at least 1, got 0."))
    for make in (adding, copy_memory, temporal_order, charlm)
  ),
  (lambda: lanes(np.arange(3), 4), ValueError, words("batch_size", "at most the 3 tokens, got 4.")),
  (lambda: lanes(np.arange(3), 0), ValueError, words("batch_size must be at least 1, got 0.")),
]

OPTIMIZER = [
  (
    lambda: make_optimizer("adamm", 0.1),
    ValueError,
    words("optimizer 'adamm'; did you mean 'adam'?", ", ".join(sorted(OPTIMIZERS))),
  ),
  (lambda: make_optimizer("sgd", 0), ValueError, words("learning_rate", "greater than 0, got 0.")),
  (lambda: make_optimizer("sgd", -1.0), ValueError, words("learning_rate", "than 0, got -1.0.")),
  (
    lambda: make_optimizer("sgd", np.nan),
    ValueError,
    words("learning_rate must be finite, got nan"),
  ),
  (lambda: make_optimizer("sgd", "1"), TypeError, words("learning_rate must be a number, got '1'")),
  (lambda: make_optimizer("sgd", 1, 0), ValueError, words("clip_norm", "greater than 0, got 0.")),
  (lambda: make_optimizer("sgd", 1, -2.0), ValueError, words("clip_norm", "than 0, got -2.0.")),
  (
    lambda: make_optimizer("sgd", 1, np.nan),
    ValueError,
    words("clip_norm must be finite, got nan"),
  ),
]


def windows(window):
  network, optimizer = DeepRNN([CELL], output_size=1), make_optimizer("sgd", 0.1)
  batch = Batch(XS, np.zeros((T, B, 1), np.float32), np.ones((T, B), bool))

  def run():
    state = init_state(network, optimizer, jax.random.key(0), batch.xs)
    return train_windows(network, optimizer, squared_error, state, batch, window)

  return functools.partial(jax.eval_shape, run)


WINDOWS = [
  (windows(0), ValueError, words("window must be at least 1, got 0.")),
  (windows(2.0), TypeError, words("window must be an integer, got 2.0.")),
  (windows(T + 1), ValueError, words("window must be at most the stream's 5 steps, got 6.")),
]


CASES = [*UNROLL, *MAKE_CELL, *DEEP_RNN, *PROBE, *TASK, *OPTIMIZER, *WINDOWS]


@pytest.mark.parametrize(
  ("call", "exception", "pattern"),
  CASES,
  ids=[pattern.replace("\\", "")[:50] for *_, pattern in CASES],
)
@pytest.mark.usefixtures("unchecked_types")
def test_error_names_the_argument_its_value_and_the_choices(call, exception, pattern):
  with pytest.raises(exception, match=pattern):
    call()


def test_bounds_themselves_are_allowed():
  loop(lengths=np.array([0, T, 1]), truncation=1)()
  unroll(ELMAN, ELMAN_PARAMS, XS, np.zeros((B, H)))  # float64, which JAX reads as float32
  adding(2, 1)
  copy_memory(21, 1)
  temporal_order(10, 1)
  charlm(4, 1, TINY)
  model(dropout=0.99)()
  make_optimizer("sgd", 1, np.inf)
  assert lanes(np.arange(3), 3).shape == (1, 3)
  windows(T)()
