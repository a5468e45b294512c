"""What all figures share: style and lines."""
