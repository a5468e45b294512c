"""Tests of a sweep's flags: flagfiles are valid, and bad input gives a one-line error."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from configured import make_settings

from experiments.cli import flag_table
from experiments.networks.cell_options import parse
from experiments.runtime import memory
from experiments.sweep.config.flags import TABLE, as_flagfile
from experiments.sweep.config.grid import AXES
from experiments.sweep.config.resolve import resolve
from experiments.sweep.config.runs import Settings
from experiments.sweep.measures.table import MEASURES
from experiments.sweep.training.program import CHUNK

FLAGFILES = Path(__file__).parents[4] / "experiments" / "flagfiles"
SWEEPS = sorted(path for path in FLAGFILES.glob("*.flags") if "--task=" in path.read_text())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_every_flagfile_is_valid(path, tmp_path, sweep_here):
  assert sweep_here(f"--flagfile={path}", "--dry_run", f"--output_dir={tmp_path / 'out'}") == 0


def test_every_axis_and_setting_has_a_flag():
  kinds = {flag.name: flag.kind for flag in TABLE}
  assert [name for name, kind in kinds.items() if kind == "axis"] == list(AXES)
  assert {field.name for field in dataclasses.fields(Settings)} <= kinds.keys()


@pytest.mark.parametrize("flag", TABLE, ids=lambda flag: flag.name)
def test_every_flag_says_what_it_does_and_its_default(flag, sweep_flags):
  assert flag.help.endswith(".") and "|" not in flag.help
  defined = sweep_flags[flag.name]
  if flag.kind == "single":
    assert defined.default_as_str == f"'{flag.default}'"
  if flag.name == "checkpoint_every":
    assert f"a multiple of {CHUNK}." in flag.help


@pytest.mark.parametrize(("flag", "first"), [("flags", "| flag |"), ("measures", "| measure |")])
def test_tables_are_printed(flag, first, sweep_here, capsys):
  assert sweep_here(f"--list_{flag}") == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith(first)
  assert len(lines) == 2 + len(TABLE if flag == "flags" else MEASURES)
  assert len({line.count("|") for line in lines}) == 1


BAD = [
  ("--cell=lstn", "did you mean 'lstm'? Choose one of: "),
  ("--task=chrlm", "did you mean 'charlm'?"),
  ("--optimizer=adamm", "did you mean 'adam'?"),
  ("--cel=lstm", "Did you mean: cell"),
  ("--steps=0", "steps must be an integer from 1"),
  ("--hidden_size=-3", "hidden_size must be an integer from 1"),
  ("--batch_size=1.5", "batch_size must be an integer from 1"),
  ("--log_every=x", "log_every must be an integer from 1"),
  ("--measures=lags", "Unknown measure 'lags'; did you mean 'lag'?"),
  ("--measures=lags", "If it is your own, its module must be imported first (--import)."),
  ("--measures=lag,none", "measure must be none alone"),
  ("--measures=lag,saturation", "must not hold saturation, since no selected cell has gates"),
  ("--measure_every=0", "measure_every must be an integer from 1"),
  ("--learning_rate=0", "learning_rate must be a finite number above 0"),
  ("--learning_rate=nan", "learning_rate must be a finite number above 0"),
  ("--learning_rate=1e-60", "learning_rate must be a finite number above 0"),
  ("--clip_norm=-1", "clip_norm must be a finite number above 0"),
  ("--clip_norm=non", "or 'none'"),
  ("--recurrent_gain=inf", "recurrent_gain must be a finite number from 0"),
  ("--forget_bias=nan", "forget_bias must be a finite number"),
  ("--truncation=0", "truncation must be an integer from 1"),
  ("--schedule=step", "Unknown schedule 'step'"),
  ("--warmup=200", "--warmup must be below --steps=200, got 200"),
  ("--momentum=1", "momentum must be a number from 0 to below 1"),
  ("--weight_decay=-1", "weight_decay must be a finite number from 0"),
  ("--flossing=nan", "flossing must be a finite number from 0"),
  (
    "--flossing=1 --flossing_exponents=65",
    "--flossing_exponents must be at most 64, the size of the carry of elman, depth 1, got 65",
  ),
  ("--spectral_penalty=1 --cell=mingru", "--spectral_penalty must be 0 for mingru, depth 1"),
  ("--initialization=lsvu", "did you mean 'lsuv'?"),
  ("--initialization=critical --cell=minimalrnn", "Unknown cell with a critical gain 'minimalrnn'"),
  (
    "--initialization=critical --cell_option=activation=relu",
    "activation of elman must be tanh or linear for a critical gain, got relu",
  ),
  ("--initialization=lsuv --cell=lru", "is for cells with the option recurrent_kernel, got lru"),
  ("--initialization=unitary --depth=2 --layer_norm", "must not be combined with --layer_norm"),
  ("--truncation=ful", "or 'full'"),
  ("--seed=-1", "seed must be an integer from 0"),
  ("--depth=", "depth must be a comma list without empty entries"),
  ("--cell=lstm,,gru", "cell must be a comma list without empty entries"),
  ("--learning_rate=0.1,1e-1", "learning_rate must not hold a value twice, got 1e-1"),
  ("--learning_rate=0.1,0.10000000001", "learning_rate must not hold a value twice"),
  ("--seed=9..0", "seed must hold ranges FIRST..LAST with FIRST <= LAST"),
  ("--seed=0..1,1", "seed must not hold a value twice, got 1 in '0..1,1'"),
  ("--layer_norm=yes", "layer_norm must be true or false, got 'yes'"),
  ("--dropout=1", "dropout must be a number from 0 to below 1"),
  ("--design=gird", "did you mean 'grid'?"),
  ("--evaluate_every=0", "or 'at_end'"),
  ("--select=seed", "Unknown axis 'seed'"),
  ("--select=learning_rate", "--select=learning_rate needs several values of --learning_rate"),
  ("--select=depth --depth=1,2 --select_seed=0", "--select_seed must not hold a seed of --seed"),
  ("--test_sequence_length=2T,T3", "integers from 1 and multiples of T, such as 2T, or 'none'"),
  (
    "--task=copy_memory --test_sequence_length=20",
    "does not fit copy_memory: sequence_length must",
  ),
  (
    "--corpus={tmp}/short --sequence_length=30 --test_sequence_length=2T",
    "sequence_length = 60 ch",
  ),
  (
    "--cell=lstm,gru --cell_option=gru.reset=none,before --design=one_at_a_time",
    "--cell_option=reset of gru must have one value with --design=one_at_a_time",
  ),
  ("--hidden_size=2147483647", "must fit into this machine's"),
  ("--batch_size=2147483647", "must fit into this machine's"),
  ("--corpus={long}", "--corpus must be readable"),
  ("--output_dir={long}", "--output_dir must be a writable folder"),
  ("--output_dir=~nobody-of-this-name/x", "--output_dir must be a path"),
  (
    "--output_dir=a\0b",
    "--output_dir must be a path, got 'a\\x00b' (a path cannot hold a null character",
  ),
  ("--flagfile=a\0b", "--flagfile must be a path"),
  ("--cell=irnn --cell_option=scale=0,-1e39", "that are finite in float32, got -1e39"),
  ("--cell=lem --cell_option=delta=1" + "0" * 400, "delta must be finite, got inf"),
  ("--flagfile=~nobody-of-this-name/x", "--flagfile must be a path"),
  ("--corpus=two\nlines", "--corpus must not contain a line break or end with whitespace"),
  ("--corpus=end\u3000", "--corpus must not contain a line break or end with whitespace"),
  ("--task=copy_memory --sequence_length=20", "--sequence_length must be at least 21, got 20"),
  ("--task=charlm --sequence_length=2000000000", "--sequence_length must be below"),
  ("--corpus=missing.txt", "--corpus must be a file that exists"),
  ("--corpus={tmp}", "--corpus must be a file, got the folder"),
  ("--corpus={tmp}/empty", "--corpus must not be empty"),
  ("--corpus={tmp}/empty/x", "--corpus must be readable"),
  ("--task=adding --corpus={tmp}/empty", "--corpus is for task charlm"),
  ("--task=data_file", "--task=data_file needs --data_file=FILE.npz, got none."),
  ("--data_file={tmp}/data.npz", "--data_file is for task data_file, got "),
  ("--task=data_file --data_file={tmp}/empty", "--data_file must be an .npz file"),
  ("--task=data_file --data_file=missing.npz", "--data_file must be a file that exists"),
  ("--task=data_file --data_file={tmp}", "--data_file must be a file, got the folder"),
  ("--task=data_file --data_file=x\ny", "data_file must not contain a line break"),
  (
    "--task=data_file --data_file={tmp}/bad.npz",
    "bad.npz: Unknown array 'ys'. Choose one of: lengths, targets",
  ),
  (
    "--task=data_file --data_file={tmp}/data.npz",
    "--sequence_length must be 6, the time steps of {tmp}/data.npz, got 128.",
  ),
  (
    "--task=data_file --data_file={tmp}/data.npz --sequence_length=6",
    "--batch_size must be at most the 18 examples of part train, got 32.",
  ),
  (
    "--task=data_file --data_file={tmp}/data.npz --sequence_length=6 --batch_size=4 "
    "--test_sequence_length=2T",
    "--test_sequence_length=2T does not fit data_file: sequence_length must be 6",
  ),
  (
    "--task=data_file --data_file={tmp}/data.npz --sequence_length=6 --batch_size=4 "
    "--data_parallel=4",
    "--data_parallel must divide the 2 held-out sequences of a batch, got 4.",
  ),
  ("--flagfile={tmp}/missing.flags", "--flagfile must be a readable file"),
  ("--flagfile={tmp}/noequals.flags", "got 'steps 4' in line 2"),
  ("--flagfile={tmp}/self.flags", "--flagfile must not include itself"),
  ("leftover", "got 'leftover'"),
  ("--devices=99", "--devices must be at most the"),
  ("--data_parallel=0", "data_parallel must be an integer from 1"),
  ("--data_parallel=3", "--data_parallel must divide --batch_size=32, got 3"),
  ("--data_parallel=8", "must divide the number of devices in use, 4, got 8"),
  ("--devices=3 --data_parallel=2", "must divide the number of devices in use, 3, got 2"),
  ("--runs_per_device=0", "runs_per_device must be an integer from 1"),
  ("--runs_per_device=many", "or 'auto'"),
  ("--output_dir={tmp}", "--output_dir must be new, empty, or hold a sweep"),
  ("--output_dir={tmp}/empty", "--output_dir must be a folder, got the file"),
  ("--output_dir={tmp}/empty/x", "--output_dir must be a writable folder"),
  ("--output_dir=/proc/nothing", "--output_dir must be a writable folder"),
  ("--output_dir=", "--output_dir must name a folder"),
  ("--cell_option=activation", "cell_option must be name=value or cell.name=value"),
  ("--cell_option=activation=", "cell_option must be a comma list without empty entries"),
  ("--cell_option=activation=tanh,tanh", "cell_option must not hold a value twice, got tanh"),
  ("--cell_option=activaton=relu", "Unknown --cell_option 'activaton'; did you mean 'activation'?"),
  (
    "--cell=gru --cell_option=elman.activation=relu",
    "--cell_option must be for a selected cell, gru, got",
  ),
  (
    "--cell_option=activation=rleu",
    "--cell=elman --cell_option=activation=rleu: Unknown activation",
  ),
  ("--cell_option=recurrent_gain=2", "which has its own flag, --recurrent_gain"),
  ("--cell=gru --cell_option=chrono=1", "--cell=gru --cell_option=chrono=1: "),
  ("--hidden_size=64 --match_params=5000", "must not be given together, got --match_params=5000."),
  ("--match_params=0", "match_params must be an integer from 1 to 2147483647, or 'none'"),
  (
    "--task=adding --depth=2 --match_params=11",
    "the nearest one of elman, depth 2 is 1, with 7 params, got 11.",
  ),
  (
    "--task=adding --match_params=2147483647 --sequence_length=200000",
    "--match_params, --sequence",
  ),
  ("--match_params=5000 --cell_option=activation=rleu", "activation=rleu: Unknown activation"),
]


def memory_flags() -> str:
  """Returns flags that train two runs at once on one device, although only one fits its memory."""
  size = math.isqrt(int(0.6 * memory.available() / 4))
  runs = "--seed=0,1 --devices=1 --runs_per_device=2"
  return f"--task=adding --hidden_size={size} --batch_size=1 {runs}"


BAD += [(memory_flags(), "GiB; 2 runs need")]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[flags for flags, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(flags, message, tmp_path, capsys, sweep_here):
  (tmp_path / "empty").write_bytes(b"")
  (tmp_path / "short").write_bytes(b"0123456789" * 40)
  xs = np.arange(20 * 6.0).reshape(20, 6, 1)
  np.savez(tmp_path / "data.npz", xs=xs, targets=np.arange(20) % 2)
  np.savez(tmp_path / "bad.npz", ys=xs)
  (tmp_path / "noequals.flags").write_text("--steps=3\nsteps 4\n")
  (tmp_path / "self.flags").write_text(f"--flagfile={tmp_path / 'self.flags'}\n")
  before = sorted(tmp_path.iterdir())
  given = flags.format(tmp=tmp_path, long=tmp_path / ("x" * 300)).split(" ")
  # The default task is avoided, because reading its text takes a tenth of a second.
  task = () if "--task" in flags or "--corpus" in flags else ("--task=adding",)
  assert sweep_here(*task, f"--output_dir={tmp_path / 'out'}", *given) == 2
  error = capsys.readouterr().err
  assert message.replace("{tmp}", str(tmp_path)) in error
  assert error.startswith("error: ")
  assert error.count("\n") == 1
  assert sorted(tmp_path.iterdir()) == before


SETTINGS = make_settings()
GIVEN = {**dict.fromkeys(AXES, (1,)), "truncation": (8, 32, None)}


def flagfile(settings, axes, options):
  how = {"design": "one_at_a_time", "select": "depth", "select_seed": [7, 8]}
  axes = {name: list(values) for name, values in axes.items()}
  shared = {**dataclasses.asdict(settings), "corpus_sha256": "x"}
  configuration = {**axes, "cell_option": [*map(str, options)], **how, **shared}
  return as_flagfile(configuration, {"corpus": "stdlib", "data_file": "/data.npz"})


def test_a_flagfile_holds_every_axis_and_setting_exactly():
  axes = {**GIVEN, "learning_rate": (0.1 + 0.2,), "clip_norm": (None, 1.0)}
  axes = {**axes, "hidden_size": (64, 128), "layer_norm": (False, True)}
  lines = flagfile(SETTINGS, axes, ("a=1",)).splitlines()
  assert "--learning_rate=0.30000000000000004" in lines
  assert "--truncation=8,32,full" in lines
  assert "--clip_norm=none,1.0" in lines
  assert "--hidden_size=64,128" in lines
  assert "--layer_norm=false,true" in lines
  assert {"--design=one_at_a_time", "--test_sequence_length=none"} <= {*lines}
  assert {"--select=depth", "--select_seed=7,8", "--cell_option=a=1"} <= {*lines}
  assert "--data_file=/data.npz" in lines
  # Every setting has a line, except match_params and evaluate_every, which are None.
  assert len(lines) == len(AXES) + 4 + len(dataclasses.fields(Settings)) - 2


def test_a_flagfile_holds_options_as_given_and_the_parameter_budget():
  settings = dataclasses.replace(SETTINGS, match_params=5000)
  given = [parse("activation=tanh,relu"), parse("gru.reset=none")]
  lines = flagfile(settings, GIVEN, given).splitlines()
  assert lines[len(AXES) - 1 :][:2] == [
    "--cell_option=activation=tanh,relu",
    "--cell_option=gru.reset=none",
  ]
  assert "--match_params=5000" in lines
  assert not any(line.startswith("--hidden_size") for line in lines)


def test_the_flagfile_of_a_sweep_resolves_to_the_same_sweep(tmp_path, sweep_flags):
  given = ["--task=adding", "--cell=elman,gru", "--cell_option=activation=relu,tanh"]
  given += ["--cell_option=gru.reset=none", "--cell_option=inner_bias=false", "--match_params=999"]
  given += ["--log_every=7", "--depth=1..2", "--nolayer_norm", "--residual=false,true"]
  given += ["--design=one_at_a_time", "--evaluate_every=5", "--test_sequence_length=2t"]

  def resolved(*arguments):
    with flagsaver.flagsaver():
      sweep_flags(["sweep", *arguments, f"--output_dir={tmp_path / 'out'}"])
      return resolve(flag_table.given(TABLE))

  first = resolved(*given)
  file = tmp_path / "sweep.flags"
  file.write_text(as_flagfile(first.configuration, first.input_flags))
  again = resolved(f"--flagfile={file}")
  assert again.ids == first.ids and again.configuration == first.configuration
  assert {run.options for run in first.ids.values() if run.cell == "gru"} == {
    (("inner_bias", False), ("reset", "none"))
  }
  assert first.axes["residual"] == (False, True) and first.axes["layer_norm"] == (False,)
  assert first.axes["depth"] == (1, 2) and first.settings.test_sequence_length == "2T"
  assert first.settings.measure_every == first.settings.log_every == 7
  assert first.configuration["cell_option"][0] == "activation=relu,tanh"
  other = resolved(*given, "--cell_option=recurrent_kernel=identity")
  assert other.configuration != first.configuration and not set(other.ids) & set(first.ids)
