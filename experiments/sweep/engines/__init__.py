"""The engines, which train the runs of a sweep: in this process, or in workers of Ray or SLURM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.sweep.config.sweep import Sweep
from experiments.sweep.engines import ray, slurm
from experiments.sweep.training.train import OnProgress, train_runs

# The signature of an engine: (sweep, ids, stop, on_progress), as in `train_runs`. An engine returns
# when every run has finished, diverged or failed and the sweep's folder holds its records. It
# raises Stopped if `stop()` has returned True, and ValueError or OSError if it cannot continue.
Engine = Callable[[Sweep, Sequence[str], Callable[[], bool], OnProgress], None]

ENGINES: dict[str, Engine] = {"local": train_runs, "ray": ray.train_runs, "slurm": slurm.train_runs}
