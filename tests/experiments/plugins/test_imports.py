"""Tests of modules that `--import` cannot use, or in which there are mistakes."""

from __future__ import annotations

import plugin
import pytest

SMALL = ("--hidden_size=3", "--sequence_length=6", "--batch_size=2", "--steps=4")


@pytest.mark.parametrize(
  ("text", "given", "message"),
  [
    ("", "absent", "got 'absent', which was not found."),
    ("", "mylab.absent", "got 'mylab.absent', which was not found."),
    ("", "json", "register a cell, task, measure or figure, got 'json', which registers none."),
    ("", "mylab.py", "got the file 'mylab.py'; pass the module's name, --import=mylab."),
    ("", "my lab", "--import must name Python modules, such as mylab or mylab.cells, got"),
    ("", "__main__", "--import must not be __main__, which stands for the script or notebook"),
    ("x = 1\nraise KeyError('x')", "mylab", "--import=mylab: KeyError: 'x' ({lab}, line 2)"),
    ("def f(:", "mylab", "--import=mylab: SyntaxError: invalid syntax ({lab}, line 1)"),
    ("import absent", "mylab", "No module named 'absent' ({lab}, line 1)"),
    ("import sys\nsys.exit()", "mylab", "--import=mylab: SystemExit ({lab}, line 2)"),
  ],
)
def test_a_module_that_cannot_be_imported_is_named(lab, sweep_here, capsys, text, given, message):
  (lab / "mylab.py").write_text(text)
  assert sweep_here(f"--import={given}", "--dry_run") == 2
  said = capsys.readouterr().err
  assert said.startswith("error: ") and said.count("\n") == 1
  assert message.format(lab=lab / "mylab.py") in said


def test_mistakes_in_a_module_are_placed(lab, sweep_here, capsys, tmp_path):
  text = plugin.EXAMPLE.replace("return Batch(", "return Batsch(")
  text = text.replace("elman(hidden_size)", "elman(hidden_size, 3)")
  (lab / "mylab.py").write_text(text)
  flags = ("--import=mylab", *SMALL, f"--output_dir={tmp_path / 'out'}")
  assert sweep_here(*flags, "--cell=slow_elman", "--task=adding") == 2
  said = capsys.readouterr().err
  assert "--cell=slow_elman: TypeError: " in said and "mylab.py, line " in said
  assert sweep_here(*flags, "--task=first_number") == 2
  said = capsys.readouterr().err
  assert said.startswith("error: NameError: ") and "mylab.py, line " in said
  assert said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_module_must_not_change_settings(lab, sweep_here, capsys, tmp_path):
  (lab / "mylab.py").write_text(
    f"import jax\njax.config.update('jax_enable_x64', True)\n{plugin.EXAMPLE}"
  )
  flags = ("--import=mylab", "--task=adding", *SMALL, f"--output_dir={tmp_path / 'out'}")
  assert sweep_here(*flags, "--dry_run") == 0
  assert (
    "mylab set jax_enable_x64 to True; this command resets it to False" in capsys.readouterr().err
  )
