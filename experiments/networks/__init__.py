"""Networks built from flags: cells, their options, and matched hidden sizes."""
