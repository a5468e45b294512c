"""How well a network solves a sequence problem, and some of its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.sequence_problem.settings import Problem, Settings
from rnn_jax.losses import masked_mean
from rnn_jax.modules import ConditionedDecoder, EncoderDecoder
from rnn_jax.sampling import decode
from rnn_jax.tasks import Batch
from rnn_jax.tasks.digits import LETTERS
from rnn_jax.tasks.tagging import class_entropy
from rnn_jax.text import Vocabulary
from rnn_jax.text.python_source import CLASSES
from rnn_jax.types import Array

EOS = 0
NUM_EXAMPLES = 5
_SIGNS = {
  "space": ".",
  "keyword": "k",
  "name": "n",
  "number": "0",
  "string": "s",
  "comment": "c",
  "operator": "o",
}
# Of the same images, each shown whole: 0.97 of the second half, learned from the first.
PUBLISHED: Mapping[str, Any] = {
  "accuracy": 0.97,
  "of": "a support vector machine that sees whole images, on the same ones",
  "source": "https://scikit-learn.org/stable/auto_examples/classification/"
  "plot_digits_classification.html",
}


def judge(settings: Settings, problem: Problem, params: Any, key: Array) -> dict[str, Any]:
  """Loss, accuracy and examples on the test part, or on sequences drawn anew.

  Accuracy is the share of right answers; of a network that writes, the share of sequences that are
  right to their `<eos>`, written greedily. `sampled_accuracy` is that of sequences drawn at
  temperature 1.

  Args:
    settings: of the problem.
    problem: task and network.
    params: trained.
    key: random key.
  Returns:
    What result.json says of it.
  """
  task, model = problem.test, problem.model
  variables = {"params": params}
  data_key, decode_key = jax.random.split(key)
  batch: Batch = jax.jit(task.batch)(task.data, data_key)

  @jax.jit
  def answers(variables: Any, batch: Batch) -> tuple[Array, Array]:
    apply: Callable[..., Any] = model.apply
    time = {} if batch.lengths is None else {"lengths": batch.lengths}
    _, outputs = apply(variables, batch.xs, **time)
    loss = masked_mean(task.loss(outputs, batch.targets), batch.mask)
    return loss, jnp.argmax(outputs, axis=-1)

  loss, best = jax.device_get(answers(variables, batch))
  right = np.asarray(batch.targets) == best
  verdict: dict[str, Any] = {
    "problem": settings.problem,
    "held_out": batch.mask.shape[1],
    "loss": float(loss),
    "baseline": task.baseline,
    "unit": task.unit,
  }
  batch = jax.device_get(batch)
  if isinstance(model, ConditionedDecoder | EncoderDecoder):
    num_steps = len(batch.mask)

    @jax.jit
    def greedy_and_sampled(variables: Any, xs: Any) -> tuple[Array, Array]:
      return (
        decode(model, variables, xs, decode_key, num_steps, eos=EOS, temperature=0),
        decode(model, variables, xs, decode_key, num_steps, eos=EOS),
      )

    greedy, sampled = jax.device_get(greedy_and_sampled(variables, batch.xs))
    verdict["accuracy"] = _share_equal(greedy, batch.targets)
    verdict["sampled_accuracy"] = _share_equal(sampled, batch.targets)
    verdict["examples"] = _generated(settings, batch, greedy, sampled)
  else:
    verdict["accuracy"] = float(np.mean(right[batch.mask]))
    if problem.vocabulary is not None:
      verdict["baseline_given_character"] = class_entropy(problem.train.data, given_character=True)
      verdict["examples"] = _tagged(problem.vocabulary, batch, best)
    else:
      verdict["published"] = dict(PUBLISHED)
      verdict["examples"] = [
        {"digit": str(digit), "answer": str(answer)}
        for digit, answer in zip(batch.targets[-1], best[-1][:NUM_EXAMPLES], strict=False)
      ]
  return verdict


def lines(verdict: Mapping[str, Any]) -> list[str]:
  """A verdict, as a reader is told of it."""
  unit = verdict["unit"]
  told = [
    f"{verdict['problem']}, {verdict['held_out']} held out: loss {verdict['loss']:.4f} {unit}, "
    f"baseline {verdict['baseline']:.4f}"
  ]
  if "baseline_given_character" in verdict:
    told[0] += f", {verdict['baseline_given_character']:.4f} who sees the character alone"
  told.append(f"accuracy {verdict['accuracy']:.4f}")
  if "sampled_accuracy" in verdict:
    told[-1] += f" of sequences written greedily, {verdict['sampled_accuracy']:.4f} of sampled ones"
  if "published" in verdict:
    published = verdict["published"]
    told.append(f"published {published['accuracy']}: {published['of']}, {published['source']}")
  for example in verdict["examples"]:
    shown = [f"  {name} {value}" for name, value in example.items()]
    # A character and its class are one above the other.
    told += (
      [f"  {name:8}{v}" for name, v in example.items()] if "text" in example else ["".join(shown)]
    )
  return told


def _share_equal(generated: Any, targets: Any) -> float:
  """The share of sequences that are right; past its end each is `<eos>`."""
  return float(np.mean(np.all(generated == targets, axis=0)))


def _generated(settings: Settings, batch: Batch, greedy: Any, sampled: Any) -> list[dict[str, str]]:
  spelled = settings.problem == "one_to_many"

  def words(tokens: Any) -> str:
    """Tokens up to their `<eos>`."""
    symbols = [int(token) for token in tokens]
    symbols = symbols[: symbols.index(EOS)] if EOS in symbols else symbols
    return "".join(LETTERS[s - 1] if spelled else str(s) for s in symbols)

  rows = []
  for b in range(min(NUM_EXAMPLES, batch.mask.shape[1])):
    source = {} if spelled else {"source": words(batch.xs.source[:, b])}
    target, best, drawn = (words(tokens[:, b]) for tokens in (batch.targets, greedy, sampled))
    rows.append({**source, "target": target, "greedy": best, "sampled": drawn})
  return rows


def _tagged(vocabulary: Vocabulary, batch: Batch, best: Any) -> list[dict[str, str]]:
  """Lines of text, with a sign for each character's class below."""
  rows = []
  for b in range(min(NUM_EXAMPLES, batch.mask.shape[1])):
    valid = batch.mask[:, b]
    text, *classes = (np.asarray(a)[valid, b] for a in (batch.xs, batch.targets, best))
    right, answer = ("".join(_SIGNS[CLASSES[i]] for i in of) for of in classes)
    # A character of one place each, whatever the text holds.
    shown = vocabulary.decode(text).decode("latin-1")
    shown = "".join(c if c.isprintable() else "·" for c in shown)
    rows.append({"text": shown, "classes": right, "answer": answer})
  return rows
