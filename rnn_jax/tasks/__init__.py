"""Tasks: sequence problems for training, each with its data, its loss and a baseline loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rnn_jax.tasks.charlm import charlm
from rnn_jax.tasks.digits import digits, permuted_digits, sequential_digits, spelling
from rnn_jax.tasks.recall import associative_recall, selective_copying
from rnn_jax.tasks.reordering import reverse, sort
from rnn_jax.tasks.state_tracking import flip_flop, group_word_problem, parity, s3, s5
from rnn_jax.tasks.synthetic import adding, copy_memory, temporal_order
from rnn_jax.tasks.tagging import tagging
from rnn_jax.tasks.task import Batch, Task
from rnn_jax.tasks.teacher_student import teacher_student
from rnn_jax.tasks.working_memory import delayed_match_to_sample, delayed_xor

__all__ = [
  "TASKS",
  "Batch",
  "Task",
  "adding",
  "associative_recall",
  "charlm",
  "copy_memory",
  "delayed_match_to_sample",
  "delayed_xor",
  "digits",
  "flip_flop",
  "group_word_problem",
  "parity",
  "permuted_digits",
  "reverse",
  "s3",
  "s5",
  "selective_copying",
  "sequential_digits",
  "sort",
  "spelling",
  "tagging",
  "teacher_student",
  "temporal_order",
]

# The tasks that `experiments.sweep` can train on. Each takes `(sequence_length, batch_size)`;
# all its sequences have this length, and a target at the last step.
TASKS: Mapping[str, Callable[..., Task]] = {
  "adding": adding,
  "associative_recall": associative_recall,
  "charlm": charlm,
  "copy_memory": copy_memory,
  "delayed_match_to_sample": delayed_match_to_sample,
  "delayed_xor": delayed_xor,
  "flip_flop": flip_flop,
  "parity": parity,
  "permuted_digits": permuted_digits,
  "s3": s3,
  "s5": s5,
  "selective_copying": selective_copying,
  "sequential_digits": sequential_digits,
  "teacher_student": teacher_student,
  "temporal_order": temporal_order,
}
