"""The engines, which train the runs of a sweep: in this process, or in workers of Ray or SLURM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.sweep.config.sweep import Sweep
from experiments.sweep.engines import ray, slurm
from experiments.sweep.training.train import OnProgress, train_runs

# `(sweep, ids, stop, on_progress)`, with the arguments of `train_runs`. An engine returns once each
# run has finished, diverged or failed and its records are in the sweep's folder. It raises Stopped
# if it was asked to stop, and ValueError or OSError if it cannot continue.
Engine = Callable[[Sweep, Sequence[str], Callable[[], bool], OnProgress], None]

ENGINES: dict[str, Engine] = {"local": train_runs, "ray": ray.train_runs, "slurm": slurm.train_runs}
