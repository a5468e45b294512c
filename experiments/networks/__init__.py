"""Networks built from flags: their cells, cell options, and hidden sizes for a parameter budget."""
