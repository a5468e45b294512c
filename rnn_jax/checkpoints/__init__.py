"""Checkpoints of pytrees, which are written atomically and verified by checksums when read."""

from rnn_jax.checkpoints.checkpoint import restore, save
from rnn_jax.checkpoints.configuration import difference
from rnn_jax.checkpoints.series import Saved, Series, newest

__all__ = ["Saved", "Series", "difference", "newest", "restore", "save"]
