"""What trains the runs of a sweep: this process, or workers that Ray or SLURM starts.

An engine is a function `(sweep, ids, stop, news)`, as `work.train` is one: it returns when each of
the runs has ended or failed and its records are in the sweep's folder, raises `work.Stopped` when
it was asked to stop, and ValueError or OSError where nothing can go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.sweep.config.sweep import Sweep
from experiments.sweep.engines import ray, slurm
from experiments.sweep.training import train as training

Engine = Callable[[Sweep, Sequence[str], Callable[[], bool], training.News], None]

ENGINES: dict[str, Engine] = {"local": training.train, "ray": ray.train, "slurm": slurm.train}
