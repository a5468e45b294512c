"""A small text, and the flags that train two small language models on it."""

from __future__ import annotations

import pytest

LINES = b'the cat sat on the mat.\n\nthe dog (a big one) barked: "who\xff sat?"\n'
TEXT = LINES * 40

SMALL = (
  "--hidden_size=16",
  "--window=8",
  "--batch_size=4",
  "--steps=40",
  "--evaluate_every=20",
  "--learning_rate=0.03",
  "--validation_share=0.1",
)

KINDS = {
  "characters": ("--cell=elman", "--cell_option=activation=relu"),
  "words": (
    *("--level=word", "--cell=elman", "--depth=2", "--embedding_size=16", "--tied=true"),
    *("--dropout=0.1", "--zoneout=0.1", "--residual=true", "--layer_norm=true"),
    *("--schedule=cosine", "--warmup=5"),
  ),
}

# Restricts a test that uses the fixture `folder` to the character model.
CHARACTERS = pytest.mark.parametrize("kind", ["characters"], indirect=True)
