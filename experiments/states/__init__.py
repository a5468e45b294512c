"""The states command: a page that shows what the units of a language model do on a text."""
