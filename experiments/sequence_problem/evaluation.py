"""Evaluation of a network on a sequence problem: loss, accuracy and examples of its answers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key

from experiments.sequence_problem.problem import Problem
from experiments.sequence_problem.settings import Settings
from rnn_jax.losses import masked_mean
from rnn_jax.modules import ConditionedDecoder, DecoderInputs, EncoderDecoder, Model
from rnn_jax.sampling import decode
from rnn_jax.tasks import Batch, Task
from rnn_jax.tasks.digits import LETTERS
from rnn_jax.tasks.tagging import class_entropy
from rnn_jax.text import Vocabulary
from rnn_jax.text.python_source import CLASSES
from rnn_jax.types import Params

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
# A published result on the images of digits, with the same train and test parts as here.
PUBLISHED: Mapping[str, Any] = {
  "accuracy": 0.97,
  "of": "a support vector machine on whole images, with the same split",
  "source": "https://scikit-learn.org/stable/auto_examples/classification/"
  "plot_digits_classification.html",
}


def evaluate(
  settings: Settings, problem: Problem, params: Params, key: Key[Array, ""]
) -> dict[str, Any]:
  """Computes a trained network's loss and accuracy on held-out examples, and shows some answers.

  The examples come from the problem's test part or, for `encoder_decoder`, are newly drawn. For a
  classifier, `accuracy` is the share of correct classes. For a decoder, `accuracy` is the share of
  sequences whose tokens are all correct, including `<eos>`, under greedy decoding, and
  `sampled_accuracy` is this share for sequences sampled at temperature 1.

  Args:
    settings: the problem's settings.
    problem: the task and the network.
    params: the trained params.
    key: random key.
  Returns:
    Entries of result.json.
  """
  task, variables = problem.test, {"params": params}
  data_key, decode_key = jax.random.split(key)
  batch: Batch = jax.jit(task.batch)(task.data, data_key)
  loss_and_answers = jax.jit(functools.partial(_loss_and_answers, task, problem.model))
  loss, answers = jax.device_get(loss_and_answers(variables, batch))
  batch = jax.device_get(batch)
  metrics: dict[str, Any] = {
    "problem": settings.problem,
    "held_out": batch.mask.shape[1],
    "loss": float(loss),
    "baseline": task.baseline,
    "unit": task.unit,
  }
  if isinstance(problem.model, ConditionedDecoder | EncoderDecoder):
    return metrics | _decoder_metrics(settings, problem.model, variables, batch, decode_key)
  metrics["accuracy"] = float(np.mean((batch.targets == answers)[batch.mask]))
  if problem.vocabulary is not None:
    metrics["baseline_given_character"] = class_entropy(problem.train.data, given_character=True)
    metrics["examples"] = _tagging_examples(problem.vocabulary, batch, answers)
  else:
    metrics["published"] = dict(PUBLISHED)
    metrics["examples"] = [
      {"digit": str(digit), "answer": str(answer)}
      for digit, answer in zip(
        batch.targets[-1][:NUM_EXAMPLES], answers[-1][:NUM_EXAMPLES], strict=True
      )
    ]
  return metrics


def summary(metrics: Mapping[str, Any]) -> list[str]:
  """Formats the metrics that `evaluate` returned as lines of text."""
  unit = metrics["unit"]
  line = (
    f"{metrics['problem']}: loss {metrics['loss']:.4f} {unit} on {metrics['held_out']} held-out "
    f"examples, baseline {metrics['baseline']:.4f}"
  )
  if "baseline_given_character" in metrics:
    line += f", {metrics['baseline_given_character']:.4f} given the character"
  lines = [line]
  if "sampled_accuracy" in metrics:
    lines.append(
      f"accuracy {metrics['accuracy']:.4f} of whole sequences under greedy decoding, "
      f"{metrics['sampled_accuracy']:.4f} sampled at temperature 1"
    )
  else:
    lines.append(f"accuracy {metrics['accuracy']:.4f}")
  if "published" in metrics:
    published = metrics["published"]
    lines.append(f"published: {published['accuracy']}, {published['of']}, {published['source']}")
  for example in metrics["examples"]:
    if "text" in example:  # characters and their classes, aligned one below the other
      lines += [f"  {name:8}{value}" for name, value in example.items()]
    else:
      lines.append("".join(f"  {name} {value}" for name, value in example.items()))
  return lines


def _loss_and_answers(
  task: Task, model: Model, variables: dict[str, Params], batch: Batch
) -> tuple[Float[Array, ""], Int[Array, "T B"]]:
  """Returns a batch's mean loss over its mask, and the likeliest class or token at each step."""
  apply: Callable[..., Any] = model.apply
  time = {} if batch.lengths is None else {"lengths": batch.lengths}
  _, outputs = apply(variables, batch.xs, **time)
  loss = masked_mean(task.loss(outputs, batch.targets), batch.mask)
  return loss, jnp.argmax(outputs, axis=-1)


def _decoder_metrics(
  settings: Settings,
  model: ConditionedDecoder | EncoderDecoder,
  variables: dict[str, Params],
  batch: Batch,
  key: Key[Array, ""],
) -> dict[str, Any]:
  """Generates sequences, greedily and by sampling, and returns their accuracies and examples."""
  num_steps = len(batch.mask)

  @jax.jit
  def greedy_and_sampled(
    variables: dict[str, Params], xs: DecoderInputs
  ) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
    return (
      decode(model, variables, xs, key, num_steps, eos=EOS, temperature=0),
      decode(model, variables, xs, key, num_steps, eos=EOS),
    )

  greedy, sampled = jax.device_get(greedy_and_sampled(variables, batch.xs))
  return {
    "accuracy": _share_correct(greedy, np.asarray(batch.targets)),
    "sampled_accuracy": _share_correct(sampled, np.asarray(batch.targets)),
    "examples": _decoder_examples(settings, batch, greedy, sampled),
  }


def _share_correct(
  generated: Integer[np.ndarray, "T B"], targets: Integer[np.ndarray, "T B"]
) -> float:
  """Returns the share of generated sequences that equal their targets, `<eos>` padding included."""
  return float(np.mean(np.all(generated == targets, axis=0)))


def _decoder_examples(
  settings: Settings,
  batch: Batch,
  greedy: Integer[np.ndarray, "T B"],
  sampled: Integer[np.ndarray, "T B"],
) -> list[dict[str, str]]:
  """Returns a batch's first examples as text: source, target, greedy and sampled sequence."""
  is_spelling = settings.problem == "one_to_many"

  def text(tokens: Iterable[Any]) -> str:
    """Formats tokens up to their first `<eos>`, as letters or as digits."""
    symbols = [int(token) for token in tokens]
    symbols = symbols[: symbols.index(EOS)] if EOS in symbols else symbols
    return "".join(LETTERS[s - 1] if is_spelling else str(s) for s in symbols)

  examples = []
  for b in range(min(NUM_EXAMPLES, batch.mask.shape[1])):
    source = {} if is_spelling else {"source": text(batch.xs.source[:, b])}
    target, best, drawn = (text(tokens[:, b]) for tokens in (batch.targets, greedy, sampled))
    examples.append({**source, "target": target, "greedy": best, "sampled": drawn})
  return examples


def _tagging_examples(
  vocabulary: Vocabulary, batch: Batch, answers: Integer[np.ndarray, "T B"]
) -> list[dict[str, str]]:
  """Returns a batch's first lines, with a sign for each character's true and predicted class."""
  examples = []
  for b in range(min(NUM_EXAMPLES, batch.mask.shape[1])):
    valid = batch.mask[:, b]
    tokens, *classes = (np.asarray(a)[valid, b] for a in (batch.xs, batch.targets, answers))
    right, answer = ("".join(_SIGNS[CLASSES[i]] for i in row) for row in classes)
    # latin-1 decodes every byte to one character, so that text and signs stay aligned.
    text = vocabulary.decode(tokens).decode("latin-1")
    text = "".join(c if c.isprintable() else "·" for c in text)
    examples.append({"text": text, "classes": right, "answer": answer})
  return examples
