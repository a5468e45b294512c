"""Tasks: sequence problems for training, each with its data, its loss and a baseline loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rnn_jax.tasks.charlm import charlm
from rnn_jax.tasks.digits import digits, sequential_digits, spelling
from rnn_jax.tasks.reordering import reverse, sort
from rnn_jax.tasks.synthetic import adding, copy_memory, temporal_order
from rnn_jax.tasks.tagging import tagging
from rnn_jax.tasks.task import Batch, Task

__all__ = [
  "TASKS",
  "Batch",
  "Task",
  "adding",
  "charlm",
  "copy_memory",
  "digits",
  "reverse",
  "sequential_digits",
  "sort",
  "spelling",
  "tagging",
  "temporal_order",
]

# The tasks that `experiments.sweep` can train on. Each takes `(sequence_length, batch_size)`;
# all its sequences have this length, and a target at the last step.
TASKS: Mapping[str, Callable[..., Task]] = {
  "adding": adding,
  "charlm": charlm,
  "copy_memory": copy_memory,
  "sequential_digits": sequential_digits,
  "temporal_order": temporal_order,
}
