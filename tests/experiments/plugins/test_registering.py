"""Tests of `register_cell`, `register_task`, `register_measure` and `register_figure`."""

from __future__ import annotations

import hashlib
import inspect

import pytest

import experiments
import rnn_jax
from experiments.cli import plugins
from experiments.runtime import provenance
from experiments.sweep.config.runs import DATA_TASK
from experiments.sweep.measures.table import MEASURES
from rnn_jax import registry, tasks
from rnn_jax.cells import CELLS, elman


def cell(hidden_size: int, *, gain: float = 1.0) -> rnn_jax.Cell:
  """A cell."""
  return elman(hidden_size, recurrent_gain=gain)


def test_a_function_may_be_registered_again_but_not_another():
  made = rnn_jax.register_cell(cell)
  assert rnn_jax.make_cell("cell", 3, gain=2.0) is made(3, gain=2.0)
  assert rnn_jax.register_cell(cell) is CELLS["cell"]
  rnn_jax.register_cell(name="other")(cell)
  assert registry.REGISTERED["cell", "other"].name == "cell"

  def another(hidden_size):
    """Another cell."""

  with pytest.raises(ValueError, match=r"'cell', which is taken by \S*test_registering.cell"):
    rnn_jax.register_cell(name="cell")(another)
  with pytest.raises(ValueError, match="name of a cell must be free, got 'lstm', which is taken"):
    rnn_jax.register_cell(name="lstm")(another)
  with pytest.raises(ValueError, match=r"name of a cell must be an identifier .* got 'my-cell'"):
    rnn_jax.register_cell(name="my-cell")(another)
  rnn_jax.register_cell(another)
  with pytest.raises(TypeError, match="what another returns must be a Cell, got None"):
    rnn_jax.make_cell("another", 3)


def no_docstring(hidden_size): ...


def no_text(sequence_length, batch_size): ...


@pytest.mark.parametrize(
  ("register", "function", "message"),
  [
    (rnn_jax.register_cell, lambda width: None, r"hidden_size, \*, option=default, ...\), got \("),
    (rnn_jax.register_cell, lambda hidden_size, rate=1: None, r"got \(hidden_size, rate=1\)"),
    (rnn_jax.register_cell, lambda hidden_size, *, rate: None, r"got \(hidden_size, \*, rate\)"),
    (rnn_jax.register_cell, no_docstring, "cell 'no_docstring' must have a docstring, whose"),
    (tasks.register_task, lambda length: None, r"\(sequence_length, batch_size\), got \(length"),
    (tasks.register_task, no_text, "task 'no_text' must have a docstring, whose first line"),
    (experiments.register_figure, lambda gradients, look: None, "must be an identifier"),
  ],
)
def test_what_cannot_be_registered_is_refused(register, function, message):
  with pytest.raises(ValueError, match=message):
    register(function)


def test_measures_and_figures_with_taken_names_are_refused():
  measure = MEASURES["omega"]._replace(labels={})
  with pytest.raises(ValueError, match="name of a measure must be free, got 'lag'"):
    experiments.register_measure("lag", measure)
  with pytest.raises(ValueError, match="name of a measure must be free, got 'training'"):
    experiments.register_measure("training", measure)
  with pytest.raises(ValueError, match="got 'omega', which measure 'omega' records"):
    experiments.register_measure("mine", measure._replace(labels={"omega": ""}))
  with pytest.raises(ValueError, match="dims of measure 'mine' must be identifiers other than run"):
    experiments.register_measure("mine", measure._replace(dims=("step",)))
  with pytest.raises(TypeError, match="measure must be a Measure, got 3"):
    experiments.register_measure("mine", 3)

  def training(gradients, look):
    """A figure."""

  with pytest.raises(ValueError, match="name of a figure must be free, got 'training'"):
    experiments.register_figure(training)


def test_the_cells_and_tasks_of_this_project_have_the_signatures_that_users_need():
  for name, constructor in [*CELLS.items()]:
    rnn_jax.register_cell(name=f"{name}_again")(constructor)
  for name, constructor in [*tasks.TASKS.items()]:
    if name != DATA_TASK:  # which takes the data of --data_file, too
      tasks.register_task(name=f"{name}_again")(constructor)
  assert len({entry.summary for entry in registry.REGISTERED.values()}) > len(CELLS) // 2


def test_the_code_of_a_script_is_that_of_its_functions():
  def mine(hidden_size: int) -> rnn_jax.Cell:
    """A cell."""
    return elman(hidden_size)

  mine.__module__ = "__main__"
  rnn_jax.register_cell(mine)
  name = f"__main__.{mine.__qualname__}"
  found = provenance.code("experiments.sweep.training.rounds", "mine", "adding", ())
  assert {name, "rnn_jax/cells/elman.py"} <= found.keys()
  assert found[name] == hashlib.sha256(inspect.getsource(mine).encode()).hexdigest()
  other = provenance.code("experiments.sweep.training.rounds", "lstm", "adding", ())
  assert name not in other
  assert plugins.used(["mine"], [], []) == ["__main__"]
  assert plugins.missing({"import": ["__main__"]}) == []
  del registry.REGISTERED["cell", "mine"]
  assert plugins.missing({"import": ["__main__", "os", "a b", 3]}) == ["__main__"]


def test_the_code_of_an_installed_plugin_has_a_version(monkeypatch):
  monkeypatch.setitem(
    registry.REGISTERED, ("cell", "x"), registry.Entry("jaxtyping.x", "x", "X.", cell)
  )
  assert provenance.plugins() == ["jaxtyping"]
