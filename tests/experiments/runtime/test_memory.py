"""Programs that do not fit into the memory of the machine, or its container, are refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from experiments.runtime import memory


def test_a_program_that_exceeds_the_memory_is_refused(monkeypatch):
  xs = jax.ShapeDtypeStruct((2**28,), jnp.float32)
  program = jax.jit(jnp.negative).lower(xs).compile()  # reads and writes 1 GiB each
  memory.check_program(program, 1, "Lower it.")
  monkeypatch.setattr(memory.os, "sysconf", lambda name: 2**16)  # 4 GiB of memory
  memory.check_program(program, 1, "Lower it.")
  says = r"program needs 8\.0 GiB on 4 devices, but this machine has 4\.0 GiB\. Lower it\.$"
  with pytest.raises(ValueError, match=says):
    memory.check_program(program, 4, "Lower it.")


@pytest.mark.parametrize(
  ("group", "limits", "found"),
  [
    ("0::/", {"memory.max": "1024"}, 1024),
    ("0::/job/step", {"memory.max": "max", "job/memory.max": "512"}, 512),
    ("0::/outside", {"memory.max": "1024"}, 1024),
    ("4:cpu,memory:/job", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 2**20),
    ("4:memory:/job\n0::/", {"memory/job/memory.limit_in_bytes": "256"}, 256),
    ("4:cpu:/job", {"memory/job/memory.limit_in_bytes": "256"}, 2**20),
    ("0::/", {}, 2**20),
  ],
)
def test_limits_of_control_groups_apply(group, limits, found, tmp_path, monkeypatch):
  monkeypatch.setattr(memory.os, "sysconf", lambda name: 2**10)  # 1 MiB of memory
  (tmp_path / "group").write_text(group + "\n")
  for name, limit in limits.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(limit + "\n")
  assert memory.available(tmp_path / "group", tmp_path) == found


def test_without_control_groups_all_memory_is_available(tmp_path, monkeypatch):
  monkeypatch.setattr(memory.os, "sysconf", lambda name: 2**10)  # 1 MiB of memory
  assert memory.available(tmp_path / "missing", tmp_path) == 2**20
