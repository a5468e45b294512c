"""Tests that the hand-written reverse pass compiles to loops that use few buffers and copy none."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_kinds import KINDS, VARIANTS, WRAPPED

from rnn_jax import gradient_probe, make_cell, unroll

every_variant = pytest.mark.parametrize(
  ("name", "options"), VARIANTS, ids=[" ".join(map(str, (n, *o.values()))) for n, o in VARIANTS]
)


def compiled(cell, num_steps, batch_size, input_size, hidden_size, probed=False, **time):
  """Returns the optimized HLO text of a loss's gradient and the bytes of its temporary buffers."""
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size))
  xs = jax.ShapeDtypeStruct((num_steps, batch_size, input_size), jnp.float32)
  probe = gradient_probe(cell, num_steps, batch_size) if probed else None

  def loss(params, probe, xs):
    return jnp.mean(unroll(cell, params, xs, probe=probe, **time)[1] ** 2)

  grad = jax.grad(loss, argnums=(0, 1) if probed else 0)
  program = jax.jit(grad).lower(params, probe, xs).compile()
  return program.as_text(), program.memory_analysis().temp_size_in_bytes


def while_bodies(text, num_steps=29):
  """Returns the HLO text of each while loop over time, with the computations that its body calls.

  A loop over time is a loop whose body has a real or complex array [num_steps, ...].
  """
  computations = {}
  for part in re.split(r"\n\n", text):
    named = re.match(r"(?:ENTRY )?%([\w.\-]+) \(", part.strip())
    if named:
      computations[named[1]] = part

  def whole(name, seen):
    if name in seen or name not in computations:
      return ""
    seen.add(name)
    text = computations[name]
    called = re.findall(r"(?:calls|to_apply|body|condition)=%([\w.\-]+)", text)
    return text + "".join(whole(other, seen) for other in called)

  bodies = [whole(name, set()) for name in set(re.findall(r"body=%([\w.\-]+)", text))]
  return [body for body in bodies if re.search(rf"[fc]\d+\[{num_steps},", body)]


# No size is a product of other sizes, so an array can be recognized by its shape.
SIZES = {"num_steps": 29, "batch_size": 5, "input_size": 11, "hidden_size": 7}


def products(text):
  """Returns the result shapes of all matrix products in an HLO text."""
  found = re.findall(r"f32\[([\d,]*)\]\S* (?:dot|custom-call)\(", text)
  return [tuple(map(int, shape.split(","))) for shape in found if shape]


PADDED = {"truncation": 4, "lengths": np.array([29, 3, 5, 7, 11])}
# Cells whose `update` has another matrix product. The gradient of that product's kernel is computed
# inside the loop.
TWO_PRODUCTS = ("cfc", "lem", "multiplicative_lstm", "rhn")


@every_variant
def test_loops_copy_no_buffers_and_compute_no_kernel_gradients(name, options):
  cell = make_cell(name, 7, **options)
  text, _ = compiled(cell, **SIZES, probed=True, **PADDED)
  bodies = while_bodies(text)
  assert_nothing_is_copied(bodies)
  params = jax.eval_shape(lambda: cell.prepare(cell.init(jax.random.key(0), 11)))
  kernels = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2}
  inside = {shape for body in bodies for shape in products(body)}
  if name not in TWO_PRODUCTS:
    assert not inside & (kernels | {shape[::-1] for shape in kernels})


@pytest.mark.parametrize(("name", "num_gates"), [("elman", 1), ("gru", 3), ("lstm", 4)])
def test_the_recurrent_kernels_gradient_is_one_product_after_the_loop(name, num_gates):
  text, _ = compiled(make_cell(name, 7), **SIZES)
  bodies = while_bodies(text)
  assert len(bodies) == 2
  assert all(products(body) for body in bodies), "the recurrent products are in the loops"
  assert {(7, num_gates * 7), (num_gates * 7, 7)} & set(products(text))


# Each time argument is tested with a complex carry (lru) and with one other kind of cell.
@pytest.mark.parametrize(
  ("name", "time"),
  [
    *((name, {}) for name in KINDS),
    *((name, {"remat": "step"}) for name in ("lstm", "lru")),
    *((name, {"remat": "step", **PADDED}) for name in ("gru", "lru")),
    *((name, {"clip_carry": 0.1}) for name in ("lstm", "lru")),
  ],
  ids=lambda v: v if isinstance(v, str) else "+".join(map(str, [*v, v.get("remat")])),
)
def test_loops_copy_no_buffers(name, time):
  text, _ = compiled(make_cell(name, 7), **SIZES, probed=True, **time)
  assert_nothing_is_copied(while_bodies(text))


def assert_nothing_is_copied(bodies):
  for body in bodies:
    assert "dynamic-update-slice" in body
    assert not re.search(r"= \w+\[29,[\d,]+\]\S* copy\(", body)


@pytest.mark.parametrize(
  ("name", "key"),
  [("residual lstm", None), ("zoneout lstm", 5), ("all of a gru", None)],
)
def test_loops_of_wrapped_cells_copy_no_buffers(name, key):
  # In a residual cell no saved value can overwrite the input, because no saved value is computed
  # from it.
  key = None if key is None else jax.random.key(key)
  text, _ = compiled(WRAPPED[name](7), **SIZES | {"input_size": 7}, probed=True, key=key)
  # Copies of other dtypes are allowed, because they occur in the loops that draw random masks.
  assert not any(re.search(r"= (f32|pred)\[29,[\d,]+\]\S* copy\(", b) for b in while_bodies(text))


@pytest.mark.parametrize("sizes", [{"batch_size": 1}, {"hidden_size": 1}], ids="+".join)
def test_loops_over_vectors_copy_no_buffers(sizes):
  cell = make_cell("gru", sizes.get("hidden_size", 7))
  text, _ = compiled(cell, **{**SIZES, **sizes})
  for body in while_bodies(text):
    assert not re.search(r"= \w+\[29,[\d,]+\]\S* copy\(", body)


@pytest.mark.parametrize("name", KINDS)
def test_norms_take_almost_no_memory(name):
  sizes = {"num_steps": 64, "batch_size": 16, "input_size": 32, "hidden_size": 64}
  cell = make_cell(name, 64)
  _, without = compiled(cell, **sizes)
  _, probed = compiled(cell, **sizes, probed=True)
  assert probed < 1.02 * without


def test_the_past_carries_of_a_dilated_cell_are_stored_once():
  sizes = {"num_steps": 64, "batch_size": 16, "input_size": 32, "hidden_size": 64}
  _, alone = compiled(make_cell("elman", 64), **sizes, probed=True)
  _, buffered = compiled(make_cell("dilated_elman", 64, dilation=8), **sizes, probed=True)
  assert buffered < 1.05 * alone


@pytest.mark.parametrize("time", [{}, {"truncation": 10}], ids="+".join)
def test_an_elman_step_stores_its_output_and_a_derivative(time):
  sizes = {"num_steps": 64, "batch_size": 16, "input_size": 32, "hidden_size": 64}
  _, temporaries = compiled(make_cell("elman", 64), **sizes, **time)
  # The bound is 5 % above the size of four float32 arrays [T, B, H]: the outputs, the derivatives,
  # the cotangent of ys, and the outputs shifted by one step.
  assert temporaries < 4.2 * 64 * 16 * 64 * 4


@pytest.mark.parametrize("name", KINDS)
def test_blocks_need_little_memory_beyond_the_outputs(name):
  sizes = {"num_steps": 1024, "batch_size": 4, "input_size": 16, "hidden_size": 32}
  cell = make_cell(name, 32)
  _, blocks = compiled(cell, **sizes, remat="sqrt")
  outputs = 1024 * 4 * 32 * 4
  # The bound is the size of ys, their cotangent, and 24 arrays [√T, B, H] for one block of √T = 32
  # steps.
  assert blocks < 2 * outputs + 24 * outputs / 32
