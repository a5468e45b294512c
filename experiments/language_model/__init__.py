"""The language model command: training on a text, evaluation and sampling."""
