"""A test of a small sweep's records, which `test_optimized.py` runs with LLVM's optimizations."""

from __future__ import annotations

from swept import contents

SWEEP = [
  "--task=adding",
  "--cell=elman",
  "--depth=1",
  "--truncation=full,4",
  "--seed=0,1",
  "--steps=12",
  "--hidden_size=8",
  "--sequence_length=16",
  "--batch_size=4",
  "--measures=none",
]


def test_records_do_not_depend_on_the_number_of_devices(sweep_in_process, tmp_path):
  folders = [tmp_path / str(devices) for devices in (1, 2)]
  for folder in folders:
    assert sweep_in_process(*SWEEP, f"--devices={folder.name}", f"--output_dir={folder}") == 0
  first, second = map(contents, folders)
  assert len(first) > 3 and first == second
