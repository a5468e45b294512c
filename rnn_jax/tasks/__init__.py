"""Tasks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rnn_jax.tasks.charlm import charlm
from rnn_jax.tasks.synthetic import adding, copy_memory, temporal_order
from rnn_jax.tasks.task import Batch, Task

__all__ = ["TASKS", "Batch", "Task", "adding", "charlm", "copy_memory", "temporal_order"]

TASKS: Mapping[str, Callable[..., Task]] = {
  "adding": adding,
  "charlm": charlm,
  "copy_memory": copy_memory,
  "temporal_order": temporal_order,
}
