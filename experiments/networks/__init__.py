"""Networks built from flags: cells, their options, and matched widths."""
