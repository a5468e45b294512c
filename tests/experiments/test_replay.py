"""Tests of diverged runs: the recorded step, and the file from which that step is recomputed."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configured import make_run, make_settings, tasks_of
from train_all import train_all

from experiments import replay
from experiments.cli import command_line
from experiments.sweep.config.device_layout import Layout
from experiments.sweep.records.record import nonfinite_text
from experiments.sweep.training import divergence, replay_file
from experiments.sweep.training.program import compile_group
from experiments.sweep.training.run_setup import mask_key, network, numbers_of, optimizer_of
from rnn_jax.gradient_flow import NonFinite
from rnn_jax.tasks import adding
from rnn_jax.training import init_state, update

pytestmark = pytest.mark.usefixtures("optax_promotion")

T, B, STEP, TIME = 6, 4, 57, 3
SETTINGS = make_settings(110, "", 110)
ABOUT = {
  "task": "adding",
  "hidden_size": 3,
  "sequence_length": T,
  "batch_size": B,
  "steps": 110,
  "optimizer": "sgd",
}
RUNS = [
  make_run(truncation=4, seed=seed, learning_rate=0.05, clip_norm=None, **ABOUT) for seed in (0, 1)
]


def batch_key(seed, step):
  _, data_key = jax.random.split(jax.random.key(np.uint32(seed)))
  return jax.random.fold_in(data_key, step)


def planted_task():
  """Returns the adding problem with a NaN in run 0's batch of training step STEP, at time TIME."""
  task, bad_key = adding(T, B), jax.random.key_data(batch_key(RUNS[0].seed, STEP))

  def batch(data, key):
    drawn = task.batch(data, key)
    here = jnp.all(jax.random.key_data(key) == bad_key)
    return drawn._replace(xs=jnp.where(here, drawn.xs.at[TIME, 2, 1].set(jnp.nan), drawn.xs))

  return task._replace(batch=batch)


TASK = planted_task()
TASKS = tasks_of(TASK, T)


@pytest.fixture(scope="module")
def train():
  """Returns `train(*runs) -> results`, which trains one run at a time with one program."""
  with jax.numpy_dtype_promotion("standard"):
    layout = Layout(jax.local_devices()[:1])
    program = compile_group(RUNS, SETTINGS, TASKS, layout)
  return lambda *runs: train_all(runs, SETTINGS, TASKS, layout, program)


@pytest.fixture(scope="module")
def params_by_hand():
  """Run 0's params before training step STEP, computed by a plain loop of updates."""
  run = RUNS[0]
  with jax.numpy_dtype_promotion("standard"):
    numbers = numbers_of(run)
    model = network(run, 1, None)
    optimizer = optimizer_of(run, numbers)

    @jax.jit
    def train():
      params_key, data_key = jax.random.split(jax.random.key(numbers.seed))

      def advance(_, state):
        batch = TASK.batch((), jax.random.fold_in(data_key, state.step))
        return update(model, optimizer, TASK.loss, state, batch, truncation=numbers.truncation)[0]

      start = init_state(model, optimizer, params_key, TASK.batch((), data_key).xs)
      return jax.lax.fori_loop(0, STEP, advance, start)

    return train().params


def assert_kept(result, params_by_hand):
  assert result.diverged_step == STEP
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    result.snapshot.params,
    params_by_hand,
  )
  nonfinite = divergence.locate(divergence.diverged_step(result, TASK))
  assert nonfinite[:6] == ("forward", None, TIME, "xs", (2, 1), "nan")


def test_params_before_the_step_are_kept_and_the_nan_is_located(train, params_by_hand):
  diverged, finished = train(*RUNS)
  assert_kept(diverged, params_by_hand)
  assert finished.diverged_step is None and finished.snapshot is None
  assert len(finished.records.loss) == 111 and finished.records.finite.all()


def test_params_are_kept_with_shared_devices_and_shared_batches(params_by_hand):
  layout = Layout(jax.local_devices()[:2], data_parallel=2, runs_per_device=2)
  runs = RUNS[::-1]
  finished, diverged = train_all(runs, SETTINGS, TASKS, layout)
  assert_kept(diverged, params_by_hand)
  assert finished.diverged_step is None


def test_a_non_finite_update_is_the_first_non_finite_value(train):
  (result,) = train(make_run(seed=1, learning_rate=3e38, clip_norm=None, **ABOUT))
  assert result.diverged_step == 0 and np.isfinite(result.records.loss).all()
  nonfinite = divergence.locate(divergence.diverged_step(result, TASK))
  assert nonfinite.phase == "update" and nonfinite.value == "inf"


# Tests of the replay file


@pytest.fixture(scope="module")
def saved(train):
  """A run whose gradient explodes: (diverged step, first non-finite value, its replay.npz)."""
  with jax.numpy_dtype_promotion("standard"):
    wild = {"learning_rate": 50.0, "clip_norm": None, "recurrent_gain": 3.0}
    (result,) = train(make_run(seed=1, **wild, **ABOUT))
    diverged = divergence.diverged_step(result, TASK)
    nonfinite = divergence.locate(diverged)
  assert nonfinite is not None and nonfinite.overflow
  return diverged, nonfinite, replay_file.to_bytes(diverged, nonfinite)


def run_replay(capsys, *arguments):
  with pytest.raises(SystemExit) as ended:
    command_line.run(replay.main, ["replay", *map(str, arguments)])
  out, err = capsys.readouterr()
  return ended.value.code, out, err


def rewritten(data, **changes):
  """Returns the replay file `data` with some arrays replaced; those given as None are removed."""
  with np.load(io.BytesIO(data)) as archive:
    arrays = {**archive, **changes}
  file = io.BytesIO()
  np.savez(file, **{name: a for name, a in arrays.items() if a is not None})
  return file.getvalue()


def with_about(data, **changes):
  with np.load(io.BytesIO(data)) as archive:
    about = json.loads(str(archive["about"]))
  return rewritten(data, about=np.array(json.dumps({**about, **changes})))


def test_the_file_restores_the_step(saved, tmp_path):
  diverged, nonfinite, data = saved
  path = tmp_path / "replay.npz"
  path.write_bytes(data)
  loaded, stored, about = replay_file.load(path)
  assert stored == nonfinite
  assert (loaded.run, loaded.step) == (diverged.run, diverged.step)
  assert loaded.loss is diverged.loss
  assert jax.tree.structure(loaded.snapshot) == jax.tree.structure(diverged.snapshot)
  jax.tree.map(np.testing.assert_array_equal, loaded.snapshot, diverged.snapshot)
  assert about["versions"]["jax"] == jax.__version__


def test_the_step_is_computed_with_its_own_masks(saved, monkeypatch):
  diverged, _, _ = saved
  given = {}
  monkeypatch.setattr(divergence, "first_nonfinite", lambda *_, **options: given.update(options))
  divergence.locate(diverged._replace(step=7))
  _, data_key = jax.random.split(jax.random.key(np.uint32(diverged.run.seed)))
  assert jnp.all(jax.random.key_data(given["key"]) == jax.random.key_data(mask_key(data_key, 7)))


def test_the_network_is_restored_with_its_options_and_hidden_size(saved, tmp_path):
  diverged, nonfinite, _ = saved
  options = (("activation", "relu"), ("recurrent_kernel", "identity"))
  run = dataclasses.replace(diverged.run, options=options)
  path = tmp_path / "replay.npz"
  path.write_bytes(replay_file.to_bytes(diverged._replace(run=run), nonfinite))
  loaded, _, _ = replay_file.load(path)
  assert loaded.run == run
  cell = network(loaded.run, 1, None).cells[0]
  new = cell.update({}, jnp.zeros(3), jnp.full(3, -2.0), jnp.zeros(3))
  np.testing.assert_array_equal(new, np.zeros(3))  # ReLU(−2), where tanh would be negative
  path.write_bytes(with_about(path.read_bytes(), run=dataclasses.asdict(run) | {"hidden_size": 4}))
  with pytest.raises(ValueError, match="must be the intact replay"):
    replay_file.load(path)


def test_a_file_of_an_older_version_is_read(saved, tmp_path):
  diverged, _, data = saved
  path = tmp_path / "replay.npz"
  own = dataclasses.asdict(diverged.run)
  settings = {"corpus": "stdlib", **{name: own.pop(name) for name in ABOUT}}
  for name in ("layer_norm", "residual", "dropout", "zoneout"):
    del own[name]
  path.write_bytes(with_about(data, run=own, settings=settings))
  assert replay_file.load(path)[0].run == diverged.run
  path.write_bytes(
    with_about(data, run={**own, "hidden_size": 3}, settings={**settings, "hidden_size": None})
  )
  assert replay_file.load(path)[0].run == diverged.run


def test_replay_reproduces_the_first_non_finite_value(saved, tmp_path, capsys):
  diverged, nonfinite, data = saved
  path = tmp_path / "replay.npz"
  path.write_bytes(data)
  code, out, _ = run_replay(capsys, path)
  assert not code
  assert out == f"step {diverged.step}: {nonfinite_text(nonfinite)}\nreproduced.\n"


@pytest.mark.parametrize("time", [None, 4])
def test_replay_reports_what_is_not_reproduced(saved, tmp_path, capsys, time):
  _, nonfinite, data = saved
  other = {**nonfinite._asdict(), "phase": "forward", "time": time}
  path = tmp_path / "replay.npz"
  path.write_bytes(with_about(data, place=other, versions={"jax": "0.1"}))
  code, out, _ = run_replay(capsys, path)
  assert code == 1
  assert nonfinite_text(nonfinite) in out and "not reproduced; the record says: forward" in out
  assert f"jax is {jax.__version__} here; the run used 0.1." in out


def flipped(data):
  """Returns the replay file `data` with one bit of its params flipped."""
  name = "params.layers_0.cell.w_h.npy"
  info = zipfile.ZipFile(io.BytesIO(data)).getinfo(name)
  at = info.header_offset + 30 + len(name) + len(info.extra) + 140
  return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def npy(a):
  file = io.BytesIO()
  np.save(file, a)
  return file.getvalue()


class Trap:
  def __reduce__(self):
    return (pytest.fail, ("the file's code was run",))


PLACE = NonFinite("forward", None, 1, "xs", (2, 1), "nan", 1.0, False)._asdict()
DAMAGES = {
  "empty": lambda data: b"",
  "cut": lambda data: data[: len(data) // 2],
  "a bit": flipped,
  "text": lambda data: b"hello\n",
  "another array": lambda data: npy(np.zeros(3)),
  "pickle": lambda data: pickle.dumps(Trap()),
  "object array": lambda data: rewritten(data, about=np.array([Trap()], object)),
  "no params": lambda data: rewritten(data, **{"params.head.bias": None}),
  "no batch": lambda data: rewritten(data, **{"batch.mask": None}),
  "no about": lambda data: rewritten(data, about=None),
  "other shape": lambda data: rewritten(data, **{"params.head.bias": np.zeros(2, np.float32)}),
  "other dtype": lambda data: rewritten(data, **{"params.head.bias": np.zeros(1, np.int32)}),
  "other length": lambda data: rewritten(data, **{"batch.xs": np.zeros((T - 1, B, 2), np.float32)}),
  "flat batch": lambda data: rewritten(data, **{"batch.xs": np.zeros((T, B), np.float32)}),
  "no json": lambda data: rewritten(data, about=np.array("{")),
  "other json": lambda data: with_about(data, run={"cell": "elman"}),
  "a list": lambda data: rewritten(data, about=np.array("[]")),
  "other options": lambda data: with_about(
    data, run=dataclasses.asdict(RUNS[0]) | {"options": [["activation", "rleu"]]}
  ),
  "options of lists": lambda data: with_about(
    data, run=dataclasses.asdict(RUNS[0]) | {"options": [["activation", ["tanh"]]]}
  ),
  "other step": lambda data: with_about(data, step=2**40),
  "other loss": lambda data: with_about(data, loss="hinge"),
  "text in place": lambda data: with_about(data, place=PLACE | {"largest": "much"}),
  "other place": lambda data: with_about(data, place={"phase": "forward"}),
  "negative seed": lambda data: with_about(data, run={**dataclasses.asdict(RUNS[0]), "seed": -1}),
  "no versions": lambda data: with_about(data, versions=None),
  "precision": lambda data: with_about(data, matmul_precision="perfect"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_file_is_refused_in_one_line(saved, tmp_path, capsys, damage):
  path = tmp_path / "replay.npz"
  path.write_bytes(damage(saved[2]))
  code, out, err = run_replay(capsys, path)
  assert code == 2 and not out
  assert err.startswith("error: ") and err.count("\n") == 1


def test_compressed_arrays_are_not_expanded(saved, tmp_path):
  path = tmp_path / "replay.npz"
  np.savez_compressed(path, **{**np.load(io.BytesIO(saved[2])), "more": np.zeros(10**6)})
  with pytest.raises(ValueError, match="its arrays are larger than the file"):
    replay_file.load(path)


def test_wrong_arguments_are_refused_in_one_line(tmp_path, capsys):
  for arguments in ([], ["a", "b"], [tmp_path / "missing"], [tmp_path]):
    code, _, err = run_replay(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
