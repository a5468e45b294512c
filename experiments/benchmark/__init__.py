"""Times of layers, cells and sweeps, with other libraries alongside."""
