"""Tests of the hidden sizes of a sweep's networks, chosen to meet a parameter budget."""

from __future__ import annotations

from rnn_jax.cells import CELLS, elman


def test_a_dry_run_says_where_a_setting_has_no_effect(tmp_path, capsys, sweep_here):
  flags = ("--task=adding", "--cell=gru,lstm", "--forget_bias=0,1", "--dry_run")
  assert sweep_here(*flags, f"--output_dir={tmp_path}") == 0
  *_, note, counts = capsys.readouterr().out.splitlines()
  assert note == "forget_bias has no effect on gru" and counts.startswith("3 runs, ")


def test_a_dry_run_prints_the_hidden_sizes_that_meet_the_budget(tmp_path, capsys, sweep_here):
  flags = "--task=adding --cell=elman,gru --depth=1,2 --match_params=5000"
  options = ("--cell_option=activation=relu,tanh", "--dry_run", f"--output_dir={tmp_path}")
  assert sweep_here(*flags.split(), *options) == 0
  groups = [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()]
  # With D = 2 inputs and hidden size H, an Elman network has H (D + H + 1) params at depth 1, and
  # H (D + H + 1) + H (2 H + 1) at depth 2. A GRU of the same size has three times as many.
  assert [group for group in groups if group.endswith("units")] == [
    "elman activation=relu, depth 1, 69 units",
    "elman activation=tanh, depth 1, 69 units",
    "elman activation=relu, depth 2, 40 units",
    "elman activation=tanh, depth 2, 40 units",
    "gru, depth 1, 39 units",
    "gru, depth 2, 23 units",
  ]
  assert groups[-1].startswith("6 runs, 6 groups")


def test_a_budget_that_cannot_be_met_is_answered_with_the_nearest_one(tmp_path, capsys, sweep_here):
  flags = ("--task=adding", "--cell=elman,gru", "--dry_run", f"--output_dir={tmp_path}")
  assert sweep_here("--match_params=45", *flags) == 2
  # An Elman network has H (3 + H) params: 28, 40, 54, …, and a GRU three times as many: 30, 54, ….
  assert capsys.readouterr().err == (
    "error: --match_params must be met within 5% by some hidden size; the nearest one of elman, "
    "depth 1 is 5, with 40 params, got 45. The nearest budget that all 2 networks meet is "
    "--match_params=52.\n"
  )
  assert sweep_here("--match_params=52", *flags) == 0


def test_hidden_sizes_that_a_cell_refuses_are_skipped_or_reported(
  tmp_path, capsys, sweep_here, monkeypatch
):
  def clock(hidden_size, *, modules=8):
    if hidden_size % modules:
      raise ValueError(f"hidden_size must be a multiple of modules={modules}, got {hidden_size}.")
    return elman(hidden_size)

  monkeypatch.setitem(CELLS, "elman", clock)
  flags = ("--task=adding", "--cell_option=modules=12", "--dry_run", f"--output_dir={tmp_path}")
  assert sweep_here("--match_params=5300", *flags) == 0
  assert "elman modules=12, depth 1, 72 units" in capsys.readouterr().out
  assert sweep_here("--hidden_size=64", *flags) == 2
  error = capsys.readouterr().err
  assert error == (
    "error: --cell=elman --cell_option=modules=12: hidden_size must be a multiple of modules=12, "
    "got 64.\n"
  )
