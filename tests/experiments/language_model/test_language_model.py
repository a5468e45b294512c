"""Tests of the language model command: training, evaluation and sampling."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
import types

import jax
import numpy as np
import pytest
from small_models import CHARACTERS, LINES, SMALL, TEXT

from experiments.language_model import __main__ as language_model
from experiments.language_model import run, trained_model, training
from experiments.language_model.flags import with_matched_width
from experiments.language_model.report import loss_text
from experiments.language_model.sample import sample
from experiments.language_model.settings import make_model
from experiments.language_model.texts import read_texts
from experiments.language_model.training import Chunk, Evaluation, make_evaluate
from rnn_jax.losses import cross_entropy
from rnn_jax.text import load_corpus, make_source, split

pytestmark = pytest.mark.usefixtures("optax_promotion")

DONE = Evaluation(40, 1.0, 1.0, 1.0, 1.0, {"w": np.zeros(2, np.float32)})


def test_training_beats_token_frequencies_and_writes_every_file(folder, kind):
  names = {path.name for path in folder.iterdir()}
  assert ("final" in names) == (kind == "characters")  # word models use a cosine schedule
  assert names - {"final"} == {
    "model.json",
    "language_model.flags",
    "metrics.jsonl",
    "checkpoints",
    "result.json",
    "training.png",
    ".lock",
  }
  assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
  result = json.loads((folder / "result.json").read_text())
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [20, 40]
  assert result["last"] == lines[-1]
  assert result["best"]["validation_loss"] == min(line["validation_loss"] for line in lines)
  assert result["best"]["validation_loss"] < 0.9 * result["baseline"]
  assert [path.name for path in (folder / "checkpoints").iterdir()] == [str(result["best"]["step"])]
  best = result["best"]
  assert best["perplexity"] == pytest.approx(math.exp(best["validation_loss"]), rel=1e-5)
  if kind != "words":
    bits = best["validation_loss"] / math.log(2)
    assert best["bits_per_character"] == pytest.approx(bits, rel=1e-5)


def test_the_held_out_loss_is_computed_on_one_stream(folder, tmp_path, program, capfd):
  """result.json, `--evaluate` and a single window over the whole text give the same loss."""
  trained = trained_model.load(folder)
  recorded = json.loads((folder / "result.json").read_text())["best"]["validation_loss"]
  source = read_texts(trained.settings, trained.vocabulary).held_out
  assert (
    make_evaluate(trained.model, trained.settings)(trained.variables["params"], source) == recorded
  )
  tokens = source.encode(source.symbols)[:, None]
  _, logits = jax.jit(trained.model.apply)(trained.variables, tokens[:-1])
  assert np.mean(cross_entropy(logits, tokens[1:])) == pytest.approx(recorded, rel=1e-5)
  path = tmp_path / "held_out.txt"
  path.write_bytes(split(np.frombuffer(TEXT, np.uint8), 0.1)[1].tobytes())
  assert program(f"--output_dir={folder}", f"--evaluate={path}") == 0
  assert f"{len(tokens)} tokens of {path}: {recorded:.4f} nats," in capfd.readouterr().out


@pytest.mark.parametrize("share", [0, 0.5])
@pytest.mark.parametrize("reading", ["windows", "lines"])
def test_training_and_evaluate_report_the_same_loss_of_a_short_text(
  reading, share, tmp_path, program, capfd
):
  """Metrics, result.json and `--evaluate` agree on a text of fewer tokens than a batch has."""
  text = LINES * 2
  path, folder = tmp_path / "text.txt", tmp_path / "model"
  path.write_bytes(text)
  flags = (
    f"--hidden_size=8 --window=40 --batch_size=32 --steps=20 --reading={reading} --dropout=0.2"
  )
  flags += f" --evaluate_every=10 --validation_share={share} --corpus={path}"
  assert program(*flags.split(), f"--output_dir={folder}") == 0
  said = capfd.readouterr().out
  evaluated = text[int(share * len(text)) :]
  name = "validation_loss" if share else "training_text_loss"
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  result = json.loads((folder / "result.json").read_text())
  assert result["best"] == result["last"] == lines[-1]
  loss = lines[-1][name]
  assert lines[-1]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)

  trained = trained_model.load(folder)
  source = make_source(load_corpus(path), trained.vocabulary)
  source = source._replace(symbols=np.frombuffer(evaluated, np.uint8))
  evaluate = make_evaluate(trained.model, trained.settings)
  assert evaluate(trained.variables["params"], source) == pytest.approx(loss, rel=1e-6)
  tokens = trained.vocabulary.encode(evaluated).astype(np.int32)[:, None]
  resets = None
  if reading == "lines":  # the text's first token, too, is predicted from an <eos>
    tokens = np.concatenate([[[trained.vocabulary.eos]], tokens]).astype(np.int32)
    resets = tokens[:-1] == trained.vocabulary.eos
  _, logits = jax.jit(trained.model.apply)(trained.variables, tokens[:-1], resets=resets)
  assert np.mean(cross_entropy(logits, tokens[1:])) == pytest.approx(loss, rel=1e-5)

  path.write_bytes(evaluated)
  assert program(f"--output_dir={folder}", f"--evaluate={path}") == 0
  printed = loss_text(loss, trained.settings)
  assert f"{len(evaluated)} tokens of {path}: {printed}" in capfd.readouterr().out
  assert f"Best after 20 updates: {printed} on {'held-out' if share else 'training'} text" in said


@CHARACTERS
def test_seconds_do_not_count_evaluations(folder, monkeypatch):
  now = 0.0

  def slow(params, source):
    nonlocal now
    now += 100
    return 1.0

  monkeypatch.setattr(training, "make_evaluate", lambda *args: slow)
  monkeypatch.setattr(training, "time", types.SimpleNamespace(monotonic=lambda: now))
  settings = dataclasses.replace(trained_model.load(folder).settings, steps=30, evaluate_every=10)
  texts = read_texts(settings)
  model = make_model(settings, texts.vocabulary.size)
  for chunk in training.train(settings, model, texts.read, texts.evaluated):
    now += 1  # what the caller does between chunks counts
    assert chunk.evaluation.seconds == chunk.step / 10 - 1
    assert chunk.progress().seconds == chunk.step / 10


@CHARACTERS
def test_a_model_trained_by_different_code_prints_a_warning(folder, tmp_path, program, capfd):
  copy = shutil.copytree(folder, tmp_path / "copy")
  about = json.loads((copy / "model.json").read_text())
  about["code"] |= {"rnn_jax/training.py": "0" * 64}
  (copy / "model.json").write_text(json.dumps(about))
  assert program(f"--output_dir={copy}", "--sample", "--length=1") == 0
  said = "this model was trained by different code: these files differ: rnn_jax/training.py ("
  assert said in capfd.readouterr().err
  assert program(f"--output_dir={folder}", "--sample", "--length=1") == 0
  assert "warning" not in capfd.readouterr().err


def test_too_little_held_out_and_too_much_training_text_print_a_warning(
  program, text, tmp_path, capfd, monkeypatch
):
  monkeypatch.setattr(run, "train", lambda *_: iter([Chunk(40, 1.0, DONE, None)]))
  flags = (*SMALL, f"--corpus={text}", "--schedule=cosine")
  few, many = "because only 260 tokens are held out", "reads all 2600 tokens of the training text"
  for share, most, said in (
    (0.1, 2599, few),
    (0.5, 2599, ""),
    (0, 2599, many),
    (0, 2600, ""),
  ):
    monkeypatch.setattr(language_model, "_MANY_TOKENS", most)
    folder = tmp_path / f"{share} {most}"
    assert program(*flags, f"--validation_share={share}", f"--output_dir={folder}") == 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == (said != "") and all(said in line for line in lines)


@CHARACTERS
def test_a_model_of_single_lines_starts_each_line_from_a_new_carry(folder):
  trained = trained_model.load(folder)
  settings = dataclasses.replace(trained.settings, reading="lines")
  text = b"the cat sat\nthe dog barked\n"
  source = read_texts(settings, trained.vocabulary).held_out._replace(
    symbols=np.frombuffer(text, np.uint8)
  )
  tokens = trained.vocabulary.encode(b"\n" + text).astype(np.int32)[:, None]
  resets = tokens == trained.vocabulary.eos
  apply = jax.jit(trained.model.apply)
  _, logits = apply(trained.variables, tokens[:-1], resets=resets[:-1])
  loss = float(np.mean(cross_entropy(logits, tokens[1:])))
  evaluate = make_evaluate(trained.model, settings)
  assert evaluate(trained.variables["params"], source) == pytest.approx(loss, rel=1e-5)
  lines = trained._replace(settings=settings)
  after = [
    b"".join(sample(lines, prime, 30, jax.random.key(0))).removeprefix(prime)
    for prime in (b"the", b"who sat?\nthe")
  ]
  assert after[0] == after[1]


@CHARACTERS
def test_flagfile_in_the_folder_trains_the_same_model(folder, tmp_path, program):
  again = tmp_path / "again"
  assert program(f"--flagfile={folder / 'language_model.flags'}", f"--output_dir={again}") == 0
  flags, other = ((f / "language_model.flags").read_text() for f in (folder, again))
  assert flags == other
  params, same = (trained_model.load(f).variables["params"] for f in (folder, again))
  jax.tree.map(np.testing.assert_array_equal, params, same)


@CHARACTERS
def test_cell_options_are_restored_and_in_the_flagfile(folder):
  trained = trained_model.load(folder)
  assert trained.settings.layers.options == (("activation", "relu"),)
  assert trained.model.cells[0].update({}, np.zeros(1), np.full(1, -3.0), np.ones(1))[0] == 0
  lines = (folder / "language_model.flags").read_text().splitlines()
  assert lines[:2] == ["--cell=elman", "--cell_option=activation=relu"]
  assert "--hidden_size=16" in lines and not any("match_params" in line for line in lines)


@CHARACTERS
@pytest.mark.parametrize(("embedding_size", "width"), [(None, 20), (5, 27)])
def test_hidden_size_matches_match_params(folder, embedding_size, width):
  settings = trained_model.load(folder).settings
  layers = dataclasses.replace(settings.layers, hidden_size=None, match_params=911)
  settings = dataclasses.replace(settings, layers=layers, embedding_size=embedding_size)
  # A layer of H units has H (25 + H + 1) params, or H (5 + H + 1) with an embedding of size 5;
  # `width` is the H for which this number is closest to 911.
  found = with_matched_width(settings, 25)
  assert (found.layers.hidden_size, found.layers.match_params) == (width, None)
  assert with_matched_width(found, 25) == found


@CHARACTERS
def test_a_model_saved_before_cell_options_existed_loads(folder, tmp_path):
  before = tmp_path / "before"
  shutil.copytree(folder, before)
  about = json.loads((folder / "model.json").read_text())
  del about["settings"]["layers"]["options"], about["settings"]["layers"]["match_params"]
  (before / "model.json").write_text(json.dumps(about))
  assert trained_model.load(before).settings.layers.options == ()


def test_a_sample_continues_its_prime_and_depends_on_the_seed_alone(folder, program, capfdbinary):
  flags = (f"--output_dir={folder}", "--sample", "--prime=the cat", "--length=130")
  samples = []
  for seed in (0, 0, 1):
    assert program(*flags, f"--seed={seed}") == 0
    samples.append(capfdbinary.readouterr().out)
  assert samples[0] == samples[1] != samples[2]
  assert all(sample.startswith(b"the cat") for sample in samples)
  written = trained_model.load(folder).vocabulary.encode(samples[0])
  assert 130 <= len(written) <= 130 + len(b"the cat\n")


@CHARACTERS
def test_control_characters_in_a_sample_are_escaped_on_a_terminal(
  folder, program, capfdbinary, monkeypatch
):
  pieces = b"\x1b[31m\xc3", b"\xa9\n"
  monkeypatch.setattr(language_model, "sample", lambda *args, **kwargs: iter(pieces))
  for is_terminal, shown in ((False, b"".join(pieces)), (True, rb"\x1b[31m" + "é\n".encode())):
    monkeypatch.setattr(sys.stdout, "isatty", lambda value=is_terminal: value)
    assert program(f"--output_dir={folder}", "--sample") == 0
    assert capfdbinary.readouterr().out == shown


@CHARACTERS
def test_until_eos_ends_a_sample_after_one_line(folder, program, capfdbinary):
  flags = (f"--output_dir={folder}", "--sample", "--prime=the", "--length=300")
  assert program(*flags) == 0
  whole = capfdbinary.readouterr().out
  assert whole.count(b"\n") > 1
  assert program(*flags, "--until_eos") == 0
  assert capfdbinary.readouterr().out == whole[: whole.index(b"\n") + 1]


@CHARACTERS
def test_temperature_0_equals_top_k_1(folder, program, capfdbinary):
  flags = (f"--output_dir={folder}", "--sample", "--prime=the", "--length=50")
  samples = []
  for option in ("--temperature=0", "--top_k=1"):
    assert program(*flags, option) == 0
    samples.append(capfdbinary.readouterr().out)
  assert samples[0] == samples[1]


def test_evaluation_of_another_file(folder, kind, tmp_path, program, capfd):
  known, unknown = tmp_path / "known.txt", tmp_path / "unknown.txt"
  known.write_bytes(LINES)
  unknown.write_bytes(b"the zebra sat on the mat.\n")
  assert program(f"--output_dir={folder}", f"--evaluate={known}") == 0
  assert "nats" in capfd.readouterr().out
  flags = (f"--output_dir={folder}", f"--evaluate={unknown}")
  if kind == "words":
    assert program(*flags) == 0
    assert "unknown words: 12.50%" in capfd.readouterr().out
  else:
    assert program(*flags) == 2
    assert "--evaluate: text holds 'z' at byte 4, not in the vocabulary." in capfd.readouterr().err


# Tests of unusual texts and training runs.


def test_a_text_of_one_character_is_learned(program, tmp_path, capfdbinary):
  path, folder = tmp_path / "a.txt", tmp_path / "model"
  path.write_bytes(b"a" * 400)
  assert (
    program(*SMALL, "--cell=elman", "--steps=20", f"--corpus={path}", f"--output_dir={folder}") == 0
  )
  assert b"0.0000 nats" in capfdbinary.readouterr().out
  assert program(f"--output_dir={folder}", "--sample", "--prime=a", "--length=3") == 0
  assert capfdbinary.readouterr().out == b"aaaa\n"
  # A sample without --prime starts a new line, which needs a line end in the vocabulary.
  assert program(f"--output_dir={folder}", "--sample") == 2
  assert (
    b"--prime needs a model whose training text contains a line end, got ''"
    in capfdbinary.readouterr().err
  )


def test_params_with_a_nan_held_out_loss_are_not_saved(program, text, tmp_path, monkeypatch):
  """The last update can make the params non-finite although the loss before it was finite."""
  params = {"w": np.zeros(2, np.float32)}
  calls = [
    Chunk(20, 2.0, Evaluation(20, 2.0, 1.0, 2.5, 1.0, params), None),
    Chunk(40, 1.0, Evaluation(40, 1.0, 1.0, math.nan, 2.0, params), None),
  ]
  monkeypatch.setattr(run, "train", lambda *_: iter(calls))
  assert program(*SMALL, f"--corpus={text}", f"--output_dir={tmp_path / 'model'}") == 0
  result = json.loads((tmp_path / "model" / "result.json").read_text())
  assert result["best"]["step"] == 20 and result["diverged"]
  assert [path.name for path in (tmp_path / "model" / "checkpoints").iterdir()] == ["20"]


@CHARACTERS
def test_a_new_training_deletes_the_files_of_the_previous_one(folder, tmp_path):
  trained = trained_model.load(folder)
  for name in ("metrics.jsonl", "training.png"):
    (tmp_path / name).write_text("old")
  trained_model.start(tmp_path, trained.settings, trained.vocabulary, "", {})
  assert {path.name for path in tmp_path.iterdir()} == {"model.json", "language_model.flags"}


@CHARACTERS
def test_the_vocabulary_holds_words_of_the_training_part_only(folder, tmp_path):
  """The training half of the text has 10 long words; the held-out half has 100 short ones."""
  settings = trained_model.load(folder).settings
  path = tmp_path / "words.txt"
  path.write_bytes(b"".join(b"%019d " % i for i in range(10)) + b"a " * 100)
  settings = dataclasses.replace(
    settings, corpus=str(path), level="word", min_count=1, validation_share=0.5, window=2
  )
  texts = read_texts(settings)
  np.testing.assert_array_equal(np.sort(texts.train.symbols), 2 + np.arange(10))
  np.testing.assert_array_equal(texts.held_out.symbols, np.full(100, texts.vocabulary.unk))
