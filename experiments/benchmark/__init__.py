"""A benchmark of our layers, cells and sweeps against those of other libraries."""
