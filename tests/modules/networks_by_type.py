"""Calls of `update` and `train_windows` that a type checker must accept or reject.

This file is only read by mypy and never run. Each `type: ignore` names the error that mypy must
find on its line. A `type: ignore` on a line without an error is an error, too
(`warn_unused_ignores` in pyproject.toml).
"""

from __future__ import annotations

from typing import Any, assert_type

import flax.linen as nn

from rnn_jax import BidirectionalRNN, ConditionedDecoder, DeepRNN, EncoderDecoder, unroll
from rnn_jax.cells import LSTMCarry, lstm
from rnn_jax.training import update
from rnn_jax.windows import train_windows


class Own(nn.Module):
  def __call__(
    self, xs: Any, *, probes: Any = None, deterministic: bool = True, key: Any = None
  ) -> Any: ...


class OwnCausal(nn.Module):
  def __call__(
    self,
    xs: Any,
    *,
    probes: Any = None,
    deterministic: bool = True,
    key: Any = None,
    truncation: int | None = None,
  ) -> Any: ...


class OwnStreaming(nn.Module):
  def __call__(self, xs: Any, carries: Any = None, *, resets: Any = None, **time: Any) -> Any: ...


def accepted(
  one: DeepRNN,
  both: BidirectionalRNN,
  own: Own,
  causal: OwnCausal,
  streaming: OwnStreaming,
  vector: ConditionedDecoder,
  pair: EncoderDecoder,
  rest: Any,
) -> None:
  update(one, rest, rest, rest, rest, rest, truncation=3)
  update(vector, rest, rest, rest, rest, truncation=3)
  update(pair, rest, rest, rest, rest, truncation=3)
  update(both, rest, rest, rest, rest)
  update(own, rest, rest, rest, rest)
  update(causal, rest, rest, rest, rest, truncation=3)
  train_windows(one, rest, rest, rest, rest, 3)
  train_windows(streaming, rest, rest, rest, rest, 3)
  carry, _ = unroll(lstm(4), rest, rest)
  assert_type(carry, LSTMCarry)


def refused(both: BidirectionalRNN, own: Own, causal: OwnCausal, rest: Any) -> None:
  # Every call is wrong. If mypy does not find the named error, it reports the `type: ignore` as
  # unused.
  update(both, rest, rest, rest, rest, truncation=3)  # type: ignore[call-overload]
  update(both, rest, rest, rest, rest, carries=rest)  # type: ignore[call-overload]
  update(both, rest, rest, rest, rest, clip_carry=1.0)  # type: ignore[call-overload]
  update(own, rest, rest, rest, rest, truncation=3)  # type: ignore[call-overload]
  train_windows(both, rest, rest, rest, rest, 3)  # type: ignore[arg-type]
  train_windows(causal, rest, rest, rest, rest, 3)  # type: ignore[arg-type]
