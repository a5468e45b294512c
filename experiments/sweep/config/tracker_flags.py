"""The flag that selects an experiment tracker."""

from __future__ import annotations

import importlib.util

from experiments.cli.flag_table import Flag
from experiments.cli.parsers import choice

# {tracker: the package that it needs}. The extra of rnn_jax that installs it has the tracker's
# name.
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}

TRACKER = Flag(
  "tracker",
  "none",
  choice("tracker", ("none", *_PACKAGES)),
  "Experiment tracker to which metrics, gradient norms and figures are sent, in addition to the "
  f"records: {', '.join(_PACKAGES)}, or none.",
)


def check_tracker(name: str) -> None:
  """Checks that the package of the tracker `name`, a value of `--tracker`, is installed.

  Raises:
    ValueError: if it is not.
  """
  if name == "none":
    return
  package = importlib.util.find_spec(_PACKAGES[name])
  # A folder of that name, which W&B creates where it runs, is found, but has no origin.
  if package is None or package.origin is None:
    raise ValueError(
      f"--tracker={name} needs the package {_PACKAGES[name]}; in the clone: "
      f"pip install -e '.[{name}]'."
    )
