"""A test on random command lines: each program succeeds, or prints one line and writes nothing."""

from __future__ import annotations

import itertools
import os
import shutil

import hypothesis
import pytest
from absl import flags
from called import called
from hypothesis import strategies as st

from experiments import chaos, merge, plot, replay
from experiments.ablation import __main__ as ablation
from experiments.language_model import __main__ as language_model
from experiments.report import __main__ as report
from experiments.runtime import compilation_cache, exits
from experiments.sequence_problem import __main__ as sequence_problem
from experiments.states import __main__ as states
from experiments.sweep import __main__ as sweep
from rnn_jax.cells import CELLS, cell_options

# The number of random examples per program. If the environment variable is unset, each program gets
# a few fixed examples.
EXAMPLES = os.environ.get("MALFORMED_EXAMPLES")

# Name -> (module, function of the module, flags, number of examples). The function does the
# program's work. It is replaced by one that does nothing, because other tests cover it; None if
# nothing is replaced. The flags, which keep the work small, precede the random flags.
PROGRAMS = {
  "ablation": (ablation, None, [], 10),
  "chaos": (chaos, "kill_repeatedly", [], 10),
  "language_model": (language_model, "_train", ["--corpus=text", "--hidden_size=4"], 25),
  "merge": (merge, "_merge", [], 10),
  "plot": (plot, None, [], 10),
  "replay": (replay, None, [], 10),
  "report": (report, None, [], 10),
  "sequence_problem": (sequence_problem, "_run", ["--problem=encoder_decoder"], 25),
  "states": (states, None, ["--model=folder"], 10),
  "sweep": (sweep, "_run_or_exit", ["--task=adding", "--hidden_size=4"], 40),
}

# Paths in the folder where the programs run. Programs may write to `new`.
PATHS = ["a.flags", "b.flags", "empty", "folder", "loop", "missing", "text", "text/x", "new/deep"]
NUMBERS = ["0", "1", "2", "3", "10", "16", "0.1", "1.5", "-1", "+4", "1_0", "0x10", "１６", "nan"]
NUMBERS += ["-inf", "-0.0", "1e-60", "1e38", "1e400", "2147483647", "2147483648", str(2**64)]
NUMBERS += ["9" * 400, "9" * 5000]
WORDS = ["", " ", ",", "=", "--", "none", "full", "auto", "all", "true", "false", "stdlib", "a b"]
WORDS += ["é", "\n", "\0", "a\0b", "\u2028", "\ufeff", "\udcff", "~", "~nobody", "../..", "/proc/x"]
WORDS += [
  "x" * 300,
  *CELLS,
  "adam",
  "sgd",
  "copy_memory",
  "element",
  "carry",
  "lag,gates",
  "none,lag",
]
WORDS += ["many_to_many", "one_to_one", "many_to_one", "concat", "sum", "sort", "sqrt", "step"]
WORDS += ["lines", "windows", "word", "whitespace", "cosine", "1,2", "4,full", "2,,3", "3,3"]
ONE = st.one_of(
  st.sampled_from([*PATHS, *NUMBERS, *WORDS]),
  st.integers().map(str),
  st.floats().map(str),
  st.text(st.characters(exclude_categories=()), max_size=5),
)
VALUES = ONE | st.lists(ONE, min_size=2, max_size=3).map(",".join)
ODD = [
  "--",
  "-",
  "---",
  "--=",
  "# remark",
  "// remark",
  "--undefok=x,y",
  "--verbosity=x",
  "--flagfile",
]


# Not computed in a strategy, because beartype chooses at random which items of the result of
# `cell_options` it checks, and Hypothesis forbids `random` in strategies.
OPTIONS = {cell: sorted(cell_options(cell)) or ["none"] for cell in CELLS}


@st.composite
def cells(draw):
  """Draws a list of two flags: a cell, and one of its options with any value."""
  cell = draw(st.sampled_from(sorted(CELLS)))
  option = draw(st.sampled_from([f"--cell_option={name}" for name in OPTIONS[cell]]))
  value = draw(st.sampled_from([*NUMBERS, "none", "true", "relu", "identity", ""]) | VALUES)
  return [f"--cell={cell}", f"{option}={value}"]


def groups(names):
  """Draws a list of words that belong together, in most cases one flag with a valid value.

  Args:
    names: names of the program's flags.
  """
  if not names:
    return VALUES.map(lambda value: [value])
  good = {
    name: [text for text in [*PATHS, *NUMBERS, *WORDS] if _takes(name, text)] for name in names
  }
  name = st.sampled_from(names)
  fits = name.flatmap(
    lambda name: st.sampled_from([f"--{name}={text}" for text in good[name]] or [f"--{name}"])
  )
  wild = st.one_of(
    st.builds(lambda name, value: [f"--{name}={value}"], name, VALUES),
    st.builds(lambda name, value: [f"-{name}", value], name, VALUES),
    st.builds(lambda name, value: [f"--{name[:-1]}={value}"], name, VALUES),
    st.builds(lambda prefix, name: [prefix + name], st.sampled_from(["--", "--no", "-"]), name),
    st.builds(lambda place: [f"--flagfile={place}"], st.sampled_from(PATHS) | VALUES),
    st.sampled_from(ODD).map(lambda word: [word]),
    VALUES.map(lambda value: [value]),
  )
  some = [wild, *[fits.map(lambda word: [word])] * 7]
  if "cell_option" in names:
    some.append(cells())
  return st.sampled_from(some).flatmap(lambda group: group)


def _takes(name, text):
  try:
    flags.FLAGS[name].parser.parse(text)
  except (ValueError, TypeError):
    return False
  return True


def command_lines(names):
  return st.lists(groups(names), max_size=6).map(lambda found: list(itertools.chain(*found)))


def flagfiles(names):
  """Draws the contents of a flagfile as bytes, which need not be text."""
  lines = st.lists(groups(names).map(" ".join), max_size=3)
  text = st.builds(
    lambda start, end, lines: start + end.join(lines),
    st.sampled_from(["", "", "\ufeff"]),
    st.sampled_from(["\n", "\n", "\r\n", "\r", "\f", "\u2028"]),
    lines,
  )
  return text.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=8)


@pytest.fixture
def here(tmp_path, monkeypatch):
  """A working directory that holds the files and folders named in `PATHS`."""
  (tmp_path / "empty").touch()
  (tmp_path / "folder").mkdir()
  (tmp_path / "loop").symlink_to("loop")
  (tmp_path / "text").write_bytes(b"the quick brown fox\n" * 40)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(compilation_cache, "use", lambda _: None)
  return tmp_path


def tree(folder):
  """Returns the contents of all files below a folder, by path; False for a folder."""
  return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", PROGRAMS)
def test_any_command_line_succeeds_or_fails_in_one_line(name, here, monkeypatch, flags_of):
  program, left_out, small, count = PROGRAMS[name]
  if left_out is not None:
    monkeypatch.setattr(program, left_out, lambda *_: None)

  with flags_of(program) as own:
    # With --coordinator, a program would wait for other processes.
    names = sorted(set(own) - {"coordinator"})

    @hypothesis.settings(
      max_examples=int(EXAMPLES or count),
      derandomize=EXAMPLES is None,
      deadline=None,
      database=None,
      suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(command_lines(names), flagfiles(names), flagfiles(names))
    def check(arguments, first, second):
      (here / "a.flags").write_bytes(first)
      (here / "b.flags").write_bytes(second)
      before = tree(here)
      status, err = called(program.main, *small, *arguments)
      after = tree(here)
      if status:
        assert status == exits.USAGE_ERROR
        assert err.startswith("error: ") and err.endswith("\n") and len(err.splitlines()) == 1
        assert after == before
      else:
        assert not err
        for path in sorted(after.keys() - before, reverse=True):
          path.unlink() if path.is_file() else shutil.rmtree(path)

    check()
