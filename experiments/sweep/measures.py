"""The measures of gradient flow that a sweep can record in addition to the gradient norms."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cli import tables
from rnn_jax import checks, registry
from rnn_jax.estimators import Comparison, Estimator, estimator_bias
from rnn_jax.gradient_flow import (
  curvature,
  decay_rate,
  effective_memory,
  half_life,
  jacobian_norm,
  joint_size,
  lag_profile,
  lyapunov_spectrum,
  newton_in_time,
  omega,
  saturation,
  truncation_bias,
  underflow,
  weight_share_norms,
)
from rnn_jax.losses import masked_mean
from rnn_jax.modules import DeepRNN
from rnn_jax.precision import at_least_float32, cast
from rnn_jax.tasks import Batch, Task
from rnn_jax.types import Array, Carry, Cell, Params

Variables = dict[str, Array]


class Moment(NamedTuple):
  """What measures are computed from: a run at one optimization step, before the update.

  Attributes:
    model: the network.
    params: the network's params.
    task: the task.
    batch: the whole batch of the step.
    share: the examples of the batch that this device processes; all of them unless several devices
      share the batch.
    estimator: the rule for the gradient through time.
    mean: maps values [..., examples], for the examples in `share`, to their mean [...] over the
      whole batch.
    dtype: the run's precision.
    loss_scale: factor on the loss in the step's update.
  """

  model: DeepRNN
  params: Params
  task: Task
  batch: Batch
  share: Batch
  estimator: Estimator
  mean: Callable[[Array], Array]
  dtype: str = "float32"
  loss_scale: Array | float = 1.0

  def network(self, batch: Batch) -> tuple[Sequence[Cell], Sequence[Params], Array]:
    """Returns (the cell of each layer, each cell's params, the first cell's inputs xs)."""
    return self.model.trunk({"params": self.params}, batch.xs)

  def loss(self, ys: Array, targets: Array) -> Array:
    """Returns the task's loss [...] at each time step, given the top cell's outputs [..., H].

    The readout is computed in the precision of ys.
    """
    params = cast(self.params, ys.dtype)
    outputs: Any = self.model.apply({"params": params}, ys, method="readout")
    return self.task.loss(at_least_float32(outputs), targets)

  def mean_loss(self, ys: Array) -> Array:
    """Returns the batch's training loss, a scalar, given the top cell's outputs [T, B, H]."""
    return masked_mean(self.loss(ys, self.batch.targets), self.batch.mask)


class Measure(NamedTuple):
  """A measure of gradient flow, which records one or more variables of a run.

  Attributes:
    note: description that is stored in the records; editing it changes the bytes of the records.
    summary: description for the table of measures.
    cost: cost of computing the measure, for the table of measures.
    dims: dimensions of the measure's variables, in addition to run and step; () for numbers. A
      variable may have only the first of them.
    labels: {variable: label in figures}. The variables of carry leaves other than the hidden state,
      such as `…_cell`, have no label and are not drawn.
    compute: maps a `Moment` to the values of the variables, averaged over the batch.
    bounds: (lower bound, upper bound) of the values; None for unbounded values.
    needs: what a cell must have for this measure, as text; empty if the measure fits every cell.
    fits: returns whether a cell has what the measure needs.
    quantities: {variable: (what it is, unit)}, for readers of the records. The unit of a number is
      "1".
  """

  note: str
  summary: str
  cost: str
  dims: tuple[str, ...]
  labels: Mapping[str, str]
  compute: Callable[[Moment], Variables]
  bounds: tuple[float, float] | None = None
  needs: str = ""
  fits: Callable[[Cell], bool] = lambda cell: True
  quantities: Mapping[str, tuple[str, str]] = types.MappingProxyType({})

  def of(self, moment: Moment) -> Variables:
    """Returns the measure's variables; an empty dict if the cell lacks what the measure needs."""
    return self.compute(moment) if self.fits(moment.model.cells[0]) else {}


def by_leaf(name: str, layers: Sequence[Carry]) -> Variables:
  """Returns a variable [layer, ...] for each leaf of the carry, stacked over layers.

  The variable of the first leaf, the hidden state, is called `name`. The variable of any other leaf
  is called `name` plus the leaf's path in the carry, such as `name_cell` or `name_earlier_0`.

  Args:
    name: name of the variable of the hidden state.
    layers: for each layer, a pytree of values with the structure of the layer's carry.
  """
  paths = [path for path, _ in jax.tree.leaves_with_path(layers[0])]
  others = [jax.tree_util.keystr(path, simple=True, separator="_") for path in paths[1:]]
  leaves = zip(*map(jax.tree.leaves, layers), strict=True)
  names = [name, *(f"{name}_{other}" for other in others)]
  return dict(zip(names, map(jnp.stack, leaves), strict=True))


def reaches(num_steps: int) -> list[int]:
  """Returns the truncations whose bias is measured: the powers of 2 below T, and T itself.

  Args:
    num_steps: T, the sequence length.
  """
  return [2**i for i in range((num_steps - 1).bit_length())] + [num_steps]


def _lag(moment: Moment) -> Variables:
  last_loss = functools.partial(moment.loss, targets=moment.share.targets[-1])
  profile = lag_profile(*moment.network(moment.share), last_loss)
  norms = by_leaf("log10_lag_norm", jax.tree.map(moment.mean, profile))
  hidden = norms["log10_lag_norm"].T
  if len(hidden) < 2:
    return norms
  rate = decay_rate(hidden)
  memory = effective_memory(hidden, _SHARE_LEFT)
  return {**norms, "decay_rate": rate, "half_life": half_life(rate), "effective_memory": memory}


def _jacobian(moment: Moment) -> Variables:
  norms = jacobian_norm(*moment.network(moment.share), key=jax.random.key(0))
  return {"log10_jacobian_norm": moment.mean(jnp.stack(norms))}


def _lyapunov(moment: Moment) -> Variables:
  count = min(_EXPONENTS, *map(joint_size, moment.model.cells))
  spectra = lyapunov_spectrum(*moment.network(moment.share), num_exponents=count)
  means = [moment.mean(exponents.T) for exponents in spectra]
  return {"lyapunov_exponent": jnp.stack(means)}


def _newton(moment: Moment) -> Variables:
  layers = newton_in_time(*moment.network(moment.share))
  errors = jnp.stack([layer.errors[-1] for layer in layers])
  counts = jnp.stack([layer.iterations for layer in layers]).astype(errors.dtype)
  return {"newton_iterations": moment.mean(counts), "newton_error": moment.mean(errors)}


def _truncation_bias(moment: Moment) -> Variables:
  ks = reaches(len(moment.batch.mask))
  bias = truncation_bias(*moment.network(moment.batch), moment.mean_loss, truncations=ks)
  return {"truncation_cosine": bias.cosine, "truncation_error": bias.relative_error}


def _estimator_bias(moment: Moment) -> Variables:
  keys = _ESTIMATES if moment.estimator.random else 1
  lags = min(_LAG_SHARES, len(moment.batch.mask))
  found = estimator_bias(
    *moment.network(moment.batch),
    moment.mean_loss,
    estimator=moment.estimator,
    key=jax.random.key(0),
    num_keys=keys,
    num_lags=lags,
  )
  layers = [found.total, *found.layers]
  compared = {
    name: jnp.stack([getattr(a, name) for a in layers[1:]]) for name in Comparison._fields
  }
  return {
    "estimator_cosine": compared["cosine"],
    "estimator_error": compared["relative_error"],
    "estimator_bias": compared["bias"],
    "estimator_deviation": compared["standard_deviation"],
    "kept_share": jnp.stack([a.kept for a in found.lags]),
  }


def _saturation(moment: Moment) -> Variables:
  layers = saturation(*moment.network(moment.batch))
  names = {gate: [layer[gate] for layer in layers] for gate in layers[0]}
  open_ = {f"{gate}_gate_open": jnp.stack([a.high for a in found]) for gate, found in names.items()}
  shut = {f"{gate}_gate_shut": jnp.stack([a.low for a in found]) for gate, found in names.items()}
  return open_ | shut


def _omega(moment: Moment) -> Variables:
  return {"omega": jnp.stack(omega(*moment.network(moment.batch), moment.mean_loss))}


def _weight_shares(moment: Moment) -> Variables:
  norms = weight_share_norms(*moment.network(moment.batch), moment.mean_loss)
  return {"log10_weight_share": jnp.stack(norms)}


def _curvature(moment: Moment) -> Variables:
  def loss(params: Params) -> Array:
    outputs: Any
    # Forward-mode derivatives of the time loop's custom rule are several times slower.
    _, outputs = moment.model.apply({"params": params}, moment.batch.xs, forward_mode=True)
    return masked_mean(moment.task.loss(outputs, moment.batch.targets), moment.batch.mask)

  found = curvature(loss, moment.params)
  return {
    "hessian_largest": found.largest,
    "hessian_leading": found.leading,
    "hessian_error": jnp.maximum(found.largest_error, found.leading_error),
  }


def _underflow(moment: Moment) -> Variables:
  cells, params, xs = moment.network(moment.batch)
  dtype, loss_scale = moment.dtype, moment.loss_scale
  shares = underflow(cells, params, xs, moment.mean_loss, dtype=dtype, loss_scale=loss_scale)
  return by_leaf("underflow", shares)


def has_gates(cell: Cell) -> bool:
  """Returns whether the cell can report the values of its gates, for the measure `saturation`."""
  return cell.gates is not None


def has_recurrent_kernel(cell: Cell) -> bool:
  """Returns whether the cell has a plain recurrent kernel W_h, for the measure `weight_shares`."""
  return cell.recurrent_kernel is not None


_EXPONENTS = 4  # number of Lyapunov exponents to compute
_ESTIMATES = 32  # number of keys for which a random rule's estimate of the gradient is compared
_LAG_SHARES = (
  16  # number of lags whose shares are compared, the last entry holding all further ones
)
# The effective memory is the smallest lag at which less than this share of the lag-0 gradient norm
# is left.
_SHARE_LEFT = 0.01
_STATES = ("open", "shut")
_GATES = (
  *("input", "forget", "output", "update", "reset", "recurrence", "memory", "hidden"),
  "feedback",
  "time",
  *(f"transform_{i}" for i in range(10)),
)

MEASURES: Mapping[str, Measure] = {
  "lag": Measure(
    "dL_T/dh_(T-k) of the loss at the last step alone, without truncation; of the hidden state, "
    "too, the slope of its logarithm over all lags in nats a step, its half-life, and the lag at "
    f"which less than {_SHARE_LEFT:g} of it is left",
    "‖∂L_T/∂h_{T−k}‖ at every lag k, correct down to 10⁻⁹⁰⁰; with it decay rate, half-life and "
    "effective memory; the default",
    "one backward pass: 5 % of the training time of `gradient_decay.flags`",
    ("layer", "lag"),
    {
      "log10_lag_norm": r"$\log_{10}\,\|\partial L_T/\partial h_{T-k}\|$",
      "decay_rate": "decay rate\n(nats a step)",
      "half_life": "half-life\n(steps; inf: no decay)",
      "effective_memory": "effective memory\n(steps; inf: above $T$)",
    },
    _lag,
    quantities={
      "log10_lag_norm": ("log10 of the gradient norm of the last step's loss", "1"),
      "decay_rate": ("decay rate of the gradient", "nats per time step"),
      "half_life": ("half-life of the gradient (inf: no decay)", "time steps"),
      "effective_memory": ("effective memory (inf: longer than the sequence)", "time steps"),
    },
  ),
  "jacobian": Measure(
    "log10 of the Frobenius norm of ds_T/ds_(T-k), by random probes, s all of a layer's carry",
    "Frobenius norm of ∂s_T/∂s_{T−k}, where s is the whole carry of a layer",
    "16 backward passes",
    ("layer", "lag"),
    {"log10_jacobian_norm": r"$\log_{10}\,\|\partial s_T/\partial s_{T-k}\|_F$"},
    _jacobian,
    quantities={"log10_jacobian_norm": ("log10 of the norm of the long Jacobian", "1")},
  ),
  "lyapunov": Measure(
    f"the {_EXPONENTS} leading Lyapunov exponents of each layer, driven by its inputs, nats a step",
    f"{_EXPONENTS} leading Lyapunov exponents of each layer",
    f"T·N²·{_EXPONENTS} multiplications for a layer whose carry has N entries",
    ("layer", "exponent"),
    {"lyapunov_exponent": "Lyapunov exponent\n(nats a step)"},
    _lyapunov,
    quantities={"lyapunov_exponent": ("Lyapunov exponent", "nats per time step")},
  ),
  "newton": Measure(
    "number of iterations of Newton's method over all time steps at once, from zeros, until the "
    "residual is at most 1e-5 of the largest entry of a layer's carry; error of the result, "
    "relative to that entry, which is far above 1e-5 if rounding decides between results",
    "iterations that Newton's method over all time steps at once (DEER) needs, and its error: few "
    "iterations if the largest Lyapunov exponent is below 0, in proportion to T if it is above",
    "two forward passes for each iteration",
    ("layer",),
    {
      "newton_iterations": "iterations of\nNewton's method in time",
      "newton_error": "its error",
    },
    _newton,
    quantities={
      "newton_iterations": ("iterations of Newton's method in time", "1"),
      "newton_error": ("relative error of the result of Newton's method in time", "1"),
    },
  ),
  "truncation_bias": Measure(
    "cosine and relative error, against full BPTT, of the gradient cut every 1, 2, 4, ... steps",
    "cosine and relative error of truncated gradients against full BPTT",
    "a training step for each truncation 1, 2, 4, …, T",
    ("reach",),
    {"truncation_cosine": "cosine with\nfull BPTT", "truncation_error": "relative error"},
    _truncation_bias,
    quantities={
      "truncation_cosine": ("cosine of the truncated gradient with full BPTT", "1"),
      "truncation_error": ("relative error of the truncated gradient against full BPTT", "1"),
    },
  ),
  "estimator_bias": Measure(
    "the gradient by the run's rule, without dropout, against full BPTT, of each layer's cell: "
    f"cosine, relative error, and over {_ESTIMATES} keys of a random rule bias and standard "
    "deviation in units of the gradient's norm; of each layer's own lags, the last entry all "
    "further ones, the share of the true gradient that the mean estimate holds",
    "the gradient by the run's rule (`--gradient`) against full BPTT: cosine, relative error, "
    "bias, standard deviation, and how much of each lag's share it holds",
    f"a training step and the shares of {_LAG_SHARES} lags; for a random rule {_ESTIMATES} times",
    ("layer", "share_lag"),
    {
      "estimator_cosine": "cosine with\nfull BPTT",
      "estimator_error": "relative error",
      "estimator_bias": "bias",
      "estimator_deviation": "standard\ndeviation",
      "kept_share": "share of lag $k$\nthat is kept",
    },
    _estimator_bias,
    quantities={
      "estimator_cosine": ("cosine of the rule's gradient with full BPTT", "1"),
      "estimator_error": ("relative error of the rule's gradient against full BPTT", "1"),
      "estimator_bias": ("relative bias of the rule's gradient against full BPTT", "1"),
      "estimator_deviation": (
        "standard deviation of the rule's gradient, relative to its norm",
        "1",
      ),
      "kept_share": ("share of the lag in the true gradient that the rule keeps", "1"),
    },
  ),
  "saturation": Measure(
    "share of a gate's values above 0.9 (open) and below 0.1 (shut)",
    "share of gate values above 0.9 (open) and below 0.1 (shut)",
    "a forward pass",
    ("layer", "time"),
    {f"{gate}_gate_{state}": f"{gate} gate\n{state}" for gate in _GATES for state in _STATES},
    _saturation,
    (0, 1),
    "gates",
    has_gates,
    {
      f"{gate}_gate_{state}": (f"share of the {gate} gate's values that are {state}", "1")
      for gate in _GATES
      for state in _STATES
    },
  ),
  "omega": Measure(
    "Pascanu's regulariser: squared deviations from 1 of the factor by which a step back changes "
    "the norm of dL/dh_t, summed over time",
    "Pascanu's Ω: how far the backward pass is from preserving the gradient's norm",
    "a backward pass",
    ("layer",),
    {"omega": r"$\Omega$"},
    _omega,
    quantities={"omega": ("Pascanu's regularizer Ω", "1")},
  ),
  "weight_shares": Measure(
    "log10 of the norm of each step's share of dL/dW_h",
    "norm of each time step's share of ∂L/∂W_h, by Gram matrices",
    "a backward pass",
    ("layer", "time"),
    {"log10_weight_share": r"$\log_{10}\,\|$share of $t$ in $\partial L/\partial W_h\|$"},
    _weight_shares,
    None,
    "a plain recurrent kernel",
    has_recurrent_kernel,
    {"log10_weight_share": ("log10 of the norm of the time step's share of dL/dW_h", "1")},
  ),
  "curvature": Measure(
    "eigenvalues of the Hessian of the batch's loss, without truncation, in all params of the "
    "network: the largest, the one of the largest absolute value, and the larger one of the bounds "
    "on their distances from the closest eigenvalue; by Lanczos' method with 20 products",
    "largest eigenvalue of the loss's Hessian in all params, and the one of the largest absolute "
    "value; next to `grad_norm` and `lyapunov`",
    "40 training steps",
    (),
    {
      "hessian_largest": "largest eigenvalue\nof the Hessian",
      "hessian_leading": "eigenvalue of the\nlargest $|\\lambda|$",
      "hessian_error": "bound on the error\nof both",
    },
    _curvature,
    quantities={
      "hessian_largest": ("largest eigenvalue of the loss's Hessian", "1"),
      "hessian_leading": ("eigenvalue of the loss's Hessian of the largest absolute value", "1"),
      "hessian_error": ("bound on the distance of both from an eigenvalue of the Hessian", "1"),
    },
  ),
  "underflow": Measure(
    "share of the entries of dL/dh_t, under the training loss times the loss scale, that are zero "
    "or subnormal in the run's dtype, of those that are not 0 when computed in float32 with an "
    "exponent of their own; without truncation and clipping; NaN: all are 0",
    "share of the entries of ∂L/∂h_t, L the training loss times `--loss_scale`, that are zero or "
    "subnormal in `--dtype`",
    "two training steps",
    ("layer", "time"),
    {"underflow": "share of\n$\\partial L/\\partial h_t$ lost"},
    _underflow,
    (0, 1),
    quantities={"underflow": ("share of dL/dh_t that is zero or subnormal in the dtype", "1")},
  ),
}


# Names in records that are not those of measures: dimensions, and variables.
_DIMENSIONS = ("run", "step", "update")
_VARIABLES = ("log10_grad_norm", "clipped_share")
# The figures of every sweep, in addition to those of its measures, which have the measures' names.
OTHER_FIGURES = ("gradient_decay", "gradient_by_truncation", "depth_by_time", "training")


def register_measure(name: str, measure: Measure) -> None:
  """Adds a measure to `MEASURES`; `experiments.register_measure` describes it."""
  checks.instance("measure", measure, Measure)
  if name in OTHER_FIGURES or ("figure", name) in registry.REGISTERED:
    raise ValueError(f"name of a measure must be free, got {name!r}, which a figure has.")
  for dim in measure.dims:
    if not dim.isidentifier() or dim in _DIMENSIONS:
      raise ValueError(
        f"dims of measure {name!r} must be identifiers other than {', '.join(_DIMENSIONS)}, got "
        f"{measure.dims!r}."
      )
  taken = {
    variable: f"measure {other!r}"
    for other, known in MEASURES.items()
    for variable in known.labels
    if other != name
  } | dict.fromkeys(_VARIABLES, "the gradient norms")
  for variable in measure.labels:
    if variable in taken or not variable.isidentifier():
      where = f", which {taken[variable]} records" if variable in taken else ""
      raise ValueError(
        f"labels of measure {name!r} must be of variables that are identifiers of its own, got "
        f"{variable!r}{where}."
      )
  registry.register("measure", MEASURES, name, measure, measure.compute, measure.summary)


def rows() -> list[tuple[str, str, str]]:
  """Returns a row of the table for each measure: (name, summary, cost)."""
  return [(f"`{name}`", measure.summary, measure.cost) for name, measure in MEASURES.items()]


def show() -> None:
  """Prints the table of measures."""
  tables.show(("measure", "what it is", "what it costs"), rows())


def coordinates(sizes: Mapping[Hashable, int]) -> dict[str, np.ndarray]:
  """Returns {dimension: coordinates} for the dimensions of gradient norms and measures.

  Layers and exponents count from 1; time steps, lags and other dimensions count from 0. The
  coordinates of `reach` are the truncations that the function `reaches` returns.

  Args:
    sizes: {dimension: size}.
  """
  first = {"layer": 1, "exponent": 1}
  values = {str(dim): np.arange(size) + first.get(str(dim), 0) for dim, size in sizes.items()}
  if "reach" in sizes:
    values["reach"] = np.array(reaches(sizes["time"]))
  return {dim: value.astype(np.int32) for dim, value in values.items()}
