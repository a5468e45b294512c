"""The table of the flags that are axes of a sweep."""

from __future__ import annotations

from experiments.cli import plugins
from experiments.cli.flag_table import Flag
from experiments.cli.parsers import (
  Parse,
  choice,
  integer,
  number,
  positive,
)
from experiments.networks import cell_options, layers
from experiments.sweep.config.runs import INITIALIZATIONS
from rnn_jax import checks
from rnn_jax.cells import CELLS
from rnn_jax.estimators import ESTIMATORS, estimator_name
from rnn_jax.optimizers import CLIP_BY, OPTIMIZERS, SCHEDULES
from rnn_jax.precision import DTYPES
from rnn_jax.tasks import TASKS


def _nonnegative(name: str) -> Parse:
  """Returns the parser of a number that may be zero."""
  return number(name, "a finite number from 0", lambda v: v >= 0)


def _gradient(text: str) -> str:
  """Parses the name of a gradient estimator; returns it with its number."""
  estimators = [name for name in ESTIMATORS if name != "tbptt"]  # that is bptt with --truncation
  checks.choice("gradient", text.rstrip("0123456789."), estimators)
  try:
    return estimator_name(text)
  except (TypeError, ValueError) as error:
    raise ValueError(f"gradient {text} has an invalid number: {error}") from None


_SCALE = number("loss_scale", "dynamic, or a finite number above 0", lambda v: v > 0, "none")

TABLE = (
  Flag(
    "cell",
    "elman",
    choice("cell", CELLS, hint=plugins.IMPORT_HINT),
    "Name of a cell; --list_cells prints a table of them.",
    "axis",
  ),
  Flag("depth", "1", integer("depth"), "Number of recurrent layers.", "axis"),
  Flag(
    "hidden_size", "64", integer("hidden_size"), "Hidden size of every recurrent layer.", "axis"
  ),
  layers.LAYER_NORM._replace(kind="axis"),
  layers.RESIDUAL._replace(kind="axis"),
  layers.DROPOUT._replace(kind="axis"),
  layers.ZONEOUT._replace(kind="axis"),
  Flag(
    "task",
    "charlm",
    choice("task", TASKS, hint=plugins.IMPORT_HINT),
    f"Task to learn: {', '.join(TASKS)}.",
    "axis",
  ),
  Flag("sequence_length", "128", integer("sequence_length"), "Time steps of a sequence.", "axis"),
  Flag("batch_size", "32", integer("batch_size"), "Sequences in a batch.", "axis"),
  Flag("steps", "200", integer("steps"), "Optimization steps of each run.", "axis"),
  Flag(
    "optimizer",
    "adam",
    choice("optimizer", OPTIMIZERS),
    f"Optimizer: {', '.join(OPTIMIZERS)}.",
    "axis",
  ),
  Flag(
    "dtype",
    "float32",
    choice("dtype", DTYPES),
    "Precision in which the network trains: float32, bfloat16 or float16. Params, optimizer, loss, "
    "held-out loss and all measures but underflow are in float32 always.",
    "axis",
  ),
  Flag(
    "loss_scale",
    "none",
    lambda text: text if text == "dynamic" else _SCALE(text),
    "Factor on the loss that keeps small gradients from becoming zero in half precision: a number; "
    "dynamic, which halves the factor and skips the update when a gradient overflows, and doubles "
    "it after 2000 updates without overflow; or none.",
    "axis",
  ),
  Flag(
    "truncation",
    "full",
    integer("truncation", none="full"),
    "Number of time steps after which backpropagation through time is cut, or full for no cut.",
    "axis",
  ),
  Flag(
    "gradient",
    "bptt",
    _gradient,
    "Gradient estimator: bptt (backpropagation through time, truncated by --truncation), artbpC "
    "(cuts each step with probability C, without bias), h_detachP (detaches h with probability P), "
    "fptt (backpropagated errors, computed forward in time), rtrl (real-time recurrent learning), "
    "snapN (rtrl with only the entries reached within N steps), rflo (rtrl without the recurrent "
    "path in the Jacobian), uoroS (rtrl approximated by S random rank-one matrices) or kf_rtrl "
    "(rtrl approximated by a random Kronecker product). Defaults: C 0.1, P 0.25, N 1, S 1.",
    "axis",
  ),
  Flag("seed", "0", integer("seed", minimum=0), "Seed of the params and of the data.", "axis"),
  Flag(
    "learning_rate",
    "0.002",
    positive("learning_rate"),
    "Learning rate of the optimizer.",
    "axis",
  ),
  Flag(
    "schedule",
    "constant",
    choice("schedule", SCHEDULES),
    "How the learning rate falls from the end of the warm-up to the last step: constant, not at "
    "all; linear or cosine, to 0.",
    "axis",
  ),
  Flag(
    "warmup",
    "0",
    integer("warmup", minimum=0),
    "Optimization steps over which the learning rate first grows from 0; fewer than --steps.",
    "axis",
  ),
  Flag(
    "momentum",
    "0",
    number("momentum", "a number from 0 to below 1", lambda v: 0 <= v < 1),
    "Momentum of sgd and rmsprop; adam has its own.",
    "axis",
  ),
  Flag(
    "weight_decay",
    "0",
    _nonnegative("weight_decay"),
    "Decoupled weight decay: each step subtracts learning rate times this times the params.",
    "axis",
  ),
  Flag(
    "clip_norm",
    "1.0",
    positive("clip_norm", none="none"),
    "Norm above which gradients are clipped, or none for no clipping; --clip_by selects what is "
    "clipped.",
    "axis",
  ),
  Flag(
    "clip_by",
    "global_norm",
    choice("clip_by", CLIP_BY),
    "What is clipped: global_norm, the whole gradient before each update; element, each of its "
    "entries; carry, dL/dh_t of each example's own loss at every time step of the backward pass; "
    "adaptive, the gradient of each unit's weights, where --clip_norm is its largest ratio to the "
    "norm of the weights.",
    "axis",
  ),
  Flag(
    "omega_penalty",
    "0",
    _nonnegative("omega_penalty"),
    "Weight of Pascanu's Ω in the objective, which keeps gradients from vanishing; 0 for none.",
    "axis",
  ),
  Flag(
    "spectral_penalty",
    "0",
    _nonnegative("spectral_penalty"),
    "Weight of (ρ - 1)² in the objective, for the spectral radius ρ of each recurrent kernel; 0 "
    "for none.",
    "axis",
  ),
  Flag(
    "flossing",
    "0",
    _nonnegative("flossing"),
    "Weight of the squares of the leading Lyapunov exponents in the objective (gradient flossing); "
    "0 for none.",
    "axis",
  ),
  Flag(
    "flossing_exponents",
    "1",
    integer("flossing_exponents"),
    "Number of Lyapunov exponents of each layer that flossing pushes toward 0.",
    "axis",
  ),
  Flag(
    "flossing_steps",
    "0",
    integer("flossing_steps", minimum=0),
    "Adam steps of gradient flossing before training, at the run's learning rate.",
    "axis",
  ),
  Flag(
    "initialization",
    "default",
    choice("initialization", INITIALIZATIONS),
    "How the params are drawn: default, as the cell says; critical, with the recurrent gain at "
    "which small perturbations of the zero state neither grow nor decay; unitary, real "
    "orthogonal W_x and W_h; lsuv, orthogonal kernels, with W_x scaled so that x W_x has variance "
    "1.",
    "axis",
  ),
  Flag(
    "recurrent_gain",
    "1.0",
    _nonnegative("recurrent_gain"),
    "Factor on the recurrent kernels at initialization, for cells that have them.",
    "axis",
  ),
  Flag(
    "forget_bias",
    "1.0",
    number("forget_bias", "a finite number", lambda v: True),
    "Bias of the forget gate at initialization, for cells that have one.",
    "axis",
  ),
  cell_options.flag(axis=True),
)
