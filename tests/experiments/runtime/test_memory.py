"""Programs that do not fit into the machine's memory are refused before they run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from experiments.runtime import memory


def test_a_program_that_exceeds_the_memory_is_refused(monkeypatch):
  program = jax.jit(jnp.cumsum).lower(jnp.zeros(2**16)).compile()  # reads and writes 256 KiB each
  memory.check_program(program, 1)
  monkeypatch.setattr(memory.os, "sysconf", lambda name: 2**10)  # 1 MiB of memory
  memory.check_program(program, 1)
  says = "the program must fit into this machine's 0 GiB; on 4 devices it needs 0 GiB"
  with pytest.raises(ValueError, match=says):
    memory.check_program(program, 4)
