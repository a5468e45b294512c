"""The sweep command: trains networks over a grid of settings and records how gradients flow."""
