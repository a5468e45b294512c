"""An array type that is neither JAX's nor NumPy's, shared by tests."""

from __future__ import annotations

import numpy as np


class OtherArray:
  """Imitates an array of another library, such as torch, whose dtype NumPy does not know."""

  dtype = "torch.int64"

  def __init__(self, values):
    self.values = np.asarray(values)
    self.shape, self.ndim = self.values.shape, self.values.ndim

  def __array__(self, dtype=None, copy=None):
    return self.values

  def __repr__(self):
    return f"tensor({self.values.tolist()})"
