"""Tests of the states command: from a model's folder to the page, and its errors."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_model import trained_model
from experiments.language_model.settings import Settings, make_model
from experiments.networks.layers import Layers
from experiments.states import __main__ as states
from experiments.states.text_pieces import text_pieces
from experiments.states.unit_values import read
from rnn_jax import DeepRNN, make_cell, step
from rnn_jax.gradient_flow import gate_values
from rnn_jax.losses import cross_entropy
from rnn_jax.text import build_vocabulary, build_word_vocabulary, load_corpus

TEXT = b"def f(x):\n  # of x\n  return '<b>', [x]\n" * 20 + b"def g(x):\n"


def settings_of(corpus, level="char"):
  return Settings(
    corpus=str(corpus),
    characters=None,
    level=level,
    min_count=1,
    max_vocabulary=None,
    validation_share=0.25,
    embedding_size=None if level == "char" else 3,
    tied=False,
    reading="stream",
    window=4,
    batch_size=2,
    steps=10,
    optimizer="adam",
    learning_rate=0.01,
    schedule="constant",
    warmup=0,
    clip_norm=1.0,
    evaluate_every=10,
    seed=0,
    layers=Layers("lstm", 1, 4, 0.0, False, False, 0.0, "step", ()),
  )


def write_model(folder, corpus, vocabulary, level="char"):
  """Writes the folder of a model with fresh params, as training would write it."""
  settings = settings_of(corpus, level)
  about = {"corpus": {"sha256": load_corpus(corpus).sha256}}
  trained_model.start(folder, settings, vocabulary, "", about)
  model = make_model(settings, vocabulary.size)
  tokens = jnp.zeros((1, 1), jnp.int32)
  params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
  trained_model.save_best(folder, 10, params)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """A folder with a text, `text.py`, and the folders of two models of it, `char` and `word`."""
  folder = tmp_path_factory.mktemp("states")
  corpus = folder / "text.py"
  corpus.write_bytes(TEXT)
  write_model(folder / "char", corpus, build_vocabulary(TEXT))
  write_model(folder / "word", corpus, build_word_vocabulary(TEXT), "word")
  return folder


@pytest.fixture
def run(program_here, capsys):
  """`run(**flags)` runs the command, and returns (exit status, standard output, standard error)."""

  def run(**given):
    capsys.readouterr()
    status = program_here(states, *(f"--{name}={value}" for name, value in given.items()))
    return (status, *capsys.readouterr())

  return run


def data_of(path):
  text = path.read_text(encoding="utf-8")
  return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_shows_the_held_out_part_of_the_text(models, run, tmp_path):
  output = tmp_path / "new" / "page.html"
  code, out, err = run(model=models / "char", characters=50, reach=3, output=output)
  assert (code, err) == (0, "")
  data = data_of(output)
  cut = len(TEXT) - len(TEXT) // 4
  assert "".join(data["pieces"]) == TEXT[cut : cut + 50].decode()
  gates = [f"layer 1 {name} gate" for name in ("forget", "input", "output")]
  assert [q["name"] for q in data["quantities"]] == ["layer 1 hidden", "layer 1 cell", *gates]
  assert data["saliency"]["reach"] == 3 and len(data["losses"]) == 50
  assert "1 layer of 4 lstm units" in data["about"] and "the held-out part of" in data["about"]
  assert "inside quotes" in out and f"The page is {output}" in out
  for found in data["matches"]:
    assert f"{found['held_out']:.2f}" in out and f"{found['quantity']} {found['unit']}" in out


def test_the_page_of_a_word_model_shows_the_words_of_a_file(models, run, tmp_path):
  path, output = tmp_path / "other.py", tmp_path / "page.html"
  path.write_bytes(b"return y\n\n[x]")
  code, _, err = run(model=models / "word", text=path, output=output)
  assert (code, err) == (0, "")
  data = data_of(output)
  # The last word, `]`, is predicted but not read.
  assert data["pieces"] == ["return ", "<unk> ", "\n", "\n", "[ ", "x "]
  assert "6 words from" in data["about"]
  assert data["saliency"]["reach"] == 6  # the text is shorter than --reach, 100


def test_features_come_from_the_language_and_the_annotations(models, run, tmp_path):
  text, marked, output = tmp_path / "other", tmp_path / "marked.json", tmp_path / "page.html"
  text.write_bytes(TEXT)
  marked.write_text(json.dumps({"[b]<i>": [[i, i + 9] for i in range(0, 780, 40)], "early": []}))
  given = {"model": models / "char", "text": text, "output": output}
  code, out, err = run(**given)
  assert (code, err) == (0, "") and "Choose a --language (c, english, latex, python)" in out
  data = data_of(output)
  assert data["matches"] == [] and data["legends"] == {} and data["rules"] in out
  code, out, err = run(**given, annotations=marked)
  assert (code, err) == (0, "") and "[b]<i>" in out and "constant in one half of the text: e" in out
  assert {m["feature"] for m in data_of(output)["matches"]} == {"[b]<i>"}
  code, out, _ = run(**given, annotations=marked, language="latex")
  data = data_of(output)
  assert {m["feature"] for m in data["matches"]} > {"[b]<i>", "position in the line"}
  assert data["legends"]["[b]<i>"] == "from --annotations"
  assert "Features come from the rules of LaTeX (--language=latex) and from --annotations." in out


def test_units_are_not_ranked_on_too_little_text(models, run, tmp_path):
  path, output = tmp_path / "other.py", tmp_path / "page.html"
  path.write_bytes(TEXT[:50])
  code, out, err = run(model=models / "char", text=path, output=output)
  assert (code, err) == (0, "")
  data = data_of(output)
  assert data["matches"] == [] and len(data["pieces"]) == 49
  assert (
    "has 49 characters. On fewer than 194, some of 20 units match any feature by chance." in out
  )
  assert data["method"] in out


MARKS = "must hold a list of [start, end] for 'a'"


@pytest.mark.parametrize(
  ("annotations", "words"),
  [
    ("[]", "must hold a JSON object"),
    ("{}", "must contain 1 to 100 features, got 0"),
    ('{"a": 1}', f"{MARKS}, got 1"),
    ('{"a": [[0, true]]}', f"{MARKS}, got [0, True]"),
    ('{"a": [[0, 1.5]]}', f"{MARKS}, got [0, 1.5]"),
    ('{"a": [[3, 3]]}', f"{MARKS} with 0 <= start < end, got [3, 3]"),
    ('{"a": [[0, 51]]}', f"{MARKS} with end at most 50, the text's length, got [0, 51]"),
    ('{"\\u001b[1m": []}', "name features with 1 to 60 printable characters, got '\\x1b[1m'"),
    ('{"indentation": []}', "must not reuse the name of a built-in feature, got 'indentation'"),
  ],
)
def test_wrong_annotations_print_a_one_line_error(models, run, tmp_path, annotations, words):
  path, marked = tmp_path / "other.py", tmp_path / "marked.json"
  path.write_bytes(TEXT[:50])
  marked.write_text(annotations)
  code, out, err = run(model=models / "char", text=path, annotations=marked)
  assert code == 2 and not out and err.startswith("error: --annotations") and words in err
  assert err.count("\n") == 1


def test_wrong_flags_print_a_one_line_error(models, run, tmp_path):
  odd, short = tmp_path / "odd", tmp_path / "short"
  odd.write_text("def é")
  short.write_text("d")
  char = {"model": models / "char"}
  for given, words in (
    ({}, "--model must be the folder of a trained model, got 'none'"),
    ({"model": models}, "--model must be the folder of a trained model"),
    (char | {"text": tmp_path / "no"}, "--text must be a readable file"),
    (char | {"text": tmp_path}, "--text must be a readable file"),
    (char | {"text": odd}, "--text holds 'é' at byte 4, not in the vocabulary"),
    (char | {"text": short}, "--text must hold at least 2 tokens, got 1"),
    (char | {"output": tmp_path}, "--output must name a file"),
    (char | {"annotations": tmp_path / "no"}, "--annotations must be a readable file"),
    (char | {"language": "rust"}, "Unknown language 'rust'. Choose one of: auto, c, english"),
    (char | {"characters": 0}, "characters must be an integer from 1"),
    (char | {"reach": "far"}, "reach must be an integer from 1"),
  ):
    code, out, err = run(**given)
    assert code == 2 and not out and words in err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_a_text_that_changed_after_training_is_refused(models, run):
  (models / "text.py").write_bytes(TEXT + b"x")
  try:
    code, _, err = run(model=models / "char")
  finally:
    (models / "text.py").write_bytes(TEXT)
  assert code == 2 and "has changed after the model was trained" in err


def test_values_are_those_after_each_token_was_read():
  cells = [make_cell("gru", 3), make_cell("lstm", 2)]
  model = DeepRNN(cells, 5, 5)
  tokens = np.random.default_rng(0).integers(0, 5, 9)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  reading = read(model, variables, tokens)
  found = {q.name: q for q in reading.quantities}

  @jax.jit
  def by_hand(variables, tokens):
    cells, params, xs = model.trunk(variables, tokens[:-1, None])
    carries, rows = list(model.initial_carries(1)), []
    for t in range(8):
      x = xs[t : t + 1]
      for i, (cell, p) in enumerate(zip(cells, params, strict=True)):
        drive = jax.tree.map(lambda a: a[0], cell.project(p, x))
        carries[i] = step(cell, p, carries[i], drive)
        x = cell.output(p, carries[i], drive)[None]
      rows.append((carries[0][0], carries[1].hidden[0], carries[1].cell[0]))
    _, logits = model.apply(variables, tokens[:-1, None])
    gates = gate_values(cells, params, xs)
    return rows, gates, cross_entropy(logits[:, 0], tokens[1:])

  rows, gates, losses = by_hand(variables, jnp.asarray(tokens))
  names = ("layer 1 hidden", "layer 2 hidden", "layer 2 cell")
  for name, expected in zip(names, zip(*rows, strict=True), strict=True):
    np.testing.assert_allclose(found.pop(name).values, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(reading.losses, losses, rtol=1e-5)
  expected = {
    f"layer {i} {name} gate": np.asarray(a)[:, 0]
    for i, layer in enumerate(gates, start=1)
    for name, a in layer.items()
  }
  assert set(found) == set(expected) and all(q.gate for q in found.values())
  for name, q in found.items():
    np.testing.assert_allclose(q.values, expected[name], rtol=1e-5)


def test_pieces_are_letters_bytes_and_words():
  text = "aé<\n".encode() + b"\xff\xc3"
  vocabulary = build_vocabulary(text)
  pieces = text_pieces(vocabulary, vocabulary.encode(text))
  assert pieces == ["a", "", "é", "<", "\n", "\\xff", ""]
  pieces = text_pieces(vocabulary, vocabulary.encode(text), errors="surrogateescape")
  assert pieces == ["a", "", "é", "<", "\n", "\udcff", ""]
  text = "été <unk>\n\n".encode() + b"\xff\n"
  vocabulary = build_word_vocabulary(text, "whitespace")
  pieces = text_pieces(vocabulary, vocabulary.encode(text))
  assert pieces == ["été ", "<unk> ", "\n", "\n", "\\xff ", "\n"]
