"""Tests of `python -m experiments.plot`: what its flags change in the figures, and its errors."""

from __future__ import annotations

import dataclasses
import shutil

import matplotlib
import numpy as np
import pytest
import recorded
from configured import make_run
from matplotlib.image import imread

from experiments import plot
from experiments.plotting import style
from experiments.sweep.records import run_files

BASE = make_run(
  clip_norm=None,
  hidden_size=3,
  sequence_length=recorded.T,
  batch_size=2,
  steps=2,
  optimizer="sgd",
)
RUNS = {
  f"{cell}{gain:g}-{seed}": dataclasses.replace(BASE, cell=cell, recurrent_gain=gain, seed=seed)
  for cell in ("elman", "gru")
  for gain in (1.0, 2.0)
  for seed in (0, 1, 2)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return recorded.write(tmp_path_factory.mktemp("plot") / "sweep", RUNS, measures=("lag",))


@pytest.fixture
def drawn(monkeypatch, program_here):
  """Returns `(*arguments) -> {name: figure}`, which draws figures without saving them."""

  def run(*arguments):
    figures = {}

    def keep(figure, folder, name, formats):
      figures[name] = figure
      return [folder / name]

    monkeypatch.setattr(style, "save", keep)
    assert program_here(plot, *arguments) == 0
    return figures

  return run


def titles(figure):
  return [axis.get_title() for axis in figure.axes if axis.get_title()]


def legend(figure):
  return [text.get_text() for text in figure.legends[0].get_texts()]


def test_files_have_the_formats_and_the_width(folder, program_here, tmp_path, capsys):
  flags = ("--figure=gradient_decay,training", "--format=pdf,png", "--width=3.25")
  for out in ("one", "two"):
    assert program_here(plot, folder, *flags, f"--output_dir={tmp_path / out}") == 0
  names = [f"{name}.{kind}" for name in ("gradient_decay", "training") for kind in ("pdf", "png")]
  said = capsys.readouterr()
  assert said.out.split() == [
    str(tmp_path / out / name) for out in ("one", "two") for name in names
  ]
  assert not said.err
  assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(names)
  for name in names:
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
  assert imread(tmp_path / "one" / "training.png").shape[1] == int(3.25 * 150)
  assert (tmp_path / "one" / "training.pdf").read_bytes()[:5] == b"%PDF-"


def test_only_selected_runs_are_drawn(folder, drawn):
  figure = drawn(folder, "--select=cell=gru", "--select=recurrent_gain=2e0")["gradient_decay"]
  assert legend(figure)[0] == "gru" and "recurrent" not in " ".join(titles(figure))
  whole = drawn(folder, "--select=seed=0,1,2", "--figure=gradient_decay")
  assert whole.keys() == {"gradient_decay"}
  assert titles(whole["gradient_decay"]) == ["elman, depth 1", "gru, depth 1"]


def test_a_facet_distinguishes_rows(folder, drawn):
  figure = drawn(folder, "--facet=recurrent_gain", "--figure=gradient_decay")["gradient_decay"]
  assert titles(figure) == ["recurrent gain 1, depth 1", "recurrent gain 2, depth 1"]
  assert legend(figure)[:2] == ["elman", "gru"]


@pytest.mark.parametrize("band", ["minmax", "ci95", "std"])
def test_the_line_and_its_band_are_what_the_caption_says(band, folder, drawn):
  flags = ("--select=cell=gru", "--select=recurrent_gain=1", f"--band={band}")
  figure = drawn(folder, *flags, "--figure=gradient_decay")["gradient_decay"]
  (line,) = [line for line in figure.axes[0].lines if line.get_label() == "gru"]
  (area,) = [area for area in figure.axes[0].collections if area.get_label() == "gru"]
  outline = area.get_paths()[0].vertices
  last = np.sort(outline[outline[:, 0] == recorded.T - 1, 1])[[0, -1]]
  values = []
  for seed in range(3):
    run = plot.united.read([folder])[0].sel(run=f"gru1-{seed}")
    values.append(run["log10_lag_norm"].values[-1, 0, -1].astype(float))
  mean, deviation = np.mean(values), np.std(values, ddof=1)
  half = {"ci95": 4.302652729911275 * deviation / 3**0.5, "std": deviation}
  if band == "minmax":
    middle, ends = np.median(values), [min(values), max(values)]
  else:
    middle, ends = mean, [mean - half[band], mean + half[band]]
  np.testing.assert_allclose(line.get_ydata()[-1], middle)
  np.testing.assert_allclose(last, ends)
  kind, area = style_of(band)
  assert f"{kind} over 3 seeds" in figure.get_suptitle() and area in " ".join(legend(figure))


def style_of(band):
  return {
    "minmax": ("median", "minimum to maximum"),
    "ci95": ("mean", "95 % confidence interval"),
    "std": ("mean", "standard deviation"),
  }[band]


def test_several_sweeps_are_drawn_as_one(folder, drawn, program_here, tmp_path, capsys):
  other = {"lstm-0": dataclasses.replace(BASE, cell="lstm", recurrent_gain=1.0)}
  more = recorded.write(tmp_path / "more", other, measures=("lag",))
  folders = (folder, more, f"--output_dir={tmp_path / 'out'}", "--select=recurrent_gain=1")
  assert legend(drawn(*folders)["training"])[:3] == ["elman", "gru", "lstm"]
  assert program_here(plot, folder, more) == 2
  assert "--output_dir must be given for several FOLDERs, got 2" in capsys.readouterr().err


def test_an_unfinished_sweep_is_drawn_partially(folder, drawn, program_here, tmp_path, capsys):
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  run_files.start(copy, "gru2-0", {})
  assert program_here(plot, copy) == 2
  (error,) = capsys.readouterr().err.splitlines()
  assert "run gru2-0 in" in error and error.endswith("(or draw the runs that are done: --partial)")
  assert "median over 2 to 3 seeds" in drawn(copy, "--partial")["gradient_decay"].get_suptitle()
  said = capsys.readouterr().err
  assert said == "warning: 1 of 12 runs are unfinished, and missing from the figures.\n"


def test_an_rc_file_applies_over_the_style(folder, drawn, tmp_path, capsys):
  before = dict(matplotlib.rcParams)
  path = tmp_path / "rc"
  path.write_text("xtick.labelsize: 5\nfont.family: No such font\nsavefig.bbox: tight\n")
  figure = drawn(folder, f"--rc={path}", "--figure=training")["training"]
  axis = figure.axes[-1]
  assert axis.get_xticklabels()[0].get_fontsize() == 5
  assert axis.get_yticklabels()[0].get_fontsize() == style.SMALL
  lines = capsys.readouterr().err.splitlines()
  assert lines and all(line.startswith(f"warning: {path}: findfont: ") for line in lines)
  assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("foo\n", "Missing colon in file"),
    ("no.such: 1\n", "Bad key no.such in file"),
    ("axes.labelsize: x\n", "Key axes.labelsize: x is not a valid font size"),
    ("\xff", "'utf-8' codec can't decode byte"),
    pytest.param(
      "text.usetex: true\n",
      "figures cannot be drawn with",
      marks=pytest.mark.skipif(shutil.which("latex") is not None, reason="LaTeX is installed"),
    ),
  ],
)
def test_an_rc_file_that_cannot_be_used_is_one_line(
  text, says, folder, program_here, tmp_path, capsys
):
  path = tmp_path / "rc"
  path.write_bytes(text.encode("latin-1"))
  assert program_here(plot, folder, f"--rc={path}", f"--output_dir={tmp_path / 'out'}") == 2
  (error,) = capsys.readouterr().err.splitlines()
  assert error.startswith("error: --rc") and says in error
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--select=cell=lstm"], "--select=cell must be one of elman, gru, got 'lstm'."),
    (["--select=seed=0,7"], "--select=seed must be one of 0, 1, 2, got '7'."),
    (["--select=truncation=8"], "--select=truncation must be one of full, got '8'."),
    (["--select=colour=1"], "Unknown --select 'colour'. Choose one of: batch_size, cell, clip_by"),
    (["--select=cell"], "select must be NAME=VALUE or NAME=VALUE,VALUE,…, got 'cell'."),
    (
      ["--select=cell=gru", "--select=cell=elman"],
      "--select=cell=gru --select=cell=elman must choose a run, but no run has all of these values",
    ),
    (["--figure=omega"], "Unknown --figure 'omega'. Choose one of: depth_by_time"),
    (
      ["--facet=depth"],
      "Unknown --facet 'depth'. Choose one of: auto, cell, recurrent_gain, seed.",
    ),
    (["--format=jpg"], "Choose one of: pdf, png, svg."),
    (["--band=x"], "Choose one of: ci95, minmax, std."),
    (["--width=1"], "width must be a number from 2.5 to 40"),
    (["--output_dir="], "--output_dir must name a folder, got ''."),
  ],
)
def test_errors_name_the_choices(flags, says, folder, program_here, capsys):
  assert program_here(plot, folder, *flags) == 2
  (error,) = capsys.readouterr().err.splitlines()
  assert says in error
  assert not (folder / "figures").exists()


def test_captions_and_baselines_are_those_of_the_selected_tasks(drawn, tmp_path):
  tasks = {task["task"]: dataclasses.replace(BASE, task=task["task"]) for task in recorded.TASKS}
  whole = recorded.write(tmp_path / "sweep", tasks)
  figure = drawn(whole, "--figure=training")["training"]
  assert "'adding, copy_memory'" in figure.get_suptitle()
  assert "baseline (0.5, 0.7 nats or bits)" in legend(figure)
  figure = drawn(whole, "--figure=training", "--select=task=copy_memory")["training"]
  assert "'copy_memory'" in figure.get_suptitle()
  assert "baseline (0.7 bits)" in legend(figure)
  assert figure.axes[0].get_ylabel() == "loss\n(bits)"


def test_held_out_losses_are_drawn(folder, drawn):
  figure = drawn(folder, "--figure=training", "--select=cell=gru")["training"]
  dashed = [line for line in figure.axes[0].lines if str(line.get_label()).endswith("held out")]
  assert [line.get_xdata().tolist() for line in dashed] == [[2], [2]]
