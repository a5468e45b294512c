"""Tests of the sequence problem command: its flags, its training and its evaluation."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.networks.layers import Layers
from experiments.sequence_problem import __main__ as sequence_problem
from experiments.sequence_problem import evaluation, training
from experiments.sequence_problem import problem as problem_module
from experiments.sequence_problem.problem import make_problem
from experiments.sequence_problem.settings import PROBLEMS, Settings
from rnn_jax.text.python_source import CLASSES
from rnn_jax.training import TrainState

pytestmark = pytest.mark.usefixtures("optax_promotion")

FLAGFILES = Path(__file__).parents[3] / "experiments" / "flagfiles"
TINY = ("--cell=elman", "--depth=1", "--hidden_size=3", "--batch_size=2", "--steps=3")
LAYERS = Layers("elman", 1, 2, 0, False, False, 0.2, "step", ())
SETTINGS = Settings(
  problem="encoder_decoder",
  corpus="stdlib",
  order="sort",
  sequence_length=3,
  bidirectional="none",
  pooled=False,
  learned_carry=False,
  truncation=2,
  batch_size=4,
  steps=4,
  learning_rate=0.01,
  clip_norm=None,
  seed=7,
  layers=LAYERS,
)


@pytest.fixture
def call(monkeypatch, program_here):
  """A function `(*flags) -> exit status` that runs the command in this process."""
  monkeypatch.setattr(problem_module, "_MAX_TEST_SIZE", 20)
  return lambda *given: program_here(sequence_problem, *given)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_flagfile_trains_and_writes_a_result(problem, call, tmp_path, capsys):
  # A small file is read, because tokenizing the standard library would take a second.
  text = (f"--corpus={evaluation.__file__}",) if problem == "many_to_many" else ()
  file = FLAGFILES / f"{problem}.flags"
  assert call(f"--flagfile={file}", *TINY, *text, f"--output_dir={tmp_path}") == 0
  result = json.loads((tmp_path / "result.json").read_text())
  assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
  assert result["settings"]["problem"] == problem
  assert math.isfinite(result["loss"])
  assert 0 <= result["accuracy"] <= 1
  assert len(result["examples"]) == evaluation.NUM_EXAMPLES
  assert result["versions"].keys() >= {"jax", "scikit-learn"}
  printed = capsys.readouterr().out
  assert f"baseline {result['baseline']:.4f}" in printed
  assert f"accuracy {result['accuracy']:.4f}" in printed
  assert ("published" in result) == (problem in ("one_to_one", "many_to_one"))
  assert ("sampled_accuracy" in result) == (problem in ("one_to_many", "encoder_decoder"))


@pytest.fixture
def noted(monkeypatch):
  """The keyword arguments that `update` was called with.

  `update` is replaced by a function that trains nothing, and whose loss is a checksum of the
  batch's targets and of the random key for the masks. From the fifth update on, the loss is
  infinite.
  """
  options = {}

  def learn(model, optimizer, loss, state, batch, **given):
    options.update(given)
    masks = jax.random.key_data(given["key"])
    value = jnp.sum(batch.targets) + jnp.sum(masks % 5).astype(jnp.int32)
    state = state.replace(step=state.step + 1)
    return state, None, types.SimpleNamespace(loss=value.astype(float) / (state.step < 5))

  nothing = TrainState(jnp.zeros((), jnp.int32), {}, ())
  monkeypatch.setattr(training, "init_state", lambda *_: nothing)
  monkeypatch.setattr(training, "update", learn)
  monkeypatch.setattr(training, "_CHUNK", 3)
  return options


def test_every_update_draws_a_new_batch_and_new_masks(noted):
  problem = make_problem(SETTINGS)
  keys = training.Keys(*jax.random.split(jax.random.key(7), 4))
  calls = []
  _, last = training.train(SETTINGS, problem, keys, lambda *call: calls.append(call))

  def expected(step):
    batch = problem.train.batch((), jax.random.fold_in(keys.data, step))
    masks = jax.random.key_data(jax.random.fold_in(keys.masks, step))
    return jnp.sum(batch.targets) + jnp.sum(masks % 5).astype(jnp.int32)

  losses = jax.jit(jax.vmap(expected))(jnp.arange(4))
  assert noted["truncation"] == 2
  assert [step for step, _ in calls] == [3, 4]
  np.testing.assert_allclose([loss for _, loss in calls], [np.mean(losses[:3]), losses[3]])
  assert last == calls[-1][1]


def test_divergence_is_reported_in_one_line(noted, call, tmp_path, capsys):
  given = ("--problem=encoder_decoder", "--dropout=0.1", "--steps=9", f"--output_dir={tmp_path}")
  assert call(*given) == 2
  assert "error: The training diverged before update 6. Try" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("problem", "bidirectional", "wanted", "width"),
  [
    ("encoder_decoder", "none", 830, 10),  # params: 2 (H (9 + H + 1) + H (2 H + 1)) = 820
    ("many_to_one", "none", 900, 17),  # params: H (1 + H + 1) + H (2 H + 1) = 918
    ("many_to_one", "sum", 900, 12),  # params: 2 (H (1 + H + 1) + H (2 H + 1)) = 936
    ("many_to_one", "concat", 850, 10),  # params: 2 (H (1 + H + 1) + H (3 H + 1)) = 860
  ],
)
def test_hidden_size_matches_match_params(problem, bidirectional, wanted, width, monkeypatch):
  monkeypatch.setattr(problem_module, "_MAX_TEST_SIZE", 20)
  options = (("activation", "relu"),)
  layers = dataclasses.replace(LAYERS, depth=2, hidden_size=None, options=options)
  layers = dataclasses.replace(layers, match_params=wanted)
  settings = dataclasses.replace(
    SETTINGS, problem=problem, bidirectional=bidirectional, layers=layers, sequence_length=None
  )
  problem = make_problem(settings)
  assert problem.layers == dataclasses.replace(layers, hidden_size=width, match_params=None)
  leaves = jax.tree_util.tree_leaves_with_path(zeros_of(problem))
  number = sum(a.size for path, a in leaves if "layers_" in jax.tree_util.keystr(path))
  assert abs(number - wanted) <= 0.05 * wanted


def zeros_of(problem):
  """Returns all-zero params for the problem's network, with which every logit is zero."""
  key, task = jax.random.key(0), problem.train
  xs = jax.eval_shape(task.batch, task.data, key).xs
  shapes = jax.eval_shape(problem.model.init, key, xs)["params"]
  return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)


def test_tagging_is_evaluated_over_the_characters_of_all_lines(tmp_path):
  file = tmp_path / "x.py"
  file.write_text("".join(f"if a{'b' * i}: x = {i}\n" for i in range(20)))
  settings = dataclasses.replace(
    SETTINGS, problem="many_to_many", corpus=str(file), sequence_length=40, bidirectional="sum"
  )
  problem = make_problem(settings)
  metrics = evaluation.evaluate(settings, problem, zeros_of(problem), jax.random.key(0))
  held_out = [f"if a{'b' * i}: x = {i}\n" for i in range(16, 20)]
  spaces = sum(line.count(" ") + 1 for line in held_out) / sum(map(len, held_out))
  assert metrics["held_out"] == 4
  assert metrics["accuracy"] == pytest.approx(spaces)
  assert metrics["loss"] == pytest.approx(math.log(len(CLASSES)), rel=1e-5)
  assert metrics["baseline"] > 1 > metrics["baseline_given_character"] == 0
  example = next(e for e in metrics["examples"] if e["text"].endswith("16·"))
  assert example["classes"] == "kk." + "n" * 17 + "o.n.o.00."
  assert example["answer"] == "." * 29
  text, classes = evaluation.summary({**metrics, "examples": [example]})[2:4]
  assert text.index(example["text"]) == classes.index(example["classes"])


def test_a_generated_sequence_is_correct_if_all_its_tokens_are(monkeypatch):
  monkeypatch.setattr(problem_module, "_MAX_TEST_SIZE", 20)
  problem = make_problem(SETTINGS)

  def decode(model, variables, xs, key, num_steps, *, eos, temperature=1.0):
    targets = jnp.concatenate([xs.tokens[1:], jnp.zeros((1, 20), jnp.int32)])
    assert num_steps == len(targets)
    # One of the 20 greedy sequences, and 10 of the sampled ones, lack their <eos>.
    wrong = jnp.arange(20) < (1 if temperature == 0 else 10)
    return targets + ((jnp.arange(4)[:, None] == xs.source_lengths[None]) & wrong[None])

  monkeypatch.setattr(evaluation, "decode", decode)
  metrics = evaluation.evaluate(SETTINGS, problem, zeros_of(problem), jax.random.key(0))
  assert metrics["accuracy"] == 19 / 20
  assert metrics["sampled_accuracy"] == 10 / 20
  first, second = metrics["examples"][:2]
  assert first["target"] == "".join(sorted(first["source"]))
  assert first["greedy"] == first["target"] + "1"
  assert second["greedy"] == second["target"]


BAD = [
  ("--problem=one_to_all", "did you mean 'one_to_many'?"),
  ("--pooled --problem=one_to_one", "--pooled applies to many_to_one only, got True with"),
  (
    "--problem=one_to_many --bidirectional=sum",
    "--bidirectional applies to many_to_one and many_to",
  ),
  ("--problem=one_to_one --truncation=1", "--truncation applies to one_to_many, many_to_one,"),
  (
    "--problem=one_to_one --sequence_length=9",
    "--sequence_length applies to many_to_one, many_to_many and",
  ),
  ("--order=sort", "--order applies to encoder_decoder only, got sort with --problem=many_to_one"),
  ("--corpus=x.py", "--corpus applies to many_to_many only, got x.py with"),
  ("--bidirectional=sum --truncation=5", "--truncation must be full with --bidirectional=sum"),
  ("--bidirectional=sum --learned_carry", "--learned_carry must be false with --bidirectional"),
  ("--bidirectional=concat --residual --depth=2", "--residual must be false with --bidirectional"),
  ("--bidirectional=both", "bidirectional 'both'"),
  ("--sequence_length=28", "--sequence_length must be 64, the pixels of an image, got 28."),
  ("--batch_size=1000", "--batch_size must be at most the 898 examples of part train, got 1000."),
  ("--problem=many_to_many --corpus=missing.py", "--corpus must be a file that exists"),
  ("--problem=many_to_many --corpus={tmp}/no.py", "no.py: text must be Python source"),
  (
    "--problem=many_to_many --corpus={tmp}/two.py --sequence_length=1",
    "--sequence_length must be at least 2, the shortest line of part train, got 1.",
  ),
  ("--hidden_size=2147483647", "must fit into this machine's"),
  ("--cell=gru --cell_option=reset=x", "--cell=gru --cell_option=reset=x: Unknown reset 'x'"),
  ("--match_params=3", "the nearest one of lstm, depth 1 is 1, with 12 params, got 3."),
  ("--problem=encoder_decoder --sequence_length=2147483647", "must fit into this machine's"),
  ("--steps=0", "steps must be an integer from 1"),
  ("--output_dir=", "--output_dir must name a folder"),
  ("--output_dir={tmp}/no.py", "--output_dir could not be written"),
  ("leftover", "Arguments must be flags, --name=value, got 'leftover'."),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[given for given, _ in BAD])
def test_wrong_input_is_reported_in_one_line(given, message, call, tmp_path, capsys):
  (tmp_path / "no.py").write_text("x = (\n")
  (tmp_path / "two.py").write_text("x\ny\n")
  given = given.format(tmp=tmp_path).split(" ")
  assert call(f"--output_dir={tmp_path / 'out'}", *given) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.startswith("error: ")
  assert error.count("\n") == 1
  assert not (tmp_path / "out").exists()
