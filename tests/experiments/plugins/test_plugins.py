"""Tests of `--import`: modules from elsewhere register cells, tasks, measures and figures."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import plugin
import pytest
import swept

import experiments
from experiments import merge, plot, replay
from experiments.ablation import __main__ as ablation
from experiments.language_model import __main__ as language_model
from experiments.report import __main__ as report
from experiments.sweep.config.resolve import resolve
from experiments.sweep.engines import worker
from experiments.sweep.measures.table import MEASURES
from experiments.sweep.records import origins, run_files
from rnn_jax import testing
from rnn_jax.cells import CELLS

SMALL = ("--hidden_size=3", "--sequence_length=6", "--batch_size=2", "--steps=4", "--log_every=2")
MINE = ("--import=mylab", "--cell=slow_elman", "--task=first_number", "--measures=kernel")


def call(lab: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
  """Runs `python -m` in the plugin's folder, from which only PYTHONPATH leads to this project."""
  return subprocess.run(
    (sys.executable, "-m", *map(str, arguments)),
    cwd=lab,
    env={**os.environ, "PYTHONPATH": str(swept.ROOT)},
    capture_output=True,
    text=True,
  )


def test_a_sweep_of_a_plugin_is_recorded_drawn_and_replayed(
  lab, tmp_path, program_here, capsys, monkeypatch
):
  folder = tmp_path / "sweep"
  diverging = ("--optimizer=sgd", "--learning_rate=0.1,1e38", "--clip_norm=none")
  ended = call(lab, "experiments.sweep", *MINE, *SMALL, *diverging, f"--output_dir={folder}")
  assert ended.returncode == 0, ended.stderr
  assert "Runs: 1 finished, 1 diverged, 0 failed." in ended.stdout
  about = json.loads((folder / "sweep.json").read_text())
  assert about["configuration"]["import"] == ["mylab"]
  assert (folder / "sweep.flags").read_text().startswith("--import=mylab\n")
  assert "mylab.py" in about["code"]
  (file,) = folder.glob("runs/*/replay.npz")
  assert "mylab" not in sys.modules

  assert program_here(replay, file) == 2
  assert "pass --import=mylab, or in Python: import mylab." in capsys.readouterr().err
  assert program_here(merge, folder) == 2
  assert "pass --import=mylab, or in Python: import mylab." in capsys.readouterr().err
  assert program_here(plot, folder, f"--output_dir={tmp_path / 'drawn'}", "--format=svg") == 0
  said = capsys.readouterr()
  assert "kernel_norm.svg" in said.out
  assert "figures and labels of mylab are missing; pass --import=mylab" in said.err
  assert program_here(report, folder, f"--output={tmp_path / 'report.html'}") == 0
  assert program_here(ablation, folder, f"--output_dir={tmp_path / 'ablation'}") == 0
  data = experiments.open_sweep(folder)
  assert "mylab" not in sys.modules

  flags = ("--import=mylab", "--figure=reach_by_kernel,kernel")
  assert program_here(plot, folder, *flags) == 0
  (folder / "figures" / "reach_by_kernel.png").stat()
  said = capsys.readouterr()
  assert f"{folder / 'figures' / 'kernel.png'}\n" in said.out and "warning" not in said.err
  assert program_here(replay, file, "--import=mylab") == 0
  said = capsys.readouterr()
  assert "reproduced." in said.out and said.err == ""
  labelled = experiments.open_sweep(folder)
  assert labelled.equals(data)
  assert labelled["kernel_norm"].attrs["long_name"] == "Frobenius norm of the recurrent kernel"
  assert labelled.attrs["task"] == "first_number" and labelled.attrs["baseline"] == 1 / 12

  text = plugin.EXAMPLE.replace('if "kernel_norm" not in gradients:', "if look.bandwidth:")
  (lab / "mylab.py").write_text(text)
  importlib.reload(sys.modules["mylab"])
  assert program_here(plot, folder, *flags) == 0
  said = capsys.readouterr()
  assert "kernel.png" in said.out and "reach_by_kernel" not in said.out
  assert "the figure reach_by_kernel was not drawn: AttributeError: 'Look' object " in said.err
  assert "mylab.py, line " in said.err


def test_only_the_runs_of_an_edited_cell_are_trained_anew(
  tmp_path, monkeypatch, sweep_in_process, capsys
):
  package = plugin.write_package(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  folder = tmp_path / "sweep"
  flags = ("--import=mypackage", "--cell=first,second", "--task=adding", "--measures=size", *SMALL)

  def said() -> str:
    assert sweep_in_process(*flags, f"--output_dir={folder}") == 0
    both = capsys.readouterr()
    return both.out + both.err

  def stale() -> dict[str, str]:
    sizes = {"hidden_size": (3,), "sequence_length": (6,), "batch_size": (2,), "steps": (4,)}
    given = {"cell": ("first", "second"), "task": ("adding",), "measures": "size", **sizes}
    sweep = resolve({**given, "log_every": 2, "output_dir": str(folder)})
    states = run_files.statuses(folder, sweep.ids)
    found = origins.compare(sweep, {name: states[name]["code"] for name in sweep.ids}).stale
    return {name.partition("-")[0]: text for name, text in found.items()}

  assert "2 finished" in said() and not stale()
  code = json.loads((folder / "sweep.json").read_text())["code"]
  names = ("__init__", "first", "second", "sizes", "tools")
  assert code.keys() >= {f"mypackage/{name}.py" for name in names}

  plugin.write_cell(package, "second", gain=2.0)
  importlib.reload(sys.modules["mypackage.second"])
  text = said()
  assert "the records of 1 run are not used; their runs start again" in text
  assert "these files differ: mypackage/second.py (" in text and "1 of 2 runs already" in text
  assert not stale()

  (package / "tools.py").write_text("nothing = 0\n")  # which only the first cell imports
  importlib.reload(sys.modules["mypackage.first"])
  assert list(stale()) == ["first"] and "mypackage/tools.py" in stale()["first"]

  (package / "sizes.py").write_text((package / "sizes.py").read_text() + "\n")
  importlib.reload(sys.modules["mypackage.sizes"])
  assert list(stale()) == ["first", "second"]


def test_a_measure_with_dimensions_of_its_own_is_read_where_it_is_imported(
  tmp_path, monkeypatch, sweep_in_process, registered
):
  plugin.write_package(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  folder = tmp_path / "sweep"
  flags = ("--import=mypackage.sizes", "--cell=elman", "--task=adding", "--measures=size", *SMALL)
  assert sweep_in_process(*flags, f"--output_dir={folder}") == 0
  assert experiments.open_sweep(folder)["size"].sizes["entry"] == 2
  for name in ("mypackage", "mypackage.sizes"):
    del sys.modules[name]
  del MEASURES["size"]
  with pytest.raises(ValueError, match=r"pass --import=mypackage\.sizes, or in Python: "):
    experiments.open_sweep(folder)


def test_without_the_flag_the_modules_that_a_sweep_uses_are_recorded(lab):
  importlib.import_module("mylab")
  given = {"cell": ("slow_elman",), "task": ("adding",), "measures": ""}
  assert resolve(given).configuration["import"] == ["mylab"]
  assert "import" not in resolve({**given, "cell": ("elman",)}).configuration


def test_help_lists_what_is_registered(lab):
  ended = call(lab, "experiments.sweep", "--import=mylab", "--help")
  assert (ended.returncode, ended.stderr) == (0, "")
  page = " ".join(ended.stdout.split())
  assert "Registered by the modules of --import: cell slow_elman Leaky tanh RNN: h' = " in page
  assert "Options: rate. task first_number Name the first" in page
  assert "measure kernel Frobenius norm of each layer's recurrent kernel figure reach_b" in page


def test_the_cell_of_the_example_keeps_the_contract(lab):
  found = testing.check_cell(importlib.import_module("mylab").slow_elman(3))
  assert found["derivatives"] == "passed"


def test_tables_list_what_is_registered(lab, sweep_here, capsys):
  assert sweep_here("--import=mylab", "--list_cells") == 0
  row = "(1 − rate) h + rate · tanh(x W_x + h W_h + b). | rate=0.5 | Jaeger et al., 2007, https"
  assert row in capsys.readouterr().out
  assert sweep_here("--list_measures", "--import", "mylab") == 0
  assert "| `kernel` | Frobenius norm of each layer's recurrent kernel | nothing |" in (
    capsys.readouterr().out
  )
  assert sweep_here("--import=mylab", "--list_cells=slow_elman") == 0
  assert "| rate | 0.5 | a number | step size, from 0 to 1. |" in capsys.readouterr().out


def test_a_flagfile_may_import(lab, tmp_path, sweep_here):
  (tmp_path / "mine.flags").write_text("--cell=slow_elman\n--task=adding\n--import=mylab\n")
  flags = (f"--flagfile={tmp_path / 'mine.flags'}", *SMALL, f"--output_dir={tmp_path / 'out'}")
  assert sweep_here(*flags, "--dry_run") == 0


def test_a_worker_that_lacks_a_module_says_so(flags_of):
  job = worker.WorkerJob(["--import=absent_lab"], {}, [], [], [], ["/home/me/lab"], 1, 0)
  with (
    flags_of(types.SimpleNamespace()),
    pytest.raises(ValueError, match=f"On the worker {socket.gethostname()}: --import must .* got "),
  ):
    worker._resolve(job)


@pytest.mark.timeout(280)
def test_a_ray_worker_finds_the_module_where_the_driver_does(lab, tmp_path):
  soon = f"import sys; sys.path.append({str(lab)!r})\n"
  folder = tmp_path / "sweep"
  process = swept.start(*MINE, *SMALL, f"--output_dir={folder}", "--engine=ray", first=soon)
  out, err = process.communicate(timeout=200)
  assert process.returncode == 0, err
  assert "Runs: 1 finished, 0 diverged, 0 failed." in out


def test_a_language_model_with_a_cell_of_a_plugin(
  lab, tmp_path, program_here, capfd, optax_promotion
):
  text = tmp_path / "text.txt"
  text.write_bytes(b"the cat sat on the mat.\n" * 40)
  folder = tmp_path / "model"
  flags = ("--import=mylab", f"--corpus={text}", "--cell=slow_elman", "--steps=20", "--window=8")
  sizes = ("--hidden_size=4", "--batch_size=2", f"--output_dir={folder}")
  assert program_here(language_model, *flags, *sizes) == 0
  said = capfd.readouterr().out
  assert f"language_model --import=mylab --output_dir={folder} --sample" in said
  about = json.loads((folder / "model.json").read_text())
  assert about["import"] == ["mylab"] and "mylab.py" in about["code"]
  assert "\n--import=mylab\n" in (folder / "language_model.flags").read_text()
  del sys.modules["mylab"]
  slow = CELLS.pop("slow_elman")
  assert program_here(language_model, f"--output_dir={folder}", "--sample") == 2
  assert "pass --import=mylab, or in Python: import mylab." in capfd.readouterr().err
  CELLS["slow_elman"] = slow
  flags = ("--import=mylab", f"--output_dir={folder}", "--sample", "--length=5")
  assert program_here(language_model, *flags) == 0
