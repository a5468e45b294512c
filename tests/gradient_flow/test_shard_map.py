"""Tests that under `jax.shard_map` the measures on each device are those of its own examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from rnn_jax.cells import make_cell
from rnn_jax.gradient_flow import (
  jacobian_norm,
  lag_profile,
  lyapunov_spectrum,
  newton_in_time,
  singular_values,
  step_jacobians,
)

CELL = make_cell("lstm", 3)
MEASURES = {
  "jacobian_norm": lambda *layers: jacobian_norm(*layers, key=jax.random.key(0)),
  "lag_profile": lambda *layers: lag_profile(*layers, lambda y: jnp.sum(y**2, axis=-1)),
  "lyapunov_spectrum": lyapunov_spectrum,
  "newton_in_time": lambda *layers: newton_in_time(*layers)[0].residuals,
  "singular_values": singular_values,
  "step_jacobians": step_jacobians,
}


@pytest.mark.parametrize("name", MEASURES)
def test_each_device_measures_its_own_examples(x64, name):
  params = CELL.init(jax.random.key(0), 2)
  xs = jax.random.normal(jax.random.key(1), (4, 2, 2))

  def measure(xs):
    # Move the examples to the first axis, along which `shard_map` concatenates the results.
    at = 0 if name == "lyapunov_spectrum" else 1
    return jax.tree.map(lambda a: jnp.moveaxis(a, at, 0), MEASURES[name]([CELL], [params], xs))

  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(measure, mesh=mesh, in_specs=P(None, "data"), out_specs=P("data"))
  want = [jax.jit(measure)(xs[:, i : i + 1]) for i in range(2)]
  want = jax.tree.map(lambda *parts: jnp.concatenate(parts), *want)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), jax.jit(mapped)(xs), want)
