"""The time loop: `unroll`, its reverse sweep, and the associative scan."""
