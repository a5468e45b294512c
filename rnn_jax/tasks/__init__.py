"""Tasks: sequence problems for training, each with its data, its loss and a baseline loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, overload

from rnn_jax import checks, registry
from rnn_jax.tasks.charlm import charlm
from rnn_jax.tasks.data_file import DataFile, data_file, load_data_file
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
  "DataFile",
  "Task",
  "adding",
  "associative_recall",
  "charlm",
  "copy_memory",
  "data_file",
  "delayed_match_to_sample",
  "delayed_xor",
  "digits",
  "flip_flop",
  "group_word_problem",
  "load_data_file",
  "parity",
  "permuted_digits",
  "register_task",
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

# The tasks that `experiments.sweep` can train on. Each takes `(sequence_length, batch_size)`,
# and `data_file` the data, too. All sequences have this length, and a target at the last step.
TASKS: Mapping[str, Callable[..., Task]] = {
  "adding": adding,
  "associative_recall": associative_recall,
  "charlm": charlm,
  "copy_memory": copy_memory,
  "data_file": data_file,
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

A = ParamSpec("A")


@overload
def register_task(constructor: Callable[A, Task], /) -> Callable[A, Task]: ...
@overload
def register_task(*, name: str) -> Callable[[Callable[A, Task]], Callable[A, Task]]: ...
def register_task(constructor: Any = None, /, *, name: str | None = None) -> Any:
  """Adds a task's constructor to `TASKS`; a decorator.

    @register_task
    def my_task(sequence_length: int, batch_size: int) -> Task:
      \"\"\"My task: ….\"\"\"

  Args:
    constructor: the constructor, called as `constructor(sequence_length, batch_size)`; further
      parameters have defaults. All its sequences have the full length, and a target at the last
      step.
    name: name of the task; if not given, the constructor's name.
  Returns:
    The constructor.
  Raises:
    ValueError: if the name is taken, the signature is another one, or there is no docstring.
    TypeError: if `constructor` is not a function.
  """
  if constructor is None:
    return lambda given: _register_task(given, name)
  return _register_task(constructor, name)


def _register_task(constructor: Callable[A, Task], name: str | None) -> Callable[A, Task]:
  checks.function("constructor", constructor)
  name = getattr(constructor, "__name__", "") if name is None else name
  parameters = inspect.signature(constructor).parameters.values()
  required = [p.name for p in parameters if p.default is p.empty]
  keywords = [p for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
  if required != ["sequence_length", "batch_size"] or keywords:
    raise ValueError(
      f"task {name!r} must have the signature (sequence_length, batch_size), got "
      f"{inspect.signature(constructor)}."
    )
  registry.register("task", TASKS, name, constructor, constructor)
  return constructor
