"""Language models: what they are trained on, how, and what is kept of it."""
