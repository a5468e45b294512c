"""What the page that looks into a language model is made of."""
