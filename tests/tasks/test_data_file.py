"""Tests of the task `data_file`: what it reads, checks, holds out and pads, and its baselines."""

from __future__ import annotations

import hashlib
import math
import zipfile

import jax
import numpy as np
import pytest

from rnn_jax.tasks import data_file, load_data_file

N, T = 23, 5
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(N, T, 2))
TOKENS = np.column_stack([7 + np.arange(N), RANDOM.integers(0, 30, (N, T - 1))])
LENGTHS = 1 + np.arange(N) % T
LAST_CLASSES, CLASSES = np.arange(N) % 3, RANDOM.integers(0, 3, (N, T))
LAST = np.tile(np.arange(T) == T - 1, (N, 1))
LAST_VALUES, VALUES = RANDOM.normal(size=(N, 4)), RANDOM.normal(size=(N, T, 4))
OFTEN = [0.1, 0.5, 0.8]
LAST_LABELS, LABELS = RANDOM.random((N, 3)) < OFTEN, RANDOM.random((N, T, 3)) < OFTEN
TARGETS = [LAST_CLASSES, CLASSES, LAST_VALUES, VALUES, LAST_LABELS, LABELS]
DTYPES = {"f": np.float32, "i": np.int32, "b": np.bool_}


def loaded(folder, **arrays):
  np.savez(folder / "data.npz", **arrays)
  return load_data_file(folder / "data.npz")


def batches(data):
  """Returns the batches of all training and of all held-out sequences, batch-major."""
  task = data_file(T, None, data)
  both = (jax.jit(task.batch)(part, jax.random.key(0)) for part in (task.data, task.held_out))
  return [jax.tree.map(lambda a: np.swapaxes(a, 0, 1), batch) for batch in both]


def rows(*arrays):
  """Returns the sequences of several arrays [N, ...], each as bytes, sorted."""
  return sorted(b"".join(np.ascontiguousarray(a[i]).tobytes() for a in arrays) for i in range(N))


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("xs", [VECTORS, TOKENS])
def test_every_sequence_is_shown_once_with_its_targets(xs, targets, tmp_path):
  data = loaded(tmp_path, xs=xs, targets=targets)
  assert data.sha256 == hashlib.sha256((tmp_path / "data.npz").read_bytes()).hexdigest()
  assert (len(data.train.xs), len(data.held_out.xs)) == (20, 3)  # a tenth, rounded up
  train, held_out = batches(data)
  found = [np.concatenate(pair) for pair in zip(train[:3], held_out[:3], strict=True)]
  xs, targets = (a.astype(DTYPES[a.dtype.kind]) for a in (xs, targets))
  every_step = data.every_step
  assert every_step == (targets.shape[1:2] == (T,))
  shown = found[1] if every_step else found[1][:, -1]
  assert rows(found[0], shown) == rows(xs, targets)
  if not every_step:
    assert np.all(found[1] == found[1][:, -1:])
  np.testing.assert_array_equal(found[2], np.ones((N, T), bool) if every_step else LAST)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("xs", [VECTORS, TOKENS])
def test_shorter_sequences_end_at_the_last_step_after_padding(xs, targets, tmp_path):
  # What follows a sequence is ignored, even if it is invalid.
  ignored = np.arange(T) >= LENGTHS[:, None]
  xs, targets = np.copy(xs), np.copy(targets)
  every_step = targets.shape[1:2] == (T,)
  for given in (xs, targets) if every_step else (xs,):
    given[ignored] = np.nan if given.dtype.kind == "f" else -100
  tests = {"test_xs": xs, "test_targets": targets, "test_lengths": LENGTHS}
  data = loaded(tmp_path, xs=xs[:4], targets=targets[:4], lengths=LENGTHS[:4], **tests)
  assert data.vocabulary_size == (None if xs.ndim == 3 else 31)
  _, batch = batches(data)
  # The batch has the sequences in another order.
  by_content = {data.held_out.xs[i].tobytes(): i for i in range(N)}
  assert len(by_content) == N
  for row, target, mask in zip(batch.xs, batch.targets, batch.mask, strict=True):
    i = by_content[np.ascontiguousarray(row).tobytes()]
    n = LENGTHS[i]
    np.testing.assert_array_equal(row[T - n :], xs[i, :n].astype(row.dtype))
    assert np.all(row[: T - n] == (0 if xs.ndim == 3 else 30))
    wanted = targets[i, :n] if every_step else np.broadcast_to(targets[i], target[T - n :].shape)
    np.testing.assert_array_equal(target[T - n :], wanted.astype(target.dtype))
    np.testing.assert_array_equal(mask, np.arange(T) >= (T - n if every_step else T - 1))


def test_the_file_may_hold_the_held_out_sequences(tmp_path):
  data = loaded(
    tmp_path, xs=TOKENS, targets=CLASSES, test_xs=TOKENS[:2] + 5, test_targets=CLASSES[:2] + 1
  )
  np.testing.assert_array_equal(data.train.xs, TOKENS)
  np.testing.assert_array_equal(data.held_out.xs, TOKENS[:2] + 5)
  np.testing.assert_array_equal(data.held_out.targets, CLASSES[:2] + 1)
  assert data.vocabulary_size == 1 + max(TOKENS.max(), (TOKENS[:2] + 5).max())
  assert data.output_size == 1 + max(CLASSES.max(), (CLASSES[:2] + 1).max())


def test_the_split_is_the_same_for_all_files_of_a_length(tmp_path):
  marks = np.arange(30).reshape(-1, 1)
  held_out = loaded(tmp_path, xs=marks, targets=marks[:, 0]).held_out.xs[:, 0]
  # NumPy's first numbers for this seed; other ones would change the meaning of recorded losses.
  assert held_out.tolist() == sorted(np.random.RandomState(0).permutation(30)[:3].tolist())
  assert held_out.tolist() == [2, 13, 28]


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_baselines_are_those_of_the_training_targets_that_count(lengths, tmp_path):
  given = {} if lengths is None else {"lengths": lengths, "test_lengths": lengths[:1]}
  valid = np.arange(T) < (np.full(N, T) if lengths is None else lengths)[:, None]
  for targets, counted, unit in (
    (LAST_CLASSES, LAST_CLASSES, "nats"),
    (CLASSES, CLASSES[valid], "nats per step"),
    (LAST_VALUES, LAST_VALUES, "squared error"),
    (VALUES, VALUES[valid], "squared error per step"),
    (LAST_LABELS, LAST_LABELS, "nats"),
    (LABELS, LABELS[valid], "nats per step"),
  ):
    tests = {"test_xs": VECTORS[:1], "test_targets": targets[:1]}
    data = loaded(tmp_path, xs=VECTORS, targets=targets, **tests, **given)
    if targets.dtype == bool:
      p = counted.mean(axis=0)
      guess = np.log(p / (1 - p))
      expected = -sum(q * math.log(q) + (1 - q) * math.log(1 - q) for q in p)
    elif unit.startswith("nats"):
      p = np.bincount(counted) / len(counted)
      guess = np.log(p)
      expected = -sum(q * math.log(q) for q in p)
    else:
      guess = counted.mean(axis=0)
      expected = counted.var(axis=0).sum()
    assert data.baseline == pytest.approx(expected, rel=1e-6)
    task = data_file(T, N, data)
    assert task.unit == unit
    # The guess itself has this loss, over the steps that count.
    batch = jax.device_get(task.batch(task.data, jax.random.key(0)))
    outputs = np.broadcast_to(guess.astype(np.float32), (T, N, len(guess)))
    losses = np.asarray(task.loss(outputs, batch.targets))
    assert losses[batch.mask].mean() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("targets", [LAST_LABELS, LABELS])
def test_labels_that_are_known_have_no_loss(targets, tmp_path):
  data = loaded(tmp_path, xs=VECTORS, targets=targets, lengths=LENGTHS)
  assert data.output_size == 3
  task = data_file(T, None, data)
  batch = task.batch(task.data, jax.random.key(0))
  assert batch.targets.dtype == bool
  np.testing.assert_array_equal(task.loss(np.where(batch.targets, 200, -200) / 1, batch.targets), 0)
  # Logits of 0 leave ln 2 for each label.
  np.testing.assert_allclose(task.loss(np.zeros((T, 20, 3)), batch.targets), 3 * math.log(2))


def test_a_label_that_never_changes_adds_nothing_to_the_baseline(tmp_path):
  constant = np.broadcast_to([False, True, True], (N, 3))
  both = np.concatenate([constant, LAST_LABELS], axis=1)
  one, other = (loaded(tmp_path, xs=VECTORS, targets=targets) for targets in (LAST_LABELS, both))
  assert (one.output_size, other.output_size) == (3, 6)
  assert other.baseline == one.baseline


def test_integers_and_half_precision_become_float32(tmp_path):
  for kind in (np.uint8, np.int64, np.bool_, np.float16, np.float64):
    data = loaded(tmp_path, xs=np.arange(24).reshape(4, 3, 2).astype(kind), targets=np.arange(4))
    assert data.train.xs.dtype == np.float32
    assert data.train.xs.max() <= 23
    assert data.vocabulary_size is None


def test_bytes_that_are_no_arrays_are_refused(tmp_path):
  file = tmp_path / "data.npz"
  np.savez(file, xs=VECTORS, targets=CLASSES)
  whole = bytearray(file.read_bytes())
  for place in (100, len(whole) // 2):
    changed = whole.copy()
    changed[place] ^= 255
    file.write_bytes(changed)
    with pytest.raises(ValueError, match="data_file must hold arrays of numbers, but its xs"):
      load_data_file(file)
  for content in (b"", b"text", bytes(whole[:100]), bytes(whole[:-30])):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"data_file must be an \.npz file, as numpy\.savez"):
      load_data_file(file)
  np.savez(file, xs=VECTORS, targets=np.array([None] * N, object))
  with pytest.raises(ValueError, match=r"its targets cannot be read .*allow_pickle=False"):
    load_data_file(file)
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("readme.txt", "x")
  with pytest.raises(ValueError, match=r"its readme\.txt cannot be read"):
    load_data_file(file)


X, Y = VECTORS, LAST_CLASSES
NAN = np.where(np.arange(T)[:, None] == 3, [1, np.nan], X)
WRONG = [
  ({"xs": X}, "array targets is missing, got xs."),
  ({"targets": Y}, "array xs is missing, got targets."),
  ({"xs": X, "target": Y}, "Unknown array 'target'; did you mean 'targets'?"),
  ({"xs": X, "targets": Y, "test_xs": X}, "array test_targets is missing"),
  ({"xs": X[:0], "targets": Y[:0]}, "xs must not be empty, got float64[0, 5, 2]."),
  ({"xs": X[:1], "targets": Y[:1]}, "xs must hold at least 2 sequences"),
  ({"xs": X[..., 0], "targets": Y}, "For one number a step, save xs[..., None]."),
  ({"xs": X[:, 0, 0], "targets": Y}, "xs must be vectors [N, T, D] or integer tokens [N, T]"),
  ({"xs": X * 1j, "targets": Y}, "xs must hold floats, integers or booleans, got complex128["),
  (
    {"xs": X, "targets": Y.astype(str)},
    "targets must hold floats, integers or booleans, got <U21[23].",
  ),
  ({"xs": NAN, "targets": Y}, "xs must be finite in float32, got nan in xs[0, 3, 1]."),
  ({"xs": X * 1e200, "targets": Y}, "xs must be finite in float32, got"),
  ({"xs": TOKENS - 9, "targets": Y}, "xs must hold integers from 0 to 2147483646, got -9 to 20."),
  ({"xs": X, "targets": Y[1:]}, "targets must hold targets of the 23 sequences of xs"),
  ({"xs": X, "targets": Y - 1}, "targets must hold integers from 0"),
  ({"xs": X, "targets": Y + 1}, "targets must be classes from 0, got 1 to 3."),
  ({"xs": X, "targets": 0 * Y}, "targets must differ between training sequences or steps"),
  ({"xs": X, "targets": np.ones((N, 2))}, "targets must differ between training sequences"),
  ({"xs": X, "targets": Y[:, None]}, "must be classes [N] or [N, T], with T = 5, got int64[23, 1]"),
  (
    {"xs": X, "targets": LABELS.astype(np.uint8)},
    "targets of integers must be classes [N] or [N, T], with T = 5, got uint8[23, 5, 3]. Save "
    "values as floats, and labels as booleans.",
  ),
  ({"xs": X, "targets": Y / 2}, "For one value for each sequence, save targets[..., None]."),
  ({"xs": X, "targets": X[..., 0]}, "For one value a step, save targets[..., None]."),
  ({"xs": X, "targets": X[:, 1:]}, "targets of floats must be values [N, O] or [N, T, O]"),
  (
    {"xs": X, "targets": Y > 0},
    "integers. For one label for each sequence, save targets[..., None].",
  ),
  ({"xs": X, "targets": CLASSES > 0}, "For one label a step, save targets[..., None]."),
  (
    {"xs": X, "targets": LABELS[:, 1:]},
    "targets of booleans must be labels [N, K] or [N, T, K], with T = 5, got bool[23, 4, 3].",
  ),
  ({"xs": X, "targets": LABELS | True}, "targets must differ between training sequences or steps"),
  ({"xs": X, "targets": Y, "lengths": LENGTHS - 1}, "lengths must be from 1 to the 5 steps"),
  ({"xs": X, "targets": Y, "lengths": LENGTHS + 1}, "a sequence, got 2 to 6."),
  ({"xs": X, "targets": Y, "lengths": LENGTHS / 1}, "lengths must be integers [N], one for each"),
  ({"xs": X, "targets": Y, "lengths": LENGTHS[1:]}, "one for each of the 23 sequences"),
  (
    {"xs": X, "targets": Y, "test_xs": X[:, 1:], "test_targets": Y},
    "test_xs must have the kind and shape of xs, except for the number of sequences",
  ),
  (
    {"xs": X, "targets": Y, "test_xs": X, "test_targets": CLASSES},
    "test_targets must have the kind and shape of targets",
  ),
  (
    {"xs": X, "targets": LABELS, "test_xs": X, "test_targets": LABELS.astype(float)},
    "except for the number of sequences: bool[23, 5, 3], got float32[23, 5, 3].",
  ),
]


@pytest.mark.parametrize(("arrays", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_arrays_are_named(arrays, message, tmp_path):
  with pytest.raises(ValueError) as caught:
    loaded(tmp_path, **arrays)
  assert message in str(caught.value)
  assert str(caught.value).startswith(f"data_file {tmp_path / 'data.npz'}: ")


def test_a_path_that_is_no_file_is_refused(tmp_path):
  for path, message in (
    (tmp_path, "data_file must be a file, got the folder"),
    (tmp_path / "missing", "data_file must be a file that exists"),
    ("/dev/null", "data_file must be a file on disk"),
  ):
    with pytest.raises(ValueError, match=message):
      load_data_file(path)


@pytest.mark.usefixtures("unchecked_types")
def test_wrong_arguments_are_named(tmp_path):
  data = loaded(tmp_path, xs=X, targets=Y)
  with pytest.raises(TypeError, match="data_file must be a path, got 3"):
    load_data_file(3)
  with pytest.raises(TypeError, match="data must be a DataFile, from load_data_file, got"):
    data_file(T, 1, X)
  with pytest.raises(ValueError, match=r"sequence_length must be 5, the time steps of .*, got 6"):
    data_file(6, 1, data)
  with pytest.raises(ValueError, match="at most the 20 examples of part train, got 21"):
    data_file(T, 21, data)
