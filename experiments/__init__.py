"""The commands that use `rnn_jax`: sweeps, models of text, the benchmark; see README.md."""
