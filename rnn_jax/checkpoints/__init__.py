"""Pytrees on disk, whole or not at all, and nothing read but what was written."""

from rnn_jax.checkpoints.checkpoint import restore, save
from rnn_jax.checkpoints.configuration import difference
from rnn_jax.checkpoints.series import Saved, Series, newest

__all__ = ["Saved", "Series", "difference", "newest", "restore", "save"]
