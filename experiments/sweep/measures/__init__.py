"""The measures of gradient flow that a sweep can record in addition to the gradient norms."""
