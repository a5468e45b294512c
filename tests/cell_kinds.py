"""Cells that stand for all of them.

What a cell must do is tested for every one in the registry: the contract, the derivative of its
loop, the program that it compiles to. Laws of the code around cells are tested with these.
"""

PLAIN = ("elman", "gru", "lstm")  # h W_h as the only recurrent product
KINDS = (*PLAIN, "lru")  # and a complex carry with an output of its own
