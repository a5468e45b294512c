"""The table of measures: their descriptions, costs, dimensions and labels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

from experiments.cli import tables
from experiments.sweep.measures import compute
from experiments.sweep.measures.measure import Measure
from rnn_jax import checks, registry

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
    f"which less than {compute.SHARE_LEFT:g} of it is left",
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
    compute.lag,
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
    compute.jacobian,
    quantities={"log10_jacobian_norm": ("log10 of the norm of the long Jacobian", "1")},
  ),
  "lyapunov": Measure(
    f"the {compute.EXPONENTS} leading Lyapunov exponents of each layer, driven by its inputs, nats "
    "a step",
    f"{compute.EXPONENTS} leading Lyapunov exponents of each layer",
    f"T·N²·{compute.EXPONENTS} multiplications for a layer whose carry has N entries",
    ("layer", "exponent"),
    {"lyapunov_exponent": "Lyapunov exponent\n(nats a step)"},
    compute.lyapunov,
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
    compute.newton,
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
    compute.truncation,
    quantities={
      "truncation_cosine": ("cosine of the truncated gradient with full BPTT", "1"),
      "truncation_error": ("relative error of the truncated gradient against full BPTT", "1"),
    },
  ),
  "estimator_bias": Measure(
    "the gradient by the run's estimator, without dropout, against full BPTT, of each layer's "
    f"cell: cosine, relative error, and over {compute.ESTIMATES} keys of a random estimator bias "
    "and standard deviation in units of the gradient's norm; of each layer's own lags, the last "
    "entry all further ones, the share of the true gradient that the mean estimate holds",
    "the gradient by the run's estimator (`--gradient`) against full BPTT: cosine, relative error, "
    "bias, standard deviation, and how much of each lag's share it holds",
    f"a training step and the shares of {compute.LAG_SHARES} lags; for a random estimator "
    f"{compute.ESTIMATES} times",
    ("layer", "share_lag"),
    {
      "estimator_cosine": "cosine with\nfull BPTT",
      "estimator_error": "relative error",
      "estimator_bias": "bias",
      "estimator_deviation": "standard\ndeviation",
      "kept_share": "share of lag $k$\nthat is kept",
    },
    compute.estimator,
    quantities={
      "estimator_cosine": ("cosine of the estimate with full BPTT", "1"),
      "estimator_error": ("relative error of the estimate against full BPTT", "1"),
      "estimator_bias": ("relative bias of the estimate against full BPTT", "1"),
      "estimator_deviation": (
        "standard deviation of the estimate, relative to the norm of full BPTT",
        "1",
      ),
      "kept_share": ("share of the lag in the true gradient that the estimator keeps", "1"),
    },
  ),
  "saturation": Measure(
    "share of a gate's values above 0.9 (open) and below 0.1 (shut)",
    "share of gate values above 0.9 (open) and below 0.1 (shut)",
    "a forward pass",
    ("layer", "time"),
    {f"{gate}_gate_{state}": f"{gate} gate\n{state}" for gate in _GATES for state in _STATES},
    compute.gates,
    (0, 1),
    "gates",
    compute.has_gates,
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
    compute.omegas,
    quantities={"omega": ("Pascanu's regularizer Ω", "1")},
  ),
  "weight_shares": Measure(
    "log10 of the norm of each step's share of dL/dW_h",
    "norm of each time step's share of ∂L/∂W_h, by Gram matrices",
    "a backward pass",
    ("layer", "time"),
    {"log10_weight_share": r"$\log_{10}\,\|$share of $t$ in $\partial L/\partial W_h\|$"},
    compute.weight_shares,
    None,
    "a plain recurrent kernel",
    compute.has_recurrent_kernel,
    {"log10_weight_share": ("log10 of the norm of the time step's share of dL/dW_h", "1")},
  ),
  "curvature": Measure(
    "eigenvalues of the Hessian of the batch's loss, without truncation, with respect to all "
    "params of the network: the largest (sharpness), the one of the largest absolute value, and "
    "the larger one of the bounds on their distances from the closest eigenvalue; by the Lanczos "
    "method with 20 products",
    "Hessian of the loss with respect to all params: its largest eigenvalue (sharpness) and the "
    "one of the largest absolute value; its figure adds the largest gradient norm and, if "
    "measured, the largest Lyapunov exponent",
    "40 training steps",
    (),
    {
      "hessian_largest": "largest Hessian\neigenvalue",
      "hessian_leading": "eigenvalue of\nlargest $|\\lambda|$",
      "hessian_error": "error bound\nof both",
    },
    compute.hessian,
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
    compute.lost,
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
    values["reach"] = np.array(compute.reaches(sizes["time"]))
  return {dim: value.astype(np.int32) for dim, value in values.items()}
