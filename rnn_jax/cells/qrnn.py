"""The quasi-recurrent network (QRNN): gates from a convolution over time, and a pooling."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Key

from rnn_jax import checks
from rnn_jax.cells.dense import dense_project, the_carry, zeros
from rnn_jax.cells.linear import linear_cell
from rnn_jax.cells.memoized import memoized
from rnn_jax.initializers import check_cell_init, drawn_in_float32
from rnn_jax.types import (
  Array,
  Cell,
  Features,
  FlatParams,
  Gates,
  Inputs,
  Recurrent,
  Shape,
  Units,
  unprepared,
)

# The gates of each pooling after z, in the order of w_x and b.
POOLINGS = {
  "f": ("forget",),
  "fo": ("forget", "output"),
  "ifo": ("forget", "output", "input"),
}


class QRNNCarry(NamedTuple):
  """The carry of a quasi-recurrent network with a window of two inputs and G = 2, 3 or 4 blocks.

  Attributes:
    cell: c [..., H].
    previous: x V [..., G·H], the part of the next step's gates that this step's input determines.
    output: o [..., H], the last step's output gate; None with pooling "f". Only the output reads
      it.
  """

  cell: Array
  previous: Array
  output: Array | None


@memoized
def qrnn(
  hidden_size: int, *, window: int = 2, pooling: str = "fo"
) -> Cell[FlatParams, QRNNCarry, tuple[Array, Array]] | Cell[FlatParams, Array, Array]:
  """Quasi-recurrent network: its gates read the last one or two inputs, and never the carry.

    z = tanh(a_z)      f, o, i = σ(a)      a = x W + x₋ V + b
    c' = f ∘ c + (1 − f) ∘ z      y = c'           pooling="f"
    c' = f ∘ c + (1 − f) ∘ z      y = o ∘ c'       pooling="fo"
    c' = f ∘ c + i ∘ z            y = o ∘ c'       pooling="ifo"

  where x₋ is the previous input, 0 before the first step. With `window=1` there is no V, and the
  cell is a linear recurrence.

  Step Jacobian: ∂c'/∂c = diag(f), which depends only on the last inputs. Its products over time
  never explode, and the gradient passes a step unchanged where the inputs make f near 1. x₋ affects
  no step but the next one.

  Gradient flow: a pair of inputs sets the factor f, so a pattern of two steps can open or close the
  path. No recurrent weight takes part in it.

  Args:
    hidden_size: width H of cell state and output.
    window: number of inputs that the gates read: 1, or 2 as in the paper's equations.
    pooling: `f`, `fo` or `ifo`, the gates of the pooling.
  Returns:
    A Cell: x [..., D], carry QRNNCarry(cell [..., H], previous [..., G·H], output [..., H]), or
    c [..., H] with `window=1`, y [..., H]; params {"w_x": W and V side by side [D, 2·G·H], or
    W [D, G·H] with `window=1`, "b": [G·H]}, W, V and b in the order z, f, o, i, as far as the
    pooling has them. All entries are uniform in ±1/√(window · D) at initialization, as in the
    authors' code. Gates: {"forget": f, "output": o, "input": i}, as far as the pooling has them.
  Raises:
    TypeError, ValueError: if `hidden_size` is below 1, `window` is neither 1 nor 2, or `pooling` is
      unknown.
  References:
    Bradbury et al., 2017, https://arxiv.org/abs/1611.01576; for the initialization:
    https://github.com/salesforce/pytorch-qrnn, whose gate is 1 − f
  """
  checks.integer("hidden_size", hidden_size)
  if checks.integer("window", window) > 2:
    raise ValueError(f"window must be 1 or 2, got {window}.")
  names = POOLINGS[checks.choice("pooling", pooling, POOLINGS)]
  width = (1 + len(names)) * hidden_size

  @drawn_in_float32
  def init(key: Key[Array, ""], input_size: int, dtype: DTypeLike = float) -> FlatParams:
    check_cell_init(key, input_size, dtype)
    bound = (window * input_size) ** -0.5
    shapes = {"w_x": (input_size, window * width), "b": (width,)}
    keys = zip(shapes, jax.random.split(key), strict=True)
    return {n: jax.random.uniform(k, shapes[n], dtype, -bound, bound) for n, k in keys}

  def activations(a: Features) -> tuple[Units, Gates]:
    """Returns z and the gates."""
    z, *rest = jnp.split(a, 1 + len(names), axis=-1)
    return jnp.tanh(z), {n: jax.nn.sigmoid(a) for n, a in zip(names, rest, strict=True)}

  def factors(a: Features) -> tuple[Units, Units]:
    """Returns f and (1 − f) ∘ z, or i ∘ z."""
    z, gates = activations(a)
    f = gates["forget"]
    return f, gates.get("input", 1 - f) * z

  if window == 1:

    def linear(params: FlatParams, drive: Features) -> tuple[Units, Units]:
      del params
      return factors(drive)

    def gates_of_input(
      params: FlatParams, c: Units, drive: Features, recurrent: Recurrent
    ) -> Gates:
      del params, c, recurrent
      return activations(drive)[1]

    def gated(params: FlatParams, c: Units, drive: Features) -> Units:
      del params
      return activations(drive)[1]["output"] * c

    return linear_cell(
      init=init,
      initial_carry=zeros(hidden_size),
      prepare=unprepared,
      project=functools.partial(dense_project, bias=True),
      linear=linear,
      output=the_carry if pooling == "f" else gated,
      gates=gates_of_input,
      output_is_carry=pooling == "f",
    )

  def initial_carry(batch_shape: Shape, dtype: DTypeLike = float) -> QRNNCarry:
    zero = jnp.zeros((*batch_shape, hidden_size), dtype)
    previous = jnp.zeros((*batch_shape, width), dtype)
    return QRNNCarry(zero, previous, None if pooling == "f" else zero)

  def project(
    params: FlatParams, xs: Inputs, key: Key[Array, ""] | None = None
  ) -> tuple[Features, Features]:
    now, after = params["w_x"][:, :width], params["w_x"][:, width:]
    now = dense_project({"w_x": now, "b": params["b"]}, xs, key, bias=True)
    return now, dense_project({"w_x": after}, xs, key)

  def recur(params: FlatParams, carry: QRNNCarry) -> tuple[()]:
    del params, carry
    return ()

  def update(
    params: FlatParams, carry: QRNNCarry, drive: tuple[Features, Features], recurrent: tuple[()]
  ) -> QRNNCarry:
    del params, recurrent
    a = drive[0] + carry.previous
    f, written = factors(a)
    return QRNNCarry(f * carry.cell + written, drive[1], activations(a)[1].get("output"))

  def output(params: FlatParams, carry: QRNNCarry, drive: tuple[Features, Features]) -> Units:
    del params, drive
    return carry.cell if carry.output is None else carry.output * carry.cell

  def gates(
    params: FlatParams, carry: QRNNCarry, drive: tuple[Features, Features], recurrent: tuple[()]
  ) -> Gates:
    del params, recurrent
    return activations(drive[0] + carry.previous)[1]

  return Cell(
    init=init,
    initial_carry=initial_carry,
    prepare=unprepared,
    project=project,
    recur=recur,
    update=update,
    output=output,
    gates=gates,
  )
