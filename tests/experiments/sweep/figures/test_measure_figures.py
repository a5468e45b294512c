"""Tests of the measure figures: their axes, and their lines before and after training."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from experiments.sweep.figures.measure_figures import X_LABELS, measure_figures, undrawn
from experiments.sweep.figures.panels import EARLY
from experiments.sweep.measures.table import MEASURES

SIZES = {"run": 2, "step": 3, "layer": 1, "time": 4, "lag": 4, "exponent": 3, "reach": 3}
SIZES["share_lag"] = 3
# Variables that lack the last dimension of their measure.
SHORT = ("decay_rate", "half_life", "effective_memory", "estimator_cosine", "estimator_error")
SHORT += ("estimator_bias", "estimator_deviation")


def measured(*names: str) -> xr.Dataset:
  """Returns random values of these measures for an Elman and an LSTM run; only LSTMs have gates."""
  random, variables = np.random.default_rng(0), {}
  for name in names:
    for variable in MEASURES[name].labels:
      dims = ("run", "step", *MEASURES[name].dims)
      if variable in SHORT:
        dims = dims[:-1]
      values = random.standard_normal([SIZES[dim] for dim in dims])
      values[:, 1] = np.nan  # measures are not computed at every recorded step
      if "gate" in variable:
        values[0] = np.nan
      variables[variable] = (dims, values)
  columns = {
    "cell": ["elman", "lstm"],
    "depth": [1, 1],
    "truncation": [np.inf, np.inf],
    "seed": [0, 0],
    "status": ["finished", "finished"],
    "diverged_step": [np.nan, np.nan],
  }
  coordinates = {dim: np.arange(1, size + 1) for dim, size in SIZES.items() if dim != "run"}
  return xr.Dataset(
    variables,
    {**coordinates, **{name: ("run", column) for name, column in columns.items()}},
  )


@pytest.mark.parametrize("name", MEASURES)
def test_every_variable_has_an_axis_and_every_cell_that_has_it_a_line(name):
  data = measured(name)
  # The lag norms are in the figure `gradient_decay` instead.
  labels = {v: label for v, label in MEASURES[name].labels.items() if v != "log10_lag_norm"}
  makers = measure_figures(data)
  # Variables that are drawn against a dimension of their own have a figure of their own.
  names = {name: [v for v in labels if v != "kept_share"]}
  if "kept_share" in labels:
    names[f"{name}_by_share_lag"] = ["kept_share"]
  assert makers.keys() == names.keys()
  axes = []
  for which, own in names.items():
    figure = makers[which](data)
    assert [axis.get_ylabel() for axis in figure.axes] == [labels[v] for v in own]
    assert figure.axes[-1].get_xlabel() in X_LABELS.values()
    if name == "saturation":  # its values are shares, so every axis spans 0 to 1 plus a margin
      assert {axis.get_ylim() for axis in figure.axes} == {(-0.05, 1.05)}
    assert ("layer 1" in figure.get_suptitle()) == ("layer" in MEASURES[name].dims)
    axes += figure.axes
  for axis, variable in zip(axes, labels, strict=True):
    drawn = {str(line.get_label()): line.get_ydata() for line in axis.lines}
    cells = ["lstm"] if "gate" in variable else ["elman", "lstm"]
    over_steps = data[variable].dims in (("run", "step"), ("run", "step", "layer"))
    ends = [""] if over_steps else ["", ", initialization"]
    assert drawn.keys() == {cell + end for cell in cells for end in ends}
    values = data[variable].isel(run=1)
    values = values.isel(layer=0) if "layer" in values.dims else values
    expected = values[[0, 2]] if over_steps else values[2]
    np.testing.assert_array_equal(drawn["lstm"], expected)


def test_the_curvature_is_next_to_the_largest_gradient_norm_and_lyapunov_exponent():
  data = measured("curvature", "lyapunov")
  norms = np.random.default_rng(1).standard_normal((2, 3, 1, 4))
  data = data.assign(log10_grad_norm=(("run", "step", "layer", "time"), norms))
  figure = measure_figures(data)["curvature"](data)
  assert [axis.get_ylabel() for axis in figure.axes[:3]] == [*MEASURES["curvature"].labels.values()]
  largest_norm, largest_exponent = figure.axes[3:]
  assert "largest" in largest_norm.get_ylabel() and "Lyapunov" in largest_exponent.get_ylabel()
  exponents = data["lyapunov_exponent"].values
  for axis, values in ((largest_norm, norms[0, :, 0]), (largest_exponent, exponents[0, [0, 2], 0])):
    (drawn,) = [line for line in axis.lines if line.get_label() == "elman"]
    np.testing.assert_array_equal(drawn.get_ydata(), values.max(axis=-1))
  assert "layer 1" in figure.get_suptitle()


def test_an_unmeasured_measure_has_no_figure():
  assert measure_figures(measured("omega", "lyapunov")).keys() == {"omega", "lyapunov"}
  profiles = measured("lag")[["log10_lag_norm"]]
  assert measure_figures(profiles) == {}


def test_a_run_that_ended_early_has_a_legend_key_on_every_axis():
  data = measured("saturation")
  data["status"] = ("run", ["finished", "diverged"])
  first, *others = data.data_vars
  data[first].values[:] = np.nan  # as if neither cell had this gate
  for variable in others:
    data[variable].values[1, 1] = 0.5
    data[variable].values[1, 2] = np.nan  # as if the run had diverged before the last step
  (draw,) = measure_figures(data).values()
  figure = draw(data)
  assert not figure.axes[0].lines
  assert f"lstm, {EARLY}" in [line.get_label() for line in figure.axes[1].lines]
  (legend,) = figure.legends
  assert EARLY in [text.get_text() for text in legend.get_texts()]


def test_variables_that_no_measure_declares_are_drawn_by_their_dimensions():
  data = measured("lag")
  random = np.random.default_rng(1)
  data = data.assign(
    rank=(("run", "step", "layer"), random.normal(size=(2, 3, 1))),
    spectrum=(("run", "step", "frequency"), random.normal(size=(2, 3, 5))),
    lag_by_unit=(("run", "step", "lag", "unit"), random.normal(size=(2, 3, 4, 6))),
    log10_lag_norm_cell=data["log10_lag_norm"],
  )
  figures = measure_figures(data)
  assert figures.keys() == {"lag", "rank", "spectrum"}
  assert undrawn(data) == {"lag_by_unit": ("lag", "unit")}
  rank, spectrum = (figures[name](data) for name in ("rank", "spectrum"))
  (axis,) = rank.axes
  assert (axis.get_ylabel(), axis.get_xlabel()) == ("rank", X_LABELS["step"])
  (axis,) = spectrum.axes
  assert (axis.get_ylabel(), axis.get_xlabel()) == ("spectrum", "frequency")
  (line,) = [line for line in axis.lines if line.get_label() == "lstm"]
  np.testing.assert_array_equal(line.get_xdata(), range(5))
  np.testing.assert_array_equal(line.get_ydata(), data["spectrum"][1, 2])


def test_a_declared_measure_with_a_dimension_of_its_own_is_drawn(monkeypatch):
  measure = MEASURES["omega"]._replace(dims=("unit",), labels={"share": "share of a unit"})
  monkeypatch.setitem(MEASURES, "units", measure)
  data = measured("lag").assign(share=(("run", "step", "unit"), np.zeros((2, 3, 7))))
  (axis,) = measure_figures(data)["units"](data).axes
  assert (axis.get_ylabel(), axis.get_xlabel()) == ("share of a unit", "unit")
